"""Each command once: its name, help, example, arguments, and the function that does it.

CLI, REPL, GDB and the Python API use these tables: `COMMANDS` is for the command line, `LIVE` for a session; most commands of a
session are in both. Importing this module loads the declarations only: `action` names the module of a command's function, which is
imported when the command is used.
"""

from __future__ import annotations

from pvhdbg.commands.declare import Argument, Command, argument, of_command_line, prompt_file, prompt_line
from pvhdbg.commands.formats import COMPARED, FILE_JUDGED, JUDGED
from pvhdbg.record import replace

_SUBJECT = argument(
    "subject",
    metavar="SUBJECT",
    help="a kernel file, a gdbstub (:1234, host:1234, unix:PATH, a socket path), a snapshot, an ELF core, or a log of the probe",
    completes="file",
    live=False,
)
_HERE = argument("--here", action="store_true", help="decode the machine's current state, wherever it stopped")
_JUDGE = (
    argument("--spec", choices=("draft-a", "v0", "v1"), help="the revision to judge by (default: v1)"),
    argument("--strict", action="store_true", help="SHOULD violations and known deviations fail too; undecided exits 4"),
    argument(
        "--select",
        action="append",
        metavar="ID,…",
        default=[],
        help="only these rules (a prefix of an id selects all that match)",
        completes="rule",
    ),
    argument("--ignore", action="append", metavar="ID,…", default=[], help="all rules except these", completes="rule"),
)
_WALK = (
    _HERE,
    *of_command_line(
    argument("--kernel", metavar="ELF", help="the kernel file that the machine behind a gdbstub boots"),
    argument("--entry", metavar="ADDRESS|SYMBOL", help="stop here instead of at the entry in the ELF note"),
    argument("--reset", action="store_true", help="reboot the machine to its entry first"),
    argument("--static-only", action="store_true", help="do not boot a kernel file that has no usable PVH note: say why and end"),
    argument("--leave", choices=("running", "stopped", "killed"), help="state to leave the machine in (default: a stub stopped, "
             "a QEMU that was started here killed)"),
    argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="time limit for reaching the entry (default: 30)"),
    argument("--via", choices=("remote", "gdb"), help="talk to the stub directly (the default), or through GDB"),
    argument("--nested", action="store_true", help="the entry of the guest of a hypervisor that runs in the machine (AMD SVM)"),
    ),
)  # fmt: skip
LAUNCH = (
    argument("--append", metavar="STRING", help="the kernel's command line"),
    argument("--initrd", metavar="FILE", help="the ramdisk"),
    argument("--machine", "-M", metavar="TYPE", help="QEMU's machine type (default: QEMU's own)"),
    argument("--memory", "-m", metavar="SIZE", help="guest memory (default: 512M)"),
    argument("--cpus", type=int, metavar="N", help="number of CPUs"),
    argument("--cpu", metavar="MODEL", help="QEMU's CPU model"),
    argument("--accel", choices=("tcg", "kvm", "auto"), help="accelerator (default: tcg)"),
    argument("--qemu", metavar="BINARY", help="the QEMU to start (default: qemu-system-x86_64)"),
)
_QEMU = of_command_line(*LAUNCH)
_DETERMINISTIC = argument(
    "--deterministic",
    action="store_true",
    help="let the instruction counter be the clock: two boots are then the same, and the prompt can go back",
    live=False,
)
_NO_RECORDER = argument("--no-recorder", action="store_true", help="start QEMU without the flight recorder plugin", live=False)
_PROMPT = of_command_line(
    argument(
        "-ex", metavar="LINE", dest="commands", action="append", default=[], type=prompt_line, help="run a line of the prompt"
    ),
    argument("-x", metavar="FILE", dest="commands", action="append", default=[], type=prompt_file, help="run the lines of a file"),
    argument("--batch", action="store_true", help="no prompt, not even on a terminal"),
    argument("--show-gdb", action="store_true", help="print the equivalent GDB commands"),
)
_LOG = of_command_line(
    argument("--vmm", metavar="VMM", help='name and version of the VMM that a probe log was made on, as in "QEMU 7.2.22"'),
)
_SECTIONS = (("judging", _JUDGE), ("QEMU, when a kernel file is booted", _QEMU), ("reaching the entry", _WALK))


def section_of(one: Argument) -> str:
    """The heading that a shared option has in a help text; empty for a command's own option."""
    return next(
        (title for title, shared in _SECTIONS for other in shared if (one.names, one.options) == (other.names, other.options)), ""
    )


_ACTIONS = "pvhdbg.commands.handoff"
_MACHINE = "pvhdbg.commands.machine"
_EXIT = argument("--exit", action="store_true", help="end GDB with the exit code, for scripts", live=True)
_ADDRESS = argument(
    "address", metavar="ADDRESS", nargs="+", help="a number, a $register or a symbol, with + and -", completes="register symbol"
)
_AN_ADDRESS = argument("address", metavar="ADDRESS", nargs="*", help="the same; the pc without one", completes="register symbol")


def _part(name: str, help: str, words: str, *own: Argument, handed_over: bool = False, module: str = _MACHINE) -> Command:
    """A command that shows one part of a machine, on the command line and in a live session; `words` are those of its example.

    In a session, a command for what was `handed_over` shows the state at the entry, and takes `--here`; the others show the current
    state.
    """
    in_session = "" if words == "--here" else words
    return Command(
        name,
        help,
        f"pvhdbg {name} :1234 {words}".strip(),
        f"{module}:{name}",
        (_SUBJECT, *own, *_QEMU, *(_WALK if handed_over else of_command_line(*_WALK)), *_LOG),
        passes_on=True,
        live=True,
        live_example=f"{name.split()[0]} {in_session}".strip(),
    )


_TRACE_ACTIONS = "pvhdbg.commands.trace"
_TRAVEL = "pvhdbg.commands.travel"
_SAVED_ACTIONS = "pvhdbg.commands.saved_trace"
_TRACE = argument("subject", metavar="FILE", help="a saved trace: what `pvhdbg trace -o` wrote")
_MILESTONE = argument(
    "--milestone", action="append", default=[], metavar="SYMBOL|0xADDRESS", help="a milestone of your own", completes="symbol"
)
_ENGINE = argument(
    "--engine",
    choices=("auto", "log", "step", "breakpoints", "first"),
    help="how to trace: QEMU's log "
    "(fast), single steps (any gdbstub), breakpoints at the milestones only, or each block once (for --what calls)",
)
_FOR = argument("--for", dest="seconds", type=float, metavar="SECONDS", help="how long to follow the guest (default: 60)")

_BOOT_FILE = (
    argument("subject", metavar="FILE", help="a recorded boot: what `pvhdbg boot -o` wrote", completes="file"),
    argument("--kernel", metavar="FILE", help="the kernel that was booted, if it is no longer where it was", completes="file"),
)
_CHOSEN = (
    argument("--grep", metavar="REGEX", help="only functions whose name matches"),
    argument("--most", type=int, default=200, metavar="N", help="how many are shown (default: 200)"),
)


def _boot_export(formats: tuple[str, ...], help: str) -> tuple[Argument, ...]:
    """The arguments of an export of a recorded boot."""
    return (
        argument("--as", dest="format_name", choices=formats, help=help),
        argument("-o", "--output", metavar="FILE", help="the file to write; - for standard output", completes="file"),
    )


COMMANDS: tuple[Command, ...] = (
    Command(
        "run",
        "start QEMU with a kernel, run to its PVH entry, and report",
        "pvhdbg run vmlinux --append console=ttyS0 --initrd initrd.img -- -device pvpanic",
        f"{_ACTIONS}:run",
        (
            argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one"),
            *_QEMU,
            _DETERMINISTIC,
            *_JUDGE,
            *_WALK,
            *_PROMPT,
        ),
        formats=JUDGED,
        passes_on=True,
        converses=True,
    ),
    Command(
        "attach",
        "attach to a waiting gdbstub, run to the PVH entry, and report",
        "pvhdbg attach :1234 --kernel vmlinux",
        f"{_ACTIONS}:attach",
        (
            argument("subject", metavar="TARGET", help="a gdbstub: :1234, host:1234, unix:PATH, a socket path"),
            *_JUDGE,
            *_WALK,
            *_PROMPT,
        ),
        formats=JUDGED,
        converses=True,
    ),
    Command(
        "release",
        "clean up a machine that a killed debugger left stopped, slow or with breakpoints",
        "pvhdbg release :1234",
        "pvhdbg.commands.release:release",
        (
            argument("subject", metavar="TARGET", help="a gdbstub: :1234, host:1234, unix:PATH, a socket path"),
            argument("--leave", choices=("running", "stopped"), help="the state to leave the machine in (default: running)"),
            argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="time limit for its answers (default: 10)"),
        ),
        formats=("text",),
    ),
    Command(
        "repl",
        "open the prompt without a report: all commands, and running, breakpoints, memory",
        "pvhdbg repl vmlinux -x boot.pvh -ex regs",
        "pvhdbg.repl.start:repl",
        (_SUBJECT, *_QEMU, _DETERMINISTIC, *_JUDGE[:2], *_WALK, *_PROMPT),
        formats=("text",),
        passes_on=True,
        converses=True,
    ),
    Command(
        "check",
        "judge a hand-off, for scripts: the exit code is the verdict",
        "pvhdbg check vmlinux --machine q35 --strict --format json --output report.json",
        f"{_ACTIONS}:check",
        (
            _SUBJECT,
            argument("--expect", metavar="FILE", help="a TOML file of additional expectations for this boot", live=False),
            argument(
                "--until",
                metavar="SYMBOL|0xADDRESS|MODE",
                help="run the machine on, to an address or into a mode (protected, paged, pae, "
                "compatibility, long); the check fails when the guest dies first or does not get there in time",
                live=False,
            ),
            *of_command_line(_FOR),
            argument(
                "--bisect",
                action="store_true",
                help="exit codes for `git bisect run`: 0 good, 1 bad, 125 where neither was established",
                live=False,
            ),
            _EXIT,
            *_QEMU,
            _DETERMINISTIC,
            *_JUDGE,
            *_WALK,
            *_LOG,
        ),
        formats=JUDGED,
        passes_on=True,
        live=True,
        live_example="check --select PVH-CR0 --strict",
    ),
    Command(
        "probe",
        "judge a hand-off by the sample guest probe: from its log, or by booting it under a VMM",
        "pvhdbg probe --run firecracker --binary ./firecracker --memory 512M",
        "pvhdbg.commands.probing:probe",
        (
            argument("subject", metavar="LOG", nargs="?", help="the logged output of COM1 or port 0xe9; - is standard input"),
            argument("--run", metavar="VMM", help="boot it under this VMM, or under `all` that are here; --list names them"),
            argument(
                "--list", action="store_true", help="which VMMs are here, in which version, and what is missing for the others"
            ),
            argument("--binary", metavar="PATH", help="the VMM's program; for xen the hypervisor, for libkrun the library"),
            argument("--memory", dest="probe_memory", metavar="SIZE", help="the guest's memory (default: 256M)"),
            argument(
                "--initrd", dest="initrds", action="append", default=[], metavar="FILE", help="a ramdisk; xen takes several modules"
            ),
            argument("--append", dest="probe_append", metavar="LINE", help="the guest's command line"),
            argument(
                "--for",
                dest="seconds",
                type=float,
                metavar="SECONDS",
                help="how long a boot may take (default: 30; xen 90, qemu-kvm 60)",
            ),
            argument("--save", metavar="FILE", help="also write the log to this file"),
            argument(
                "--fetch", action="store_true", help="with --run xen: download the release's package of Xen; it is not installed"
            ),
            argument("--kernel", metavar="ELF", help="the probe.elf that was booted, to judge the file too"),
            *_LOG,
            *_JUDGE,
        ),
        formats=JUDGED,
    ),
    Command(
        "elf",
        "inspect a kernel file: its notes and entry, how each loader would boot it, what is wrong",
        "pvhdbg elf vmlinux --as qemu,firecracker",
        "pvhdbg.commands.kernel:elf",
        (
            argument("file", metavar="FILE", help="an ELF kernel, or a bzImage or compressed file that holds one", live=False),
            argument(
                "file", metavar="FILE", nargs="?", help="a kernel file; the machine's without it", completes="file", live=True
            ),
            argument("--as", dest="loaders", action="append", metavar="LOADER,…", default=[], help="only these loaders"),
            argument(
                "--symbol", metavar="NAME|ADDRESS", help="a symbol's addresses, or the symbol at an address, and its source line"
            ),
            argument("--memory", metavar="SIZE", help="the guest's memory: loaders refuse what does not fit into it"),
            argument("--type", metavar="STRUCT", help="the layout of a structure, by the kernel's debug info"),
            *_JUDGE,
        ),
        formats=FILE_JUDGED,
        live=True,
        live_example="elf --symbol pvh_start",
    ),
    Command(
        "regs",
        "show the registers and the hidden segment state at the entry",
        "pvhdbg regs :1234",
        f"{_ACTIONS}:regs",
        (
            _SUBJECT,
            argument("name", metavar="REGISTER", nargs="*", help="only these", completes="register", live=True),
            argument("--bits", action="store_true", help="a line for each bit that is set, with its meaning"),
            *_QEMU,
            *of_command_line(*_WALK),
        ),
        passes_on=True,
        live=True,
        live_example="regs",
    ),
    Command(
        "info",
        "show start_info and everything that it points to",
        "pvhdbg info vmlinux --initrd initrd.img",
        f"{_ACTIONS}:info",
        (_SUBJECT, *_QEMU, *_WALK),
        passes_on=True,
        live=True,
        live_example="info",
    ),
    Command(
        "fwcfg",
        "show QEMU's fw_cfg items for its firmware, next to those expected for the kernel file",
        "pvhdbg fwcfg vmlinux --append console=ttyS0",
        "pvhdbg.commands.fw_cfg:fwcfg",
        (
            argument(
                "subject",
                metavar="SUBJECT",
                help="a kernel file, or a gdbstub (:1234, host:1234, unix:PATH, a socket path)",
                live=False,
            ),
            *_QEMU,
            *(one for one in _WALK if one.names[0] in ("--kernel", "--leave", "--timeout", "--via")),
        ),
        passes_on=True,
        live=True,
        live_example="fwcfg",
    ),
    Command(
        "boot",
        "record a whole boot by the flight recorder, at nearly full speed",
        "pvhdbg boot vmlinux --append console=ttyS0 --deterministic -o boot.pvhboot",
        "pvhdbg.commands.boot:boot",
        (
            argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one", completes="file"),
            argument("-o", "--output", metavar="FILE", help="the file to write", completes="file"),
            argument("--until", metavar="SYMBOL|0xADDRESS", help="where to end (default: when the guest ends, or after --for)"),
            _DETERMINISTIC,
            argument("--max-instructions", type=int, metavar="N", help="end a boot that goes on and on after about N instructions"),
            argument("--flow", action="store_true", help="keep every executed block, in order, for boot blocks"),
            argument("--exact", action="store_true", help="count each instruction; without it numbers are sums over blocks"),
            _FOR,
            *_QEMU,
            *(one for one in _WALK if one.names[0] == "--timeout"),
        ),
        passes_on=True,
    ),
    Command(
        "boot show",
        "show a recorded boot: its chapters, and the functions in the order of their first execution",
        "pvhdbg boot show boot.pvhboot --from start_kernel --grep initcall",
        "pvhdbg.commands.saved_boot:show",
        (
            *_BOOT_FILE,
            *_CHOSEN,
            argument("--tree", action="store_true", help="each function below the one that reached it first"),
            argument("--from", dest="start", metavar="N|FUNCTION", help="only what was first executed there or later"),
            argument("--to", metavar="N|FUNCTION", help="only what was first executed there or before"),
        ),
    ),
    Command(
        "boot profile",
        "show how many instructions each chapter and each function of a recorded boot executed",
        "pvhdbg boot profile boot.pvhboot --as svg -o boot.svg",
        "pvhdbg.commands.saved_boot:show_profile",
        (*_BOOT_FILE, *_CHOSEN, *_boot_export(("folded", "svg"), "folded stacks, or a flame graph")),
    ),
    Command(
        "boot blocks",
        "show which blocks of code were executed, in order, in a boot that was recorded with --flow",
        "pvhdbg boot blocks boot.pvhboot --from start_kernel --most 50",
        "pvhdbg.commands.saved_boot:blocks",
        (
            *_BOOT_FILE,
            argument(
                "--from", dest="start", metavar="N|FUNCTION", help="where to begin (default: with the machine's first instruction)"
            ),
            argument("--most", type=int, default=200, metavar="N", help="how many are shown (default: 200)"),
            argument("--vcpu", type=int, default=0, metavar="N", help="of this CPU (default: 0)"),
        ),
    ),
    Command(
        "boot coverage",
        "show which part of its kernel a recorded boot executed",
        "pvhdbg boot coverage boot.pvhboot --as drcov -o boot.drcov",
        "pvhdbg.commands.saved_boot:coverage",
        (*_BOOT_FILE, *_boot_export(("drcov", "lcov"), "for Lighthouse (drcov), or for genhtml (lcov, which needs debug info)")),
    ),
    Command(
        "boot timeline",
        "write a recorded boot as a time line that can be zoomed",
        "pvhdbg boot timeline boot.pvhboot -o boot.html",
        "pvhdbg.commands.saved_boot:timeline",
        (*_BOOT_FILE, *_boot_export(("html", "perfetto"), "an HTML page (the default), or for Perfetto and Chrome")),
        formats=("text",),
    ),
    Command(
        "boot diff",
        "show where two deterministic boots part; exit code 1 if they do",
        "pvhdbg boot diff vmlinux vmlinux --append console=ttyS0 --b-append consol=ttyS0 --which-option",
        "pvhdbg.commands.boot_diff:diff",
        (
            argument(
                "subject",
                metavar="A",
                help="a kernel, which is booted by the deterministic clock, or a recorded boot",
                completes="file",
            ),
            argument("other", metavar="B", help="another one, or the same with options of its own", completes="file"),
            argument(
                "--until", metavar="SYMBOL|0xADDRESS", help="where the boots end (default: when the guest ends, or after --for)"
            ),
            argument(
                "--which-option",
                action="store_true",
                help="find the option, or the word of the command line, that makes the difference, by more boots",
            ),
            _FOR,
            argument(
                "--kernel", metavar="FILE", help="the kernel of both recordings, if it is no longer where it was", completes="file"
            ),
            *_QEMU,
            *(
                replace(one, names=(f"--b-{one.names[0][2:]}",), options={**one.options, "help": f"B's own {one.names[0]}"})
                for one in _QEMU
            ),
            *(one for one in _WALK if one.names[0] == "--timeout"),
        ),
        passes_on=True,
    ),
    Command(
        "goto",
        "stop a kernel's machine before an exact instruction of its boot, or right after the last store to an address",
        "pvhdbg goto vmlinux start_kernel",
        "pvhdbg.commands.goto:goto",
        (
            argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one", completes="file", live=False),
            argument(
                "place",
                metavar="WHERE",
                help="N or clock:N (an instruction by its number, or by the clock that counts each iteration of a REP), SYMBOL or "
                "0xADDRESS (SYMBOL#K: the K-th time), a mode (paged, pae, compatibility, long), a milestone of trace (lgdt, cr0.pg, idt), "
                "death or death-N (the last instruction before the guest ended, or N before it)",
                completes="symbol mode",
            ),
            argument(
                "--last-write",
                metavar="ADDRESS[:SIZE]",
                help="stop right after the last store before it to this physical address",
                live=False,
            ),
            _FOR,
            *_QEMU,
            *(one for one in _WALK if one.names[0] == "--timeout"),
            *_PROMPT,
        ),
        passes_on=True,
        live=True,
        live_example="goto start_kernel",
        converses=True,
    ),
    Command(
        "timeline",
        "draw a boot: how long it stayed in each mode, and the milestones",
        "pvhdbg timeline boot.jsonl",
        f"{_SAVED_ACTIONS}:timeline",
        (
            argument("subject", metavar="FILE|SUBJECT", help="a saved trace, or a kernel file or gdbstub to trace now"),
            argument("--until", metavar="SYMBOL|0xADDRESS|MODE|N", help="where to end"),
            argument(
                "--milestone",
                action="append",
                default=[],
                metavar="SYMBOL|0xADDRESS|serial:REGEX",
                help="a milestone of your own; serial: is a line that the guest writes to COM1",
            ),
            _FOR,
            *_QEMU,
            *_WALK,
        ),
        passes_on=True,
    ),
    Command(
        "trace query",
        "ask a saved trace: who changed a register, or what happened at a sequence number",
        "pvhdbg trace query boot.jsonl cr0",
        f"{_SAVED_ACTIONS}:query",
        (
            _TRACE,
            argument("what", metavar="REGISTER|N", help="a register (cr0, rsp, cs, gdt_base, idt_limit …), or a sequence number"),
            argument("--around", type=int, default=5, metavar="COUNT", help="instructions to show around N (default: 5)"),
        ),
    ),
    Command(
        "trace diff",
        "compare two saved traces up to where they differ; exit code 1 when they do",
        "pvhdbg trace diff good.jsonl bad.jsonl",
        f"{_SAVED_ACTIONS}:diff",
        (_TRACE, argument("other", metavar="OTHER", help="the saved trace to compare with")),
    ),
    Command(
        "trace export",
        "write a saved trace in another tool's format",
        "pvhdbg trace export boot.jsonl --as perfetto -o boot.json",
        f"{_SAVED_ACTIONS}:export",
        (
            _TRACE,
            argument(
                "--as",
                dest="format_name",
                choices=("perfetto", "tenet", "drcov", "csv", "folded"),
                required=True,
                help="Perfetto and Chrome, Tenet, Lighthouse (drcov), CSV, or folded stacks for a flame graph",
            ),
            argument("-o", "--output", metavar="FILE", required=True, help="the file to write; - for standard output"),
        ),
        formats=("text",),
    ),
    Command(
        "trace",
        "follow the CPU from the entry: every instruction, or the milestones of the boot; or show a saved trace",
        "pvhdbg trace vmlinux --what state --until long -o boot.jsonl",
        f"{_TRACE_ACTIONS}:trace",
        (
            argument("subject", metavar="SUBJECT", help="a kernel file, a gdbstub, or a saved trace", live=False),
            argument(
                "--until",
                metavar="SYMBOL|0xADDRESS|MODE|N|serial:REGEX",
                help="where to end: at an address, in a mode (protected, "
                "paged, pae, compatibility, long), after N instructions, or when the guest has written a line that matches REGEX to COM1",
                completes="symbol mode",
            ),
            argument(
                "--from",
                dest="start",
                metavar="SYMBOL|0xADDRESS|MODE|N",
                help="where to begin: a symbol or address is run to at full "
                "speed, and counting starts there; with a mode or a number of instructions, counting starts at the entry",
                live=False,
            ),
            argument(
                "--filter",
                metavar="SYMBOL|0xFROM-0xTO",
                help="keep only what runs in this function, or at these addresses",
                completes="symbol",
            ),
            argument(
                "--what",
                choices=("milestones", "pc", "state", "calls"),
                default="milestones",
                help="what to show: the steps of the boot, each instruction's address, the same with all that it changed, or each "
                "function when it first runs",
            ),
            _MILESTONE,
            _ENGINE,
            argument(
                "-o", "--output", metavar="FILE", help="write all of it there, as JSON Lines (pvhdbg/trace/1)", completes="file"
            ),
            argument("--tail", type=int, metavar="N", help="keep only the last N events"),
            argument(
                "--on-reset",
                choices=("stop", "go"),
                default="stop",
                help="when the guest resets the machine: end, or go on through the reset vector (default: stop)",
            ),
            argument("--vcpu", type=int, metavar="N", help="the CPU to trace, by QEMU's log or by steps (default: 0)"),
            _NO_RECORDER,
            _FOR,
            *_QEMU,
            _DETERMINISTIC,
            *of_command_line(*_WALK),
        ),
        passes_on=True,
        live=True,
        live_example="trace --what pc --until 20",
    ),
    Command(
        "why",
        "boot, wait for the guest to die, and explain why",
        "pvhdbg why vmlinux --cpu qemu32",
        "pvhdbg.commands.why:why",
        (
            argument("subject", metavar="SUBJECT", help="a kernel file, or a gdbstub", live=False),
            _FOR,
            argument("--vcpu", type=int, metavar="N", help="the CPU to look at, where none is known to have died (default: 0)"),
            argument(
                "--compare-tcg", action="store_true", help="with --accel kvm: boot it under TCG too, which shows faults", live=False
            ),
            *_QEMU,
            _DETERMINISTIC,
            *of_command_line(*_WALK),
            *_PROMPT,
        ),
        passes_on=True,
        live=True,
        live_example="why --for 10",
        converses=True,
    ),
    Command(
        "wait",
        "run a machine from its entry to an address or into a mode; if the guest dies first, explain why at once",
        "pvhdbg wait vmlinux --until start_kernel --for 30",
        "pvhdbg.commands.wait:wait",
        (
            argument("subject", metavar="SUBJECT", help="a kernel file, or a gdbstub"),
            argument(
                "--until",
                metavar="SYMBOL|0xADDRESS|MODE",
                required=True,
                help="what to wait for: exit code 0 when it is reached, 1 when the guest dies first, 3 when the time is up",
            ),
            _FOR,
            *_QEMU,
            _DETERMINISTIC,
            *_WALK,
        ),
        passes_on=True,
    ),
    Command(
        "stress",
        "change what the ABI leaves open, boot, and see which change the guest does not survive",
        "pvhdbg stress vmlinux --until rest_init",
        "pvhdbg.commands.stress:stress",
        (
            argument("subject", metavar="KERNEL", nargs="?", help="an ELF kernel, or a bzImage that holds one"),
            argument("--list", action="store_true", help="list the mutations, with the clause that leaves each open"),
            argument(
                "--until",
                metavar="GOAL",
                help="what the guest has to reach: a symbol, 0xADDRESS, a mode, serial:REGEX or exit:STATUS (default: rest_init)",
            ),
            argument("--for", dest="seconds", type=float, metavar="SECONDS", help="time limit of each boot (default: 30)"),
            argument("--only", action="append", metavar="ID,…", default=[], help="only these mutations"),
            argument("--skip", action="append", metavar="ID,…", default=[], help="all mutations except these"),
            argument(
                "--rounds", type=int, default=0, metavar="N", help="then N random sets of those that it survives (default: 0)"
            ),
            argument("--seed", type=int, default=1, metavar="S", help="the seed of the random sets (default: 1)"),
            argument("--expect", metavar="FILE", help="a file that describes the machine, and allows mutations ([[stress]])"),
            argument("--strict", action="store_true", help="in reports, SHOULD violations of the hand-off fail too"),
            argument("--jobs", "-j", type=int, metavar="N", help="machines that run at the same time (default: one for each CPU)"),
            *_QEMU,
        ),
        formats=JUDGED,
        passes_on=True,
    ),
    Command(
        "snapshot save",
        "save the hand-off to a file that check, regs and info read",
        "pvhdbg snapshot save vmlinux -o boot.pvhsnap",
        "pvhdbg.commands.snapshot:save",
        (
            _SUBJECT,
            argument("-o", "--output", metavar="FILE", required=True, help="the file to write", live=False),
            argument("output", metavar="FILE", help="the file to write", completes="file", live=True),
            argument(
                "--redact",
                action="append",
                metavar="PART",
                choices=("cmdline",),
                default=[],
                help="leave out: cmdline is the command lines, also the VMM's -append",
            ),
            *_QEMU,
            *of_command_line(*_WALK),
            *_LOG,
        ),
        formats=("text",),
        passes_on=True,
        live=True,
        live_example="snapshot save boot.pvhsnap",
    ),
    _part("segments", "show the hidden segment state", ""),
    _part("gdt", "decode the global descriptor table", ""),
    _part("idt", "decode the interrupt descriptor table, or the real mode's vectors", ""),
    _part("tss", "decode the task state segment", ""),
    _part("mode", "show the CPU's mode, and how it was determined", ""),
    _part("modules", "list the modules that were handed over", "", handed_over=True),
    _part("memmap", "draw the memory map that was handed over", "", handed_over=True),
    _part("cmdline", "print the command line that was handed over", "", handed_over=True),
    _part("rsdp", "list the ACPI tables, with the state of their checksums", "", handed_over=True),
    _part("entry", "show where the entry is, how it was found, and where the machine is now", ""),
    _part(
        "pagewalk",
        "walk the page tables for a linear address, and show each level, or list all that they map",
        "$rip",
        replace(_AN_ADDRESS, options={**_AN_ADDRESS.options, "help": "a number, a $register or a symbol, with + and -"}),
        argument("--all", dest="everything", action="store_true", help="the whole address space: ranges of equal rights"),
    ),
    _part(
        "xp",
        "show physical memory, without paging",
        "/8w 0x100000",
        argument("format_", metavar="/FORMAT", nargs="?", help="a count, and b, h, w or g (1, 2, 4 or 8 bytes): /16w"),
        _ADDRESS,
    ),
    _part(
        "disas",
        "disassemble in the CPU's current mode",
        "/5 $rip",
        argument("format_", metavar="/COUNT", nargs="?", help="how many instructions (10)", completes="register symbol"),
        _AN_ADDRESS,
    ),
    _part(
        "symbols",
        "show where the kernel's symbols are now, by name, name* or address",
        "pvh_start*",
        argument("name", metavar="NAME", nargs="?", help="a symbol, a prefix with *, or an address", completes="symbol"),
    ),
    _part("notes", "list the kernel's ELF notes", ""),
    _part("dmesg", "show Linux' log buffer, as it lies in the machine's memory", "--here", module="pvhdbg.commands.dmesg"),
    Command(
        "diff",
        "compare two hand-offs; the exit code says whether they are the same where it matters",
        "pvhdbg diff good.pvhsnap vmlinux --machine q35",
        "pvhdbg.commands.comparing:diff",
        (
            argument("a", metavar="A", help="a kernel file, a gdbstub or a snapshot, as for check", completes="file"),
            argument(
                "b",
                metavar="B",
                help="the same; an option for kernels or gdbstubs only applies to the side that is one",
                live=False,
            ),
            argument(
                "b", metavar="B", nargs="?", help="another; without it this machine is compared with A", completes="file", live=True
            ),
            *_QEMU,
            *_JUDGE,
            *_WALK,
            *_LOG,
        ),
        formats=COMPARED,
        passes_on=True,
        live=True,
        live_example="diff good.pvhsnap",
    ),
    Command(
        "snapshot export",
        "write a snapshot as a plain ELF core, which GDB opens",
        "pvhdbg snapshot export boot.pvhsnap -o boot.core",
        "pvhdbg.commands.snapshot:export",
        (
            argument("file", metavar="FILE", help="a snapshot"),
            argument("-o", "--output", metavar="CORE", required=True, help="the file to write"),
        ),
        formats=("text",),
    ),
    Command(
        "expect",
        "write a first file for check --expect from a snapshot",
        "pvhdbg expect --from boot.pvhsnap -o boot.toml",
        "pvhdbg.commands.expecting:expect",
        (
            argument("--from", dest="source", metavar="SNAPSHOT", required=True, help="a snapshot, or an ELF core"),
            argument("-o", "--output", metavar="FILE", help="the file to write (default: standard output)"),
        ),
        formats=("text",),
    ),
    Command(
        "gdb",
        "start GDB with the command pvh, the kernel's symbols at both aliases, and the machine",
        "pvhdbg gdb vmlinux :1234 -- -ex 'pvh run-to-entry'",
        "pvhdbg.commands.gdb:gdb",
        (
            argument("kernel", metavar="KERNEL", nargs="?", help="the kernel file that the machine boots"),
            argument("target", metavar="TARGET", nargs="?", help="a gdbstub: :1234, host:1234, unix:PATH, a socket path"),
        ),
        formats=("text",),
        passes_on=True,
        passes_to="GDB",
    ),
    Command(
        "gdb-path",
        "print the path of the script that adds the command pvh to GDB",
        "pvhdbg gdb-path",
        "pvhdbg.commands.gdb:gdb_path",
        formats=("text",),
    ),
    Command(
        "extract",
        "write the ELF kernel that is inside a bzImage or a compressed file",
        "pvhdbg extract /boot/vmlinuz -o vmlinux",
        "pvhdbg.commands.kernel:extract",
        (
            argument("image", metavar="BZIMAGE", help="the compressed kernel"),
            argument("-o", "--output", metavar="ELF", required=True, help="the file to write; - for standard output"),
        ),
        formats=("text",),
    ),
    Command(
        "explain",
        "explain a rule: its clause, why it matters, which VMMs are known to violate it",
        "pvhdbg explain PVH-TR-LIMIT",
        "pvhdbg.commands.rules:explain",
        (argument("id", metavar="ID", help="the rule's id", completes="rule"),),
        live=True,
        live_example="explain PVH-TR-LIMIT",
    ),
    Command(
        "completion",
        "print the script with which a shell completes pvhdbg's commands",
        "pvhdbg completion bash",
        "pvhdbg.commands.completion:completion",
        (
            argument("shell", metavar="SHELL", nargs="?", choices=("bash", "zsh", "fish"), help="bash, zsh or fish"),
            argument("--words", action="store_true", help="list what may come next on the line behind --, for these scripts"),
        ),
        formats=("text",),
        passes_on=True,
        passes_to="the completion",
    ),
    Command(
        "drgn",
        "open drgn on a machine, a snapshot or a core, from the entry on: kernel structures by their names",
        "pvhdbg drgn vmlinux --until start_kernel -c 'prog[\"init_task\"].comm'",
        "pvhdbg.drgn:drgn",
        (
            _SUBJECT,
            argument("--until", metavar="SYMBOL", help="run on to this symbol first"),
            _FOR,
            argument(
                "-c",
                dest="code",
                metavar="PYTHON",
                action="append",
                default=[],
                help="a line of Python instead of a prompt; prog is the Program",
            ),
            *_QEMU,
            *_WALK,
        ),
        formats=("text",),
        passes_on=True,
    ),
    Command(
        "mcp",
        "serve the commands to an agent as tools of the Model Context Protocol, on standard input and output",
        "pvhdbg mcp --allow-run",
        "pvhdbg.mcp.server:mcp",
        (
            argument(
                "--allow-run",
                action="store_true",
                help="also start machines and let them run; without it only files are read: kernels, snapshots, traces",
            ),
        ),
        formats=("text",),
    ),
    Command(
        "config",
        "show the settings that hold, and the file or variable that each is from",
        "pvhdbg config",
        "pvhdbg.commands.settings:config",
    ),
    Command(
        "doctor",
        "show what is installed of all that pvhdbg uses, which commands need it, and how to get it",
        "pvhdbg doctor",
        "pvhdbg.commands.doctor:doctor",
    ),
    Command(
        "schema",
        "print the JSON schema of an answer, or list all schemas",
        "pvhdbg schema report",
        "pvhdbg.commands.schema:schema",
        (argument("name", metavar="NAME", nargs="?", help="the name in an answer's field `schema`: report, or pvhdbg/report/1"),),
    ),
    Command("rules", "list all rules", "pvhdbg rules", "pvhdbg.commands.rules:rules", live=True, live_example="rules"),
)

LIVE: tuple[Command, ...] = (
    *(command for command in COMMANDS if command.live),
    Command(
        "milestones",
        "trace the CPU from here, and name each step of the boot: to long mode, to start_kernel",
        "",
        f"{_TRACE_ACTIONS}:milestones_from_here",
        (
            argument("until", metavar="SYMBOL|0xADDRESS|MODE|N", nargs="?", help="where to end", completes="symbol mode"),
            _MILESTONE,
            _ENGINE,
            _FOR,
        ),
        live=True,
        live_example="milestones start_kernel",
    ),
    Command(
        "back",
        "go back to the instruction that ran before, or several before",
        "",
        f"{_TRAVEL}:back",
        (argument("steps", metavar="N", nargs="?", type=int, default=1, help="how many instructions (1)"),),
        formats=("text",),
        live=True,
        live_example="back 3",
        aliases=("reverse-stepi", "rsi"),
        repeats=True,
    ),
    Command(
        "reverse-continue",
        "go back to the last hit of a breakpoint",
        "",
        f"{_TRAVEL}:reverse_continue",
        formats=("text",),
        live=True,
        live_example="reverse-continue",
        aliases=("rc",),
        repeats=True,
    ),
    Command(
        "last-write",
        "go back to right after the last instruction that wrote a register, or memory at a linear address",
        "",
        f"{_TRAVEL}:last_write",
        (
            argument(
                "what",
                metavar="$REGISTER|ADDRESS[:SIZE]",
                nargs="+",
                help="a general register; or a number, a symbol, an expression or *$register: memory there (1 byte)",
                completes="register symbol",
            ),
        ),
        formats=("text",),
        live=True,
        live_example="last-write $rsp",
    ),
    Command(
        "back-to-call",
        "go back to the call that the current function was entered by",
        "",
        f"{_TRAVEL}:back_to_call",
        formats=("text",),
        live=True,
        live_example="back-to-call",
        repeats=True,
    ),
    Command(
        "help",
        "list the commands, or describe one",
        "",
        "pvhdbg.commands.live:help",
        (argument("command", metavar="COMMAND", nargs="*", help="the command", completes="command"),),
        formats=("text",),
        live=True,
        live_example="help check",
    ),
    Command(
        "apropos",
        "list the commands and the rules that mention a word",
        "",
        "pvhdbg.commands.live:apropos",
        (argument("word", metavar="WORD", help="the word"),),
        formats=("text",),
        live=True,
        live_example="apropos paging",
    ),
)
