"""The commands as Python functions: each takes a subject and the command's options by their long names.

A subject is a kernel file, a gdbstub's address, a snapshot, an ELF core, or a probe's log. An unknown option is a TypeError
that names the nearest one. PvhdbgError is raised where the command would exit with 2 or 3. What a function returns is what the
command's text and JSON are made of, typed.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pvhdbg.arguments import (
    BootArguments,
    BootDiffArguments,
    CheckArguments,
    DiffArguments,
    ElfArguments,
    FollowArguments,
    GotoArguments,
    Path,
    ProbeArguments,
    ProbeRunArguments,
    StressArguments,
    SubjectArguments,
    SweepArguments,
    TimelineArguments,
    TraceFileArguments,
    refuse_unknown,
    subject_of,
    values_of,
)
from pvhdbg.booted import Guest
from pvhdbg.booted import at_entry as guest_at_entry
from pvhdbg.commands.declare import Context, options_of
from pvhdbg.commands.options import WaitOptions
from pvhdbg.commands.table import COMMANDS
from pvhdbg.decode.boot_state import BootState, Module, Text, Unread
from pvhdbg.driver.options import time_limit
from pvhdbg.errors import TargetError
from pvhdbg.model import Registers, Segments, Unavailable
from pvhdbg.report.answers import boots, cpu, handoff, memory, stress, sweep, tool, traces
from pvhdbg.report.document import Report
from pvhdbg.report.kernel_document import FileReport
from pvhdbg.rules.declare import Rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pvhdbg.commands.fw_cfg import Row
    from pvhdbg.commands.goto import Position
    from pvhdbg.commands.wait import Waited
    from pvhdbg.driver.death_watch import Diagnosis
    from pvhdbg.report.diff import Comparison
    from pvhdbg.spec.start_info import MemoryMapEntry
    from pvhdbg.tracing.event import Event, Fault

T = TypeVar("T")
# Functions whose command has another name; all others are named as theirs, with _ between its words.
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "launch": "run",
        "connect": "attach",
        "pagemap": "pagewalk",
        "expect_file": "expect",
        "probe_run": "probe",
        "stress_kernel": "stress",
        "sweep_boots": "sweep",
        "trace_save": "trace",
    }
)


def check(subject: Path, **options: Unpack[CheckArguments]) -> Report:
    """Bring the subject to its entry and judge the hand-off; with `until` or `expect` also the run after it.

    `check("vmlinux", machine="q35", append="console=ttyS0", spec="v0", strict=True, select=["PVH"])`.
    """
    from pvhdbg.commands.handoff import CheckOptions, judged

    values = {**values_of("check", CheckArguments, options), "subject": str(subject)}
    return judged(options_of(CheckOptions, values), Context())


def wait(subject: Path, until: str, **options: Unpack[FollowArguments]) -> Waited:
    """Run the subject from its entry to a symbol, "0xADDRESS" or a mode, or to its death, which is explained.

    The result says which came first: `reached`, `died`, or neither within `seconds` (60).
    """
    from pvhdbg.commands.wait import run_on

    about = subject_of("wait", subject, FollowArguments, options)
    return run_on(about, WaitOptions(until, options.get("seconds")), lambda _: None)[1]


def why(subject: Path, **options: Unpack[FollowArguments]) -> Diagnosis:
    """Boot the subject, wait for the guest's death for at most `seconds` (60), and explain it."""
    from pvhdbg.driver.death_watch import diagnosed
    from pvhdbg.driver.traced_machine import at_entry

    about, limit = subject_of("why", subject, FollowArguments, options), time_limit(options.get("seconds"))
    with at_entry(about, watched=True, debugcon=True) as machine:
        return diagnosed(machine, limit)


def trace(
    subject: Path,
    *,
    until: str | int | None = None,
    count: int | None = None,
    states: bool = False,
    seconds: float = 30.0,
    **options: Unpack[SubjectArguments],
) -> Generator[Event | Fault, None, None]:
    """The instructions from the entry on, one by one, and the faults between them. The machine is released when the iteration ends.

    `until` is a symbol, a linear address or a mode, `count` a number of instructions; `states` asks for what each instruction
    changed (`event.changes`). `close()` ends it early.
    """
    about = subject_of("trace", subject, SubjectArguments, options)

    def events() -> Generator[Event | Fault, None, None]:
        with guest_at_entry(about) as guest, guest.trace(until, count=count, states=states, timeout=seconds) as found:
            yield from found

    return events()


def diff(a: Path, b: Path, **options: Unpack[DiffArguments]) -> Comparison:
    """Bring two subjects to their entry, one after the other, and compare what they were handed."""
    from pvhdbg.commands.comparing import DiffOptions, compared

    values = {**values_of("diff", DiffArguments, options), "a": str(a), "b": str(b)}
    return compared(options_of(DiffOptions, values), Context())


# --- one part of a machine --------------------------------------------------------------------------------------------
#
# The subject is as for `check`, or a Guest, which is shown as it is now. What was not observed is a TargetError.


def regs(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> Registers:
    """The registers."""
    return _part("regs", Registers, subject, options)


def segments(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> Segments:
    """The segment registers with their hidden state."""
    return _part("segments", Segments, subject, options)


def info(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> BootState:
    """Everything that was handed over, decoded: `info(...).start_info.command_line`."""
    return _part("info", BootState, subject, options)


def modules(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> tuple[Module, ...]:
    """The modules that were handed over."""
    found: tuple[Module, ...] = _part("modules", tuple, subject, options)
    return found


def memmap(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> tuple[MemoryMapEntry, ...]:
    """The memory map that was handed over; empty where there is none, as with version 0 of start_info."""
    found: tuple[MemoryMapEntry, ...] = _part("memmap", tuple, subject, options)
    return found


def cmdline(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> str | None:
    """The command line that was handed over; None where start_info has none."""
    found = _part("cmdline", object, subject, options)
    return str(found) if isinstance(found, Text) else None


def rsdp(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> handoff.AcpiTablesAnswer:
    """The ACPI root and the tables that it lists, with the state of their checksums."""
    return _part("rsdp", handoff.AcpiTablesAnswer, subject, options)


def gdt(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> cpu.GdtAnswer:
    """The global descriptor table."""
    return _part("gdt", cpu.GdtAnswer, subject, options)


def idt(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> cpu.IdtAnswer:
    """The interrupt descriptor table, or the real mode's vectors."""
    return _part("idt", cpu.IdtAnswer, subject, options)


def tss(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> cpu.TssAnswer:
    """The task state segment."""
    return _part("tss", cpu.TssAnswer, subject, options)


def mode(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> cpu.ModeAnswer:
    """The CPU's mode, and the bits that it follows from."""
    return _part("mode", cpu.ModeAnswer, subject, options)


def entry(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> memory.EntryAnswer:
    """Where the entry is, how it was found, and how far the kernel was moved."""
    return _part("entry", memory.EntryAnswer, subject, options)


def pagewalk(subject: Path | Guest, address: str | int, **options: Unpack[SubjectArguments]) -> memory.PageWalkAnswer:
    """The levels of the page tables for a linear address: a number, or words as in "$rip" and "start_kernel+4"."""
    return _part("pagewalk", memory.PageWalkAnswer, subject, options, address=_words(address))


def pagemap(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> memory.PageRangesAnswer:
    """All that the page tables map, as ranges of equal rights (`pvhdbg pagewalk --all`)."""
    return _part("pagewalk", memory.PageRangesAnswer, subject, options, everything=True)


def xp(
    subject: Path | Guest, address: str | int, count: int = 16, unit: Literal[1, 2, 4, 8] = 4, **options: Unpack[SubjectArguments]
) -> memory.MemoryAnswer:
    """Physical memory: `count` values of `unit` bytes."""
    words = {1: "b", 2: "h", 4: "w", 8: "g"}
    return _part("xp", memory.MemoryAnswer, subject, options, address=_words(address), format_=f"/{count}{words[unit]}")


def disas(
    subject: Path | Guest, address: str | int = "$rip", count: int = 10, **options: Unpack[SubjectArguments]
) -> memory.DisassemblyAnswer:
    """Instructions in the CPU's current mode."""
    return _part("disas", memory.DisassemblyAnswer, subject, options, address=_words(address), format_=f"/{count}")


def symbols(subject: Path | Guest, name: str | int | None = None, **options: Unpack[SubjectArguments]) -> memory.SymbolsAnswer:
    """Where the kernel's symbols are now: one by its name, several by a prefix with *, or the one at an address."""
    wanted = hex(name) if isinstance(name, int) else name
    return _part("symbols", memory.SymbolsAnswer, subject, options, name=wanted)


def notes(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> memory.NotesAnswer:
    """The kernel's ELF notes."""
    return _part("notes", memory.NotesAnswer, subject, options)


def dmesg(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> memory.LogAnswer:
    """Linux' log buffer, as it lies in memory."""
    return _part("dmesg", memory.LogAnswer, subject, options)


def fwcfg(subject: Path | Guest, **options: Unpack[SubjectArguments]) -> tuple[Row, ...]:
    """QEMU's fw_cfg items, next to those that are expected for the kernel file."""
    found: tuple[Row, ...] = _part("fwcfg", tuple, subject, options)
    return found


def snapshot_save(
    subject: Path | Guest, output: Path, *, redact: Sequence[Literal["cmdline"]] = (), **options: Unpack[SubjectArguments]
) -> None:
    """Save the hand-off, or a guest as it is now, to a file that `check`, `load` and `diff` read."""
    _part("snapshot save", type(None), subject, options, output=os.fspath(output), redact=tuple(redact))


# --- files ----------------------------------------------------------------------------------------------------------


def elf(file: Path, **options: Unpack[ElfArguments]) -> FileReport:
    """A kernel file: its notes and entry, how each loader would boot it, and what is wrong."""
    return _value("elf", FileReport, {**values_of("elf", ElfArguments, options), "file": os.fspath(file)})


def extract(image: Path, output: Path) -> None:
    """Write the ELF kernel that is inside a bzImage or a compressed file."""
    _value("extract", type(None), {"image": os.fspath(image), "output": os.fspath(output)})


def snapshot_export(file: Path, output: Path) -> None:
    """Write a snapshot as a plain ELF core, which GDB opens."""
    _value("snapshot export", type(None), {"file": os.fspath(file), "output": os.fspath(output)})


def expect_file(snapshot: Path, output: Path) -> None:
    """Write a first file for `check(..., expect=FILE)` from a snapshot or a core."""
    _value("expect", type(None), {"source": os.fspath(snapshot), "output": os.fspath(output)})


def probe(log: Path, **options: Unpack[ProbeArguments]) -> Report:
    """Judge a hand-off by the log of the sample guest probe."""
    return _value("probe", Report, {**values_of("probe", ProbeArguments, options), "subject": os.fspath(log)})


# --- VMMs, and what is installed -----------------------------------------------------------------------------------


def probe_run(vmm: str, **options: Unpack[ProbeRunArguments]) -> Report:
    """Boot the probe under a VMM that is here (its names: `pvhdbg probe --list`), and judge what it was handed."""
    values = values_of("probe_run", ProbeRunArguments, options)
    renamed = {f"probe_{name}" if name in ("memory", "append") else name: value for name, value in values.items()}
    return _value("probe", Report, {**renamed, "run": vmm})


def doctor() -> tool.DoctorAnswer:
    """What is installed of all that pvhdbg uses, which commands need it, and how to get it."""
    return _value("doctor", tool.DoctorAnswer, {})


def explain(id: str) -> Rule:
    """The rule of that id. Raises BadInput where there is none."""
    return _value("explain", Rule, {"id": id})


def release(stub: str, *, leave: Literal["running", "stopped"] = "running", timeout: float = 10.0) -> tuple[str, ...]:
    """Clean up a machine that a killed debugger left stopped, slow or with breakpoints. Returns what was done."""
    found: tuple[str, ...] = _value("release", tuple, {"subject": stub, "leave": leave, "timeout": timeout})
    return found


# --- recorded boots, and other boots ---------------------------------------------------------------------------------


def boot(kernel: Path, output: Path, **options: Unpack[BootArguments]) -> boots.BootAnswer:
    """Record a whole boot by the flight recorder, into a file for the functions that begin with `boot_`."""
    values = values_of("boot", BootArguments, options)
    return _value("boot", boots.BootAnswer, {**values, "subject": os.fspath(kernel), "output": os.fspath(output)})


def boot_show(
    file: Path,
    *,
    grep: str | None = None,
    start: str | None = None,
    to: str | None = None,
    most: int = 200,
    kernel: Path | None = None,
) -> boots.BootFunctionsAnswer:
    """A recorded boot: its chapters, and its functions in the order of their first execution. `start` and `to` are numbers or names."""
    return _boot_file("boot show", boots.BootFunctionsAnswer, file, kernel, grep=grep, start=start, to=to, most=most)


def boot_profile(
    file: Path, *, chapter: str | None = None, grep: str | None = None, most: int = 200, kernel: Path | None = None
) -> boots.BootProfileAnswer:
    """How many instructions each chapter and each function of a recorded boot executed; also within one `chapter`, or "all"."""
    return _boot_file("boot profile", boots.BootProfileAnswer, file, kernel, chapter=chapter, grep=grep, most=most)


def boot_coverage(file: Path, *, kernel: Path | None = None) -> boots.BootCoverageAnswer:
    """Which part of its kernel a recorded boot executed."""
    return _boot_file("boot coverage", boots.BootCoverageAnswer, file, kernel)


def boot_blocks(
    file: Path, *, start: str | None = None, most: int = 200, vcpu: int = 0, kernel: Path | None = None
) -> boots.BootBlocksAnswer:
    """The blocks that a CPU executed, in order, of a boot that was recorded with `flow`."""
    return _boot_file("boot blocks", boots.BootBlocksAnswer, file, kernel, start=start, most=most, vcpu=vcpu)


def boot_timeline(file: Path, output: Path, *, format: Literal["html", "perfetto"] = "html", kernel: Path | None = None) -> None:
    """Write a recorded boot as a time line that can be zoomed."""
    _boot_file("boot timeline", type(None), file, kernel, output=os.fspath(output), format_name=format)


def boot_diff(a: Path, b: Path, **options: Unpack[BootDiffArguments]) -> boots.BootDiffAnswer:
    """Where two deterministic boots part. Kernels are booted now, recordings are read."""
    values = values_of("boot_diff", BootDiffArguments, options)
    return _value("boot diff", boots.BootDiffAnswer, {**values, "subject": os.fspath(a), "other": os.fspath(b)})


def goto(kernel: Path, place: str | int, **options: Unpack[GotoArguments]) -> Position:
    """Run a kernel to just before an instruction (its number, a symbol, a mode, a milestone), and read the machine there."""
    from pvhdbg.commands.goto import Position

    values = values_of("goto", GotoArguments, options)
    return _value("goto", Position, {**values, "subject": os.fspath(kernel), "place": str(place)})


def stress_kernel(kernel: Path, **options: Unpack[StressArguments]) -> stress.StressAnswer:
    """Boot a kernel with each thing changed that the ABI leaves open, and say which change it does not survive (`pvhdbg stress`)."""
    return _value(
        "stress", stress.StressAnswer, {**values_of("stress_kernel", StressArguments, options), "subject": os.fspath(kernel)}
    )


def sweep_boots(output: Path, plan: Path | None = None, **options: Unpack[SweepArguments]) -> sweep.SweepMadeAnswer:
    """Boot and judge every combination of the axes, of a plan's file and of the options, into a file of sweeps (`pvhdbg sweep`)."""
    refuse_unknown("sweep_boots", options, SweepArguments.__annotations__)
    axes = {name: [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value] if isinstance(value, (list, tuple)) else value
            for name, value in options.items()}  # fmt: skip
    return _value(
        "sweep", sweep.SweepMadeAnswer, {**axes, "output": os.fspath(output), "plan": None if plan is None else os.fspath(plan)}
    )


def sweep_diff(file: Path, a: int, b: int) -> sweep.SweepDiffAnswer:
    """Which cells changed between two runs of a file of sweeps, by their numbers; -1 is the last run."""
    return _value("sweep diff", sweep.SweepDiffAnswer, {"db": os.fspath(file), "a": str(a), "b": str(b)})


def sweep_query(file: Path, sql: str, *, most: int = 1000) -> sweep.SweepQueryAnswer:
    """The rows of one SELECT on a file of sweeps; the views `cells` and `verdicts` have a row for each of them."""
    return _value("sweep query", sweep.SweepQueryAnswer, {"db": os.fspath(file), "sql": sql, "most": most})


def sweep_export(file: Path, output: Path, *, run: int = -1, format: Literal["jsonl", "junit"] = "jsonl") -> None:
    """Write a run of a file of sweeps as JSON Lines, or as JUnit XML."""
    values = {"db": os.fspath(file), "run": str(run), "format_name": format, "output": os.fspath(output)}
    _value("sweep export", type(None), values)


# --- saved traces -----------------------------------------------------------------------------------------------------


def trace_save(subject: Path, output: Path, **options: Unpack[TraceFileArguments]) -> None:
    """Follow the CPU from the entry, and write the trace (JSON Lines) for the functions that begin with `trace_` (`pvhdbg trace -o`)."""
    values = values_of("trace_save", TraceFileArguments, options)
    _value("trace", type(None), {**values, "subject": os.fspath(subject), "output": os.fspath(output)})


def trace_query(file: Path, what: str | int, *, around: int = 5) -> traces.TraceQueryAnswer:
    """Who changed a register, or what happened around a sequence number."""
    return _value("trace query", traces.TraceQueryAnswer, {"subject": os.fspath(file), "what": str(what), "around": around})


def trace_diff(a: Path, b: Path) -> traces.TraceDiffAnswer:
    """Where two saved traces part."""
    return _value("trace diff", traces.TraceDiffAnswer, {"subject": os.fspath(a), "other": os.fspath(b)})


def trace_export(file: Path, output: Path, format: Literal["perfetto", "tenet", "drcov", "csv", "folded"]) -> None:
    """Write a saved trace in another tool's format."""
    _value("trace export", type(None), {"subject": os.fspath(file), "output": os.fspath(output), "format_name": format})


def timeline(subject: Path, **options: Unpack[TimelineArguments]) -> traces.TimelineAnswer:
    """How long a boot stayed in each mode, and its milestones; of a saved trace, or of a subject that is traced now."""
    return _value(
        "timeline", traces.TimelineAnswer, {**values_of("timeline", TimelineArguments, options), "subject": os.fspath(subject)}
    )


# --- how a function runs its command ------------------------------------------------------------------------------------


def _part(name: str, kind: type[T], subject: Path | Guest, options: Any, /, **own: Any) -> T:
    function = name.replace(" ", "_")
    values = values_of(function, SubjectArguments, options)
    if not isinstance(subject, Guest):
        return _value(name, kind, {**values, **own, "subject": os.fspath(subject)})
    if unfit := sorted(values.keys() - {"here", "spec"}):
        raise TypeError(f"{function}() takes no {unfit[0]!r} with a Guest: that was said when it was launched")
    return _value(name, kind, {**values, **own}, Context(session=subject.session()))


def _boot_file(name: str, kind: type[T], file: Path, kernel: Path | None, /, **own: Any) -> T:
    return _value(name, kind, {"subject": os.fspath(file), "kernel": None if kernel is None else os.fspath(kernel), **own})


def _value(name: str, kind: type[T], values: Mapping[str, Any], context: Context | None = None) -> T:
    """What a command gives to Python. Raises TargetError for what was not observed."""
    command = next(one for one in COMMANDS if one.name == name)
    try:
        value: Any = command(values, context or Context()).value
    except Unavailable as gap:
        raise TargetError(gap.reason, "use a VMM whose gdbstub has QEMU's monitor") from None
    if isinstance(value, Unread):
        raise TargetError(value.reason, "see what is known with: info")
    assert isinstance(value, kind), (name, value)
    return value


def _words(address: str | int) -> tuple[str, ...]:
    return (hex(address) if isinstance(address, int) else address,)
