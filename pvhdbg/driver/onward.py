"""The end of a trace for milestones: run from place to place at full speed, where the remaining milestones need no count.

Linux needs a few thousand instructions from its entry to start_kernel, and tens of millions from there to rest_init. QEMU's log
reaches about 200 000 a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from pvhdbg.decode.text import SafeText
from pvhdbg.driver.goal import TraceGoal
from pvhdbg.driver.result import TraceResult
from pvhdbg.driver.sinks import Sink
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.tracing.engines.breakpoints import BreakpointEngine
from pvhdbg.tracing.engines.engine import Bounds, TraceEnd
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.milestones import Milestone


def run_on(
    machine: TracedMachine, goal: TraceGoal, left: Mapping[int, str], seconds: float, result: TraceResult, sink: Sink
) -> TraceEnd:
    """Run to the places that are `left`, and to the goal. Milestones go to `result` and `sink`. Raises TargetError."""
    waiting = dict(left)
    places = [tuple(address for address, name in waiting.items() if name == one) for one in dict.fromkeys(waiting.values())]
    engine = BreakpointEngine(machine.target, places, walk=False)
    result.warnings.append(
        SafeText(f"after {result.events:,} instructions at full speed, where they are not counted (--engine log counts them)")
    )
    with machine.interruptible(engine):
        for batch in engine.batches(Bounds(goal.addresses, None, seconds)):
            for event in batch:
                name = waiting.get(event.pc)
                if name is not None:
                    waiting = {address: other for address, other in waiting.items() if other != name}
                    result.milestones.append(Milestone(name, result.events, event.pc, mode=event.mode, counted=False))
                    sink.milestones(result.milestones[-1:])
            if not waiting and not goal.addresses:
                return TraceEnd(EndReason.ENOUGH)
    return engine.end
