"""Recorded boots, and a machine at an exact instruction."""

from __future__ import annotations

from pvhdbg.commands.declare import Argument, Command, argument
from pvhdbg.commands.tables.shared import DETERMINISTIC, FOR, ONE_QEMU, PROMPT, QEMU, WALK
from pvhdbg.record import replace

_TRAVEL = "pvhdbg.commands.travel"
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


RECORDED: tuple[Command, ...] = (
    Command(
        "boot",
        "record a whole boot by the flight recorder, at nearly full speed",
        "pvhdbg boot vmlinux --append console=ttyS0 --deterministic -o boot.pvhboot",
        "pvhdbg.commands.boot:boot",
        (
            argument("subject", metavar="KERNEL", help="an ELF kernel, or a bzImage that holds one", completes="file"),
            argument("-o", "--output", metavar="FILE", help="the file to write", completes="file"),
            argument("--until", metavar="SYMBOL|0xADDRESS", help="where to end (default: when the guest ends, or after --for)"),
            DETERMINISTIC,
            argument("--max-instructions", type=int, metavar="N", help="end a boot that goes on and on after about N instructions"),
            argument("--flow", action="store_true", help="keep every executed block, in order, for boot blocks"),
            argument("--exact", action="store_true", help="count each instruction; without it numbers are sums over blocks"),
            FOR,
            *ONE_QEMU,
            *(one for one in WALK if one.names[0] == "--timeout"),
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
        "pvhdbg boot profile boot.pvhboot --chapter initcalls --as svg -o boot.svg",
        "pvhdbg.commands.saved_boot:show_profile",
        (
            *_BOOT_FILE,
            *_CHOSEN,
            argument("--chapter", metavar="NAME|all", help="the functions of this chapter, or of each one"),
            *_boot_export(("folded", "svg"), "folded stacks, or a flame graph"),
        ),
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
            FOR,
            argument(
                "--kernel", metavar="FILE", help="the kernel of both recordings, if it is no longer where it was", completes="file"
            ),
            *QEMU,
            *(
                replace(one, names=(f"--b-{one.names[0][2:]}",), options={**one.options, "help": f"B's own {one.names[0]}"})
                for one in QEMU
            ),
            *(one for one in WALK if one.names[0] == "--timeout"),
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
            FOR,
            *ONE_QEMU,
            *(one for one in WALK if one.names[0] == "--timeout"),
            *PROMPT,
        ),
        passes_on=True,
        live=True,
        live_example="goto start_kernel",
        converses=True,
    ),
)

IN_SESSION: tuple[Command, ...] = (
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
)
