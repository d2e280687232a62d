"""Arguments that commands of several groups share."""

from __future__ import annotations

from pvhdbg.commands.declare import Argument, argument, of_command_line, prompt_file, prompt_line

SUBJECT = argument(
    "subject",
    metavar="SUBJECT",
    help="a kernel file, a gdbstub (:1234, host:1234, unix:PATH, a socket path), a snapshot, an ELF core, or a log of the probe",
    completes="file",
    live=False,
)
HERE = argument("--here", action="store_true", help="decode the machine's current state, wherever it stopped")
JUDGE = (
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
WALK = (
    HERE,
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
QEMU = of_command_line(*LAUNCH)
SERIAL = argument(
    "--serial",
    metavar="FILE",
    live=False,
    completes="file",
    help="keep what COM1 writes in this file, also where a -serial behind -- sends it elsewhere; each boot begins it anew",
)
ONE_QEMU = (*QEMU, SERIAL)
NO_RECORDER = argument(
    "--no-recorder",
    action="store_true",
    help="start QEMU without the flight recorder plugin, which counts and shows what ran",
    live=False,
)
DETERMINISTIC = argument(
    "--deterministic",
    action="store_true",
    help="let the instruction counter be the clock: two boots are then the same, and the prompt can go back",
    live=False,
)
PROMPT = of_command_line(
    argument(
        "-ex", metavar="LINE", dest="commands", action="append", default=[], type=prompt_line, help="run a line of the prompt"
    ),
    argument("-x", metavar="FILE", dest="commands", action="append", default=[], type=prompt_file, help="run the lines of a file"),
    argument("--batch", action="store_true", help="no prompt, not even on a terminal"),
    argument("--show-gdb", action="store_true", help="print the equivalent GDB commands"),
)
LOG = of_command_line(
    argument("--vmm", metavar="VMM", help='name and version of the VMM that a probe log was made on, as in "QEMU 7.2.22"'),
)
FOR = argument("--for", dest="seconds", type=float, metavar="SECONDS", help="how long to follow the guest (default: 60)")
_SECTIONS = (("judging", JUDGE), ("QEMU, when a kernel file is booted", ONE_QEMU), ("reaching the entry", WALK))


def section_of(one: Argument) -> str:
    """The heading that a shared option has in a help text; empty for a command's own option."""
    return next(
        (title for title, shared in _SECTIONS for other in shared if (one.names, one.options) == (other.names, other.options)), ""
    )
