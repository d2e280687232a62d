"""What stands at the entry: boot, attach, check, and the parts of a hand-off that have a report."""

from __future__ import annotations

from pvhdbg.commands.declare import Command, argument, of_command_line
from pvhdbg.commands.formats import FILE_JUDGED, JUDGED
from pvhdbg.commands.tables.shared import DETERMINISTIC, FOR, JUDGE, LOG, NO_RECORDER, ONE_QEMU, PROMPT, SUBJECT, WALK

_ACTIONS = "pvhdbg.commands.handoff"
_EXIT = argument("--exit", action="store_true", help="end GDB with the exit code, for scripts", live=True)

HANDOFF: tuple[Command, ...] = (
    Command(
        "run",
        "start QEMU with a kernel, run to its PVH entry, and report",
        "pvhdbg run vmlinux --append console=ttyS0 --initrd initrd.img -- -device pvpanic",
        f"{_ACTIONS}:run",
        (
            argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one"),
            *ONE_QEMU,
            DETERMINISTIC,
            NO_RECORDER,
            *JUDGE,
            *WALK,
            *PROMPT,
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
            *JUDGE,
            *WALK,
            *PROMPT,
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
        (SUBJECT, *ONE_QEMU, DETERMINISTIC, NO_RECORDER, *JUDGE[:2], *WALK, *PROMPT),
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
            SUBJECT,
            argument("--expect", metavar="FILE", help="a TOML file of additional expectations for this boot", live=False),
            argument(
                "--until",
                metavar="SYMBOL|0xADDRESS|MODE",
                help="run the machine on, to an address or into a mode (protected, paged, pae, "
                "compatibility, long); the check fails when the guest dies first or does not get there in time",
                live=False,
            ),
            *of_command_line(FOR),
            argument(
                "--bisect",
                action="store_true",
                help="exit codes for `git bisect run`: 0 good, 1 bad, 125 where neither was established",
                live=False,
            ),
            _EXIT,
            *ONE_QEMU,
            DETERMINISTIC,
            NO_RECORDER,
            *JUDGE,
            *WALK,
            *LOG,
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
                "--fetch",
                action="store_true",
                help="with --run xen or all: download the release's package of Xen where there is none; it is not installed",
            ),
            argument("--kernel", metavar="ELF", help="the probe.elf that was booted, to judge the file too"),
            *LOG,
            *JUDGE,
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
            *JUDGE,
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
            SUBJECT,
            argument("name", metavar="REGISTER", nargs="*", help="only these", completes="register", live=True),
            argument("--bits", action="store_true", help="a line for each bit that is set, with its meaning"),
            *ONE_QEMU,
            *of_command_line(*WALK),
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
        (SUBJECT, *ONE_QEMU, *WALK),
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
            *ONE_QEMU,
            *(one for one in WALK if one.names[0] in ("--kernel", "--leave", "--timeout", "--via")),
        ),
        passes_on=True,
        live=True,
        live_example="fwcfg",
    ),
)
