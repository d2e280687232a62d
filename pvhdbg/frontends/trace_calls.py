"""`pvhdbg trace --what calls`: every function that a boot comes to, in order, at nearly full speed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pvhdbg.errors import BadInput
from pvhdbg.frontends.trace_actions import NOT_REACHED, Until, head_of, seconds
from pvhdbg.frontends.trace_engine import interruptible
from pvhdbg.frontends.trace_subject import Machine
from pvhdbg.frontends.verbs import Answer, Request
from pvhdbg.report import trace_text
from pvhdbg.report.style import Style
from pvhdbg.trace.engines.engine import Bounds
from pvhdbg.trace.engines.first import FirstEngine
from pvhdbg.trace.first import Functions, Reached
from pvhdbg.trace.trace_file import Ending, encode


def calls(request: Request, machine: Machine, goal: Until, write: Callable[[str], None] | None) -> Answer:
    """Follow the machine to the goal; the functions are written as they are found."""
    if goal.mode is not None:
        raise BadInput("--what calls does not see modes", "give a symbol, an address, or a number of blocks")
    if request.engine not in (None, "auto", "first"):
        raise BadInput(f"--engine {request.engine} does not go with --what calls", "leave it out")
    engine = FirstEngine(machine.target)
    functions = Functions(machine.names)
    reached: deque[Reached] = deque(maxlen=request.tail)
    head, began = head_of(engine, "calls", machine), time.monotonic()
    if write is not None:
        write(encode(head))
    count = 0
    with interruptible(engine):
        for blocks in engine.blocks(Bounds(goal.addresses, goal.count, seconds(request))):
            for one in functions.feed(blocks):
                count += 1
                reached.append(one)
                if write is not None:
                    write(encode(one))
            request.progress(f"tracing: {count:,} functions in {functions.blocks:,} blocks")
    if write is not None:
        write(encode(Ending(engine.end.why, functions.blocks)))
    took = time.monotonic() - began
    missed = bool(goal.addresses) and engine.end.why != "address"

    def shown(style: Style) -> str:
        text = "" if write is not None else trace_text.functions(reached, style)
        notes = [style("warn", f"note: {warning}") for warning in (*machine.warnings, *engine.warnings)]
        last = f"{count:,} functions, {functions.blocks:,} blocks in {took:.2f} s (engine first); ended: {engine.end.words}"
        return text + "\n".join([*notes, last]) + "\n"

    return Answer(shown, exit_code=NOT_REACHED if missed else 0)
