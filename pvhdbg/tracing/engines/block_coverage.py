"""The engine for block coverage (`--engine first`): QEMU's `in_asm` log at run time, which shows each block when it is first translated.

It needs no restart, and blocks keep their size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from pvhdbg.decode.text import SafeText
from pvhdbg.targets.run import breakpoints_at
from pvhdbg.targets.target import RESET_VECTOR, Target
from pvhdbg.tracing.block_coverage import Block, BlockReader
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd
from pvhdbg.tracing.engines.fault_log import FAULT_ITEMS, FaultLines
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.engines.logged_run import LoggedRun
from pvhdbg.tracing.event import EndReason, Fault

_TURN = 0.005  # seconds to wait for the FIFO before the stub is checked
_FAULTS = 256  # the last ones are kept, which include a fatal chain
_SILENCE = 1.0  # seconds without a new block after which the CPU may be halted for good


class BlockCoverageEngine(StopsWhenAsked):
    """Yields blocks in the order of their first translation. Afterwards the machine is stopped, and `end` says why."""

    name: EngineKind = "first"

    def __init__(self, target: Target) -> None:
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self.faults: deque[Fault] = deque(maxlen=_FAULTS)
        self._target = target

    def blocks(self, bounds: Bounds) -> Generator[list[Block], None, None]:
        """Run the machine and yield the blocks that it reaches. `bounds.count` counts blocks. Raises TargetError."""
        switch = LogSwitch(self._target, f"in_asm,{FAULT_ITEMS}", single=False)
        self.warnings += switch.warnings
        with breakpoints_at(self._target, (*bounds.addresses, RESET_VECTOR)), switch:
            self.end = TraceEnd(EndReason.ENOUGH)
            yield from self._run(switch, bounds)

    def _run(self, switch: LogSwitch, bounds: Bounds) -> Generator[list[Block], None, None]:
        running = LoggedRun(self._target, switch, turn=_TURN, silence=_SILENCE)
        reader, lines = BlockReader(), FaultLines()
        seen = 0
        pieces = running.pieces(bounds, lambda: self._asked)
        try:
            for data in pieces:
                found = reader.feed(data)
                self.faults.extend(lines.feed(data, seen))
                seen += len(found)
                if running.end is not None:
                    self.end = running.end
                    yield [*found, *reader.finish()]
                    return
                yield found
                if bounds.count is not None and seen >= bounds.count:
                    self.end = TraceEnd(EndReason.COUNT)
                    yield [*reader.feed(running.halt()), *reader.finish()]
                    return
        finally:
            pieces.close()  # it stops the machine
