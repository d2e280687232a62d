"""Traces, and what a boot came to: why, wait."""

from __future__ import annotations

from pvhdbg.commands.declare import Command, argument, of_command_line
from pvhdbg.commands.tables.shared import DETERMINISTIC, FOR, NO_RECORDER, ONE_QEMU, PROMPT, WALK

_TRACE_ACTIONS = "pvhdbg.commands.trace"
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

TRACES: tuple[Command, ...] = (
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
            FOR,
            *ONE_QEMU,
            *WALK,
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
            NO_RECORDER,
            FOR,
            *ONE_QEMU,
            DETERMINISTIC,
            *of_command_line(*WALK),
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
            argument(
                "subject",
                metavar="SUBJECT",
                help="a kernel file, a gdbstub, or what is left of a machine: a core or a snapshot",
                live=False,
            ),
            FOR,
            argument("--vcpu", type=int, metavar="N", help="the CPU to look at, where none is known to have died (default: 0)"),
            argument(
                "--compare-tcg", action="store_true", help="with --accel kvm: boot it under TCG too, which shows faults", live=False
            ),
            *ONE_QEMU,
            DETERMINISTIC,
            NO_RECORDER,
            *of_command_line(*WALK),
            *PROMPT,
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
            FOR,
            *ONE_QEMU,
            DETERMINISTIC,
            NO_RECORDER,
            *WALK,
        ),
        passes_on=True,
    ),
)

IN_SESSION: tuple[Command, ...] = (
    Command(
        "milestones",
        "trace the CPU from here, and name each step of the boot: to long mode, to start_kernel",
        "",
        f"{_TRACE_ACTIONS}:milestones_from_here",
        (
            argument("until", metavar="SYMBOL|0xADDRESS|MODE|N", nargs="?", help="where to end", completes="symbol mode"),
            _MILESTONE,
            _ENGINE,
            FOR,
        ),
        live=True,
        live_example="milestones start_kernel",
    ),
)
