"""Each verb once: its name, help, example, arguments, and the function that does it.

CLI, REPL, GDB and the Python API mount this table. Importing it costs nothing but the declarations: a verb's function
lives in another module, named by `action`, that is imported when the verb is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pvhdbg.frontends.formats import FILE_JUDGED, JUDGED

if TYPE_CHECKING:
    from pvhdbg.report.style import Style


@dataclass(frozen=True)
class Answer:
    """What a verb returns: how to show it as text, its JSON where it has one, and the exit code that it amounts to.

    `others` are further formats by name; a verb declares all of its names in `formats`.
    """

    text: Callable[[Style], str]
    json: Callable[[], str] | None = None
    exit_code: int = 0
    others: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    def render(self, format: str, style: Style) -> str:
        """The answer in the format of that name; text, when it has no other."""
        if format == "json" and self.json is not None:
            return self.json()
        return self.others[format]() if format in self.others else self.text(style)


@dataclass(frozen=True)
class Request:
    """A verb's arguments by name, and where its progress goes."""

    values: Mapping[str, Any]
    progress: Callable[[str], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return self.values.get(name)


@dataclass(frozen=True)
class Argument:
    """One argument, in argparse's words."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    return Argument(names, MappingProxyType(options))


@dataclass(frozen=True)
class Verb:
    """One verb. `action` is "module:function"; `passes_on` says that words after `--` belong to QEMU."""

    name: str
    help: str
    example: str
    action: str
    arguments: tuple[Argument, ...] = ()
    formats: tuple[str, ...] = ("text", "json")
    passes_on: bool = field(default=False)

    def __call__(self, request: Request) -> Answer:
        module, function = self.action.split(":")
        answer: Answer = getattr(import_module(module), function)(request)
        return answer

_SUBJECT = argument(
    "subject", metavar="SUBJECT", help="a kernel file, a gdbstub (:1234, host:1234, unix:PATH, a socket path), a snapshot, "
    "an ELF core, or a log of the guest probe"
)
_JUDGE = (
    argument("--spec", choices=("draft-a", "v0", "v1"), default="v1", help="the revision to judge by (default: v1)"),
    argument("--strict", action="store_true", help="SHOULD violations and known deviations fail too; undecided exits 4"),
    argument("--select", action="append", metavar="ID,…", default=[], help="only these rules (a prefix will do)"),
    argument("--ignore", action="append", metavar="ID,…", default=[], help="all rules but these"),
)
_WALK = (
    argument("--kernel", metavar="ELF", help="the kernel that a gdbstub's machine was given"),
    argument("--entry", metavar="ADDRESS|SYMBOL", help="where to stop instead of at the noted entry"),
    argument("--here", action="store_true", help="decode the machine as it stands, wherever it is"),
    argument("--reset", action="store_true", help="reboot the machine to its entry first"),
    argument("--leave", choices=("running", "stopped", "killed"), help="how the machine is left (default: a stub stopped, "
             "a QEMU that was started here killed)"),
    argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="how long the entry may take (default: 30)"),
    argument("--via", choices=("remote", "gdb"), default="remote", help="talk to the stub directly, or through GDB"),
)  # fmt: skip
_QEMU = (
    argument("--append", metavar="STRING", help="the kernel's command line"),
    argument("--initrd", metavar="FILE", help="the ramdisk"),
    argument("--machine", "-M", metavar="TYPE", help="QEMU's machine type (default: QEMU's own)"),
    argument("--memory", "-m", metavar="SIZE", help="guest memory (default: 512M)"),
    argument("--cpus", type=int, metavar="N", help="number of CPUs"),
    argument("--cpu", metavar="MODEL", help="QEMU's CPU model"),
    argument("--accel", choices=("tcg", "kvm", "auto"), help="accelerator (default: tcg)"),
    argument("--qemu", metavar="BINARY", help="the QEMU to start (default: qemu-system-x86_64)"),
)
_LOG = (
    argument("--vmm", metavar="VMM", help='name and version of what a probe\'s log was made on, as in "QEMU 7.2.22"'),
)
_ACTIONS = "pvhdbg.frontends.actions"

VERBS: tuple[Verb, ...] = (
    Verb(
        "run",
        "start QEMU with a kernel, run to its PVH entry, and report",
        "pvhdbg run vmlinux --append console=ttyS0 --initrd initrd.img -- -device pvpanic",
        f"{_ACTIONS}:run",
        (argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one"), *_QEMU, *_JUDGE, *_WALK),
        formats=JUDGED,
        passes_on=True,
    ),
    Verb(
        "attach",
        "attach to a waiting gdbstub, run to the PVH entry, and report",
        "pvhdbg attach :1234 --kernel vmlinux",
        f"{_ACTIONS}:attach",
        (argument("subject", metavar="TARGET", help="a gdbstub: :1234, host:1234, unix:PATH, a socket path"), *_JUDGE, *_WALK),
        formats=JUDGED,
    ),
    Verb(
        "check",
        "judge a hand-off, for scripts: the exit code is the verdict",
        "pvhdbg check vmlinux --machine q35 --strict --format json --output report.json",
        f"{_ACTIONS}:check",
        (
            _SUBJECT,
            argument("--expect", metavar="FILE", help="a TOML file of what this boot has to be besides"),
            *_QEMU,
            *_JUDGE,
            *_WALK,
            *_LOG,
        ),
        formats=JUDGED,
        passes_on=True,
    ),
    Verb(
        "probe",
        "judge a hand-off by what the sample guest probe printed of it, on any VMM",
        "pvhdbg probe serial.log --format json",
        f"{_ACTIONS}:probe",
        (
            argument("subject", metavar="LOG", help="what was logged of COM1 or port 0xe9; - is standard input"),
            argument("--kernel", metavar="ELF", help="the probe.elf that was booted, to judge the file too"),
            *_LOG,
            *_JUDGE,
        ),
        formats=JUDGED,
    ),
    Verb(
        "elf",
        "look into a kernel file: its notes and entry, how each loader would boot it, what is wrong",
        "pvhdbg elf vmlinux --as qemu,firecracker",
        "pvhdbg.frontends.kernel_actions:elf",
        (
            argument("file", metavar="FILE", help="an ELF kernel, or a bzImage or compressed file that holds one"),
            argument("--as", action="append", metavar="LOADER,…", default=[], help="only these loaders"),
            argument("--symbol", metavar="NAME|ADDRESS", help="a symbol's addresses, or the symbol at an address, and its source line"),
            argument("--type", metavar="STRUCT", help="the layout of a structure, by the kernel's debug info"),
            *_JUDGE,
        ),
        formats=FILE_JUDGED,
    ),
    Verb(
        "regs",
        "show the registers and the hidden segment state at the entry",
        "pvhdbg regs :1234",
        f"{_ACTIONS}:regs",
        (_SUBJECT, *_QEMU, *_WALK),
        passes_on=True,
    ),
    Verb(
        "info",
        "show start_info and everything that it points to",
        "pvhdbg info vmlinux --initrd initrd.img",
        f"{_ACTIONS}:info",
        (_SUBJECT, *_QEMU, *_WALK),
        passes_on=True,
    ),
    Verb(
        "fwcfg",
        "show what QEMU left for its firmware, beside what was to be expected of the kernel file",
        "pvhdbg fwcfg vmlinux --append console=ttyS0",
        "pvhdbg.frontends.fw_cfg_action:fwcfg",
        (
            argument("subject", metavar="SUBJECT", help="a kernel file, or a gdbstub (:1234, host:1234, unix:PATH, a socket path)"),
            *_QEMU,
            *(one for one in _WALK if one.names[0] in ("--kernel", "--leave", "--timeout", "--via")),
        ),
        passes_on=True,
    ),
    Verb(
        "snapshot save",
        "save what was handed over to a file that check, regs and info read",
        "pvhdbg snapshot save vmlinux -o boot.pvhsnap",
        "pvhdbg.frontends.snapshot_actions:save",
        (
            _SUBJECT,
            argument("-o", "--output", metavar="FILE", required=True, help="the file to write"),
            argument("--redact", action="append", metavar="PART", choices=("cmdline",), default=[],
                     help="leave out: cmdline is the command lines, also the VMM's -append"),
            *_QEMU,
            *_WALK,
            *_LOG,
        ),
        formats=("text",),
        passes_on=True,
    ),
    Verb(
        "diff",
        "compare what two machines were handed: the exit code says whether it is the same where it matters",
        "pvhdbg diff good.pvhsnap vmlinux --machine q35",
        "pvhdbg.frontends.comparing:diff",
        (
            argument("a", metavar="A", help="a kernel file, a gdbstub or a snapshot, as for check"),
            argument("b", metavar="B", help="another; options that only a kernel or a gdbstub takes go to the side that is one"),
            *_QEMU,
            *_JUDGE,
            *_WALK,
            *_LOG,
        ),
        passes_on=True,
    ),
    Verb(
        "snapshot export",
        "write a snapshot as a plain ELF core, which GDB opens",
        "pvhdbg snapshot export boot.pvhsnap -o boot.core",
        "pvhdbg.frontends.snapshot_actions:export",
        (
            argument("file", metavar="FILE", help="a snapshot"),
            argument("-o", "--output", metavar="CORE", required=True, help="the file to write"),
        ),
        formats=("text",),
    ),
    Verb(
        "expect",
        "write a first file for check --expect from what a snapshot holds",
        "pvhdbg expect --from boot.pvhsnap -o boot.toml",
        "pvhdbg.frontends.expecting:expect",
        (
            argument("--from", dest="source", metavar="SNAPSHOT", required=True, help="a snapshot, or an ELF core"),
            argument("-o", "--output", metavar="FILE", help="the file to write (default: standard output)"),
        ),
        formats=("text",),
    ),
    Verb(
        "extract",
        "write the ELF kernel that is inside a bzImage or a compressed file",
        "pvhdbg extract /boot/vmlinuz -o vmlinux",
        f"{_ACTIONS}:extract",
        (
            argument("image", metavar="BZIMAGE", help="the compressed kernel"),
            argument("-o", "--output", metavar="ELF", required=True, help="the file to write"),
        ),
        formats=("text",),
    ),
    Verb(
        "explain",
        "explain a rule: its clause, why it matters, who is known to violate it",
        "pvhdbg explain PVH-TR-LIMIT",
        f"{_ACTIONS}:explain",
        (argument("id", metavar="ID", help="the rule's id"),),
    ),
    Verb("rules", "list all rules", "pvhdbg rules", f"{_ACTIONS}:rules"),
)
