"""The part of a trace that is kept for display, and its text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.disassembly import instruction_text
from pvhdbg.driver.goal import TraceGoal
from pvhdbg.driver.options import What
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.report.answers.traces import TracedAnswer
from pvhdbg.report.style import Style
from pvhdbg.spec.elf import PF_X
from pvhdbg.tracing.engines.engine import EngineKind, TraceEnd
from pvhdbg.tracing.event import EndReason, Event, Fault, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Encoder, Ending, Head, Load, Record

NO_DISASSEMBLER = SafeText("this Python has no disassembler (iced-x86): instructions are shown as bytes")
SHOWN = 200  # events that are shown by default
RESETS = 1000  # that are kept for display


class HasName(Protocol):
    name: EngineKind


@dataclass
class TraceResult:
    """The part of a trace that is kept for display."""

    head: Head
    names: Callable[[int], str | None]
    milestones: list[Milestone] = field(default_factory=list)
    last: deque[Event | Fault | Reset] = field(default_factory=deque)
    resets: deque[Reset] = field(default_factory=lambda: deque(maxlen=RESETS))
    events: int = 0
    seconds: float = 0.0
    end: TraceEnd = field(default_factory=lambda: TraceEnd(EndReason.STOPPED))
    warnings: list[SafeText] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = Encoder(self.names)


def head_of(engine: HasName, what: What, machine: TracedMachine) -> Head:
    snapshot = machine.boot.snapshot
    vmm = " ".join(part for part in (snapshot.vmm.name, snapshot.vmm.version) if part) or None
    kernel, segments = snapshot.kernel, () if machine.image is None else machine.image.elf.loads
    return Head(
        engine.name,
        what,
        snapshot.entry.address,
        vmm,
        None if kernel is None else kernel.path,
        None if kernel is None else kernel.elf_class,
        tuple(Load(one.p_vaddr, one.p_paddr, one.p_memsz, bool(one.p_flags & PF_X)) for one in segments if one.p_memsz),
    )


def addresses(result: TraceResult) -> list[int]:
    """Where milestones and resets were."""
    found = [*(one.pc for one in result.milestones), *(one.pc for one in result.resets)]
    return [pc for pc in found if pc is not None]


def document(result: TraceResult, what: str, saved: bool, reached: bool | None) -> TracedAnswer:
    """The same as JSON: the records that the text shows, as lines of a saved trace."""
    lines = Encoder(result.names)
    rows: list[Record] = [] if what == "milestones" or saved else list(result.last)
    known = {id(one) for one in rows}
    rows += [one for one in result.resets if id(one) not in known]
    found = [result.head, *rows, *result.milestones, Ending(result.end.why, result.events)]
    return TracedAnswer(tuple(map(lines.row, found)), tuple(result.warnings), reached)


def render(result: TraceResult, what: str, saved: bool, goal: TraceGoal, missed: bool, style: Style) -> str:
    from pvhdbg.report import trace_text

    names = trace_text.escaped(result.names)
    if what == "milestones":
        text = trace_text.milestones(result.milestones, names, style, result.resets)
    elif saved:
        text = ""
    else:
        text = trace_text.events(result.last, names, instruction_text, style)
    notes = [style("warn", f"note: {warning}") for warning in result.warnings]
    if missed:
        notes.append(style("bad", f"{goal.text} was not reached"))
    rate = f", {result.events / result.seconds:,.0f} a second" if result.seconds > 0 else ""
    if result.resets and not result.resets[-1].goes_on:
        told = trace_text.reset(result.resets[-1], names, "stop" if result.head.engine == "breakpoints" else "instruction")
        notes.append(style("bad", f"the guest reset the machine: {told}"))
    unit = "stops" if result.head.engine == "breakpoints" else "instructions"
    last = (
        f"{result.events:,} {unit} in {result.seconds:.2f} s{rate} (engine {safe(result.head.engine)}); ended: {result.end.words}"
    )
    return text + "\n".join([*notes, last]) + "\n"
