"""`pvhdbg trace --what calls`: every function that a boot reaches, in order, at nearly full speed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pvhdbg.decode.text import SafeText
from pvhdbg.driver.goal import TraceGoal
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.resets import goes_on, watched
from pvhdbg.driver.result import RESETS, head_of
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.driver.vmm_end import by_whom
from pvhdbg.errors import BadInput
from pvhdbg.report import trace_text
from pvhdbg.report.answers.traces import TracedAnswer
from pvhdbg.report.style import Style
from pvhdbg.tracing.block_coverage import Block, Functions, ReachedFunction
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.resets import blocks_through_resets
from pvhdbg.tracing.event import EndReason, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.symbol_text import SafeName
from pvhdbg.tracing.trace_file import Encoder, Ending, Record, encode


def calls(
    options: TraceOptions, machine: TracedMachine, goal: TraceGoal, write: Callable[[str], None] | None
) -> tuple[Callable[[Style], str], TracedAnswer, bool]:
    """Trace the machine to the goal; functions are written as they are found.

    Returns the text, the same for JSON, and whether the goal was missed.
    """
    _refuse_unfit(options, goal)
    engine = BlockCoverageEngine(machine.target)
    head, began = head_of(engine, "calls", machine), time.monotonic()
    if write is not None:
        write(encode(head))
    seen, go = _Seen(machine, options.tail, write), goes_on(options)
    with machine.interruptible(engine), watched(machine, go) as ended:
        for found in blocks_through_resets(engine, Bounds(goal.addresses, goal.count, options.limit), go=go, ended=ended):
            if isinstance(found, Reset):
                seen.reset(found)
            else:
                seen.blocks(found)
    end = by_whom(engine.end, machine.qemu)
    machine.ended = end.words if end.final else None
    ending = Ending(end.why, seen.functions.blocks)
    if write is not None:
        write(encode(ending))
    names = seen.names()
    warnings = (*machine.warnings, *engine.warnings)
    last = f"{seen.count:,} functions, {seen.functions.blocks:,} blocks in {time.monotonic() - began:.2f} s (engine first); ended: {end.words}"

    def shown(style: Style) -> str:
        notes = [style("warn", f"note: {warning}") for warning in warnings]
        text = "" if write is not None else trace_text.functions(seen.reached, style)
        return text + "\n".join([*notes, *seen.boots_in_words(style, trace_text.escaped(names)), last]) + "\n"

    missed = bool(goal.addresses) and end.why is not EndReason.ADDRESS
    document = TracedAnswer(
        tuple(map(Encoder(names).row, [head, *seen.records(), ending])),
        tuple(map(str, warnings)),
        not missed if goal.text else None,
    )
    return shown, document, missed


def _refuse_unfit(options: TraceOptions, goal: TraceGoal) -> None:
    """Raises BadInput for what this engine cannot see."""
    if goal.serial is not None:
        raise BadInput("--what calls does not watch the serial port", "give a symbol, an address, or a number of blocks")
    if goal.modes:
        raise BadInput("--what calls does not see modes", "give a symbol, an address, or a number of blocks")
    if options.engine not in ("auto", "first"):
        raise BadInput(f"--engine {options.engine} cannot be combined with --what calls", "leave it out")
    if options.vcpu:
        raise BadInput(
            "--vcpu cannot be combined with --what calls: QEMU does not report which CPU runs a block",
            "use --what pc or --what state",
        )
    if options.milestone:
        raise BadInput("--milestone cannot be combined with --what calls", "use another --what, or --until to end there")


class _Seen:
    """The functions, resets and entries that were seen; each is written as it comes."""

    def __init__(self, machine: TracedMachine, tail: int | None, write: Callable[[str], None] | None) -> None:
        self._machine, self._write = machine, write
        self.functions = Functions(machine.names)
        self.reached: deque[ReachedFunction] = deque(maxlen=tail)
        self.count = 0  # of all functions, also of those that `reached` no longer holds
        self._resets: deque[Reset] = deque(maxlen=RESETS)
        self._boots: deque[Milestone] = deque(maxlen=RESETS)
        self._boot = 1
        self._entry: int | None = None  # where the next boot begins, after a reset

    def reset(self, one: Reset) -> None:
        """The guest reset the machine: the next block at the entry begins another boot."""
        self._resets.append(one)
        self._told(one, None if one.pc is None else self._machine.names(one.pc))
        self._entry = self._machine.boot_entry

    def blocks(self, found: list[Block]) -> None:
        """Blocks that ran for the first time, in order."""
        at = next((index for index, block in enumerate(found) if block.pc == self._entry), None)
        if at is not None and self._entry is not None:
            self._boot += 1
            entered = Milestone("entry", self.functions.blocks + at, self._entry, SafeText(f"boot {self._boot}"))
            self._boots.append(entered)
            self._told(entered, self._machine.names(self._entry))
            self._entry = None
        for one in self.functions.feed(found):
            self.count += 1
            self.reached.append(one)
            self._told(one)
        self._machine.progress(f"tracing: {self.count:,} functions in {self.functions.blocks:,} blocks")

    def _told(self, one: Record, name: str | None = None) -> None:
        if self._write is not None:
            self._write(encode(one, name))

    def boots_in_words(self, style: Style, names: SafeName) -> list[str]:
        """A line for each reset and for each boot after one."""
        told = [
            (one.seq, style("bad", f"the guest reset the machine: {trace_text.reset(one, names, 'block')}")) for one in self._resets
        ]
        told += [(one.seq, style("note", f"{one.detail} reached its entry at block {one.seq:,}")) for one in self._boots]
        return [line for _, line in sorted(told, key=lambda pair: pair[0])]

    def records(self) -> list[Record]:
        """All that was seen; without the functions where they were written."""
        return [*(() if self._write is not None else self.reached), *self._resets, *self._boots]

    def names(self) -> Callable[[int], str | None]:
        """The names of the places of resets and entries, which remain available when the kernel is closed."""
        pcs = [*(one.pc for one in self._resets), *(one.pc for one in self._boots)]
        return self._machine.names.kept(pc for pc in pcs if pc is not None)
