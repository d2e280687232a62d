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
from pvhdbg.tracing.block_coverage import Functions, ReachedFunction
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.resets import blocks_through_resets
from pvhdbg.tracing.event import EndReason, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Encoder, Ending, Record, encode


def calls(
    options: TraceOptions, machine: TracedMachine, goal: TraceGoal, write: Callable[[str], None] | None
) -> tuple[Callable[[Style], str], TracedAnswer, bool]:
    """Trace the machine to the goal; functions are written as they are found.

    Returns the text, the same for JSON, and whether the goal was missed.
    """
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
    engine = BlockCoverageEngine(machine.target)
    functions = Functions(machine.names)
    reached: deque[ReachedFunction] = deque(maxlen=options.tail)
    head, began = head_of(engine, "calls", machine), time.monotonic()
    if write is not None:
        write(encode(head))
    count, go = 0, goes_on(options)
    resets: deque[Reset] = deque(maxlen=RESETS)
    boots: deque[Milestone] = deque(maxlen=RESETS)
    boot, entry = 1, None  # where the next boot begins, after a reset
    with machine.interruptible(engine), watched(machine, go) as ended:
        for found in blocks_through_resets(engine, Bounds(goal.addresses, goal.count, options.limit), go=go, ended=ended):
            if isinstance(found, Reset):
                resets.append(found)
                if write is not None:
                    write(encode(found, None if found.pc is None else machine.names(found.pc)))
                entry = machine.boot_entry
                continue
            at = next((index for index, block in enumerate(found) if block.pc == entry), None)
            if at is not None and entry is not None:
                boot += 1
                boots.append(Milestone("entry", functions.blocks + at, entry, SafeText(f"boot {boot}")))
                entry = None
                if write is not None:
                    write(encode(boots[-1], machine.names(boots[-1].pc or 0)))
            for one in functions.feed(found):
                count += 1
                reached.append(one)
                if write is not None:
                    write(encode(one))
            machine.progress(f"tracing: {count:,} functions in {functions.blocks:,} blocks")
    end = by_whom(engine.end, machine.qemu)
    machine.ended = end.words if end.final else None
    if write is not None:
        write(encode(Ending(end.why, functions.blocks)))
    took = time.monotonic() - began
    missed = bool(goal.addresses) and end.why is not EndReason.ADDRESS
    names = trace_text.escaped(machine.names.kept([one.pc for one in resets if one.pc is not None]))

    def shown(style: Style) -> str:
        text = "" if write is not None else trace_text.functions(reached, style)
        notes = [style("warn", f"note: {warning}") for warning in (*machine.warnings, *engine.warnings)]
        told = [(one.seq, style("bad", f"the guest reset the machine: {trace_text.reset(one, names, 'block')}")) for one in resets]
        told += [(one.seq, style("note", f"{one.detail} reached its entry at block {one.seq:,}")) for one in boots]
        notes += [line for _, line in sorted(told, key=lambda pair: pair[0])]
        last = f"{count:,} functions, {functions.blocks:,} blocks in {took:.2f} s (engine first); ended: {end.words}"
        return text + "\n".join([*notes, last]) + "\n"

    lines = Encoder(machine.names.kept([one.pc for many in (resets, boots) for one in many if one.pc is not None]))
    rows: list[Record] = [head, *(() if write is not None else reached), *resets, *boots, Ending(engine.end.why, functions.blocks)]
    warnings = tuple(str(one) for one in (*machine.warnings, *engine.warnings))
    document = TracedAnswer(tuple(map(lines.row, rows)), warnings, not missed if goal.text else None)
    return shown, document, missed
