"""The `first` engine: QEMU's `in_asm` log at run time, so each block when the boot first comes to it. No restart, full-size blocks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from pvhdbg.errors import TargetError, TargetLost, TargetTimeout
from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target, leave_reset_vector
from pvhdbg.tracing.engines.engine import Bounds, End, end_of
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.engines.tap import FaultLines
from pvhdbg.tracing.event import Fault
from pvhdbg.tracing.first import Block, BlockReader

_TURN = 0.005
_FAULTS = 256  # that are kept: what killed is among the last
_SILENCE = 1.0  # seconds without a new block after which the CPU may be halted for good


class FirstEngine:
    """Yields blocks in the order in which they were first translated. Afterwards the machine stands still, and `end` says why."""

    name = "first"

    def __init__(self, target: Target) -> None:
        self.end = End("stopped")
        self.warnings: list[str] = []
        self.faults: deque[Fault] = deque(maxlen=_FAULTS)
        self._target = target
        self._asked = False

    def stop(self) -> None:
        """End soon. Can be called from a signal handler or another thread."""
        self._asked = True

    def blocks(self, bounds: Bounds) -> Iterator[list[Block]]:
        """Let the machine run and yield what it comes to. `bounds.count` counts blocks. Raises TargetError."""
        watched = (*bounds.addresses, RESET_VECTOR)
        try:
            with LogSwitch(self._target, "in_asm,int,cpu_reset", single=False) as switch:
                self.warnings += switch.warnings
                for address in watched:
                    self._target.set_breakpoint(address)
                yield from self._run(switch, bounds)
        finally:
            for address in watched:
                try:
                    self._target.clear_breakpoint(address)
                except TargetError:
                    pass  # it is gone: there is nothing left to put back

    def _run(self, switch: LogSwitch, bounds: Bounds) -> Iterator[list[Block]]:
        reader, lines = BlockReader(), FaultLines()
        deadline = time.monotonic() + bounds.seconds
        silent_since = time.monotonic()
        if self._target.read_registers()["rip"] == RESET_RIP:
            leave_reset_vector(self._target)
        self._target.resume()
        running = True
        seen = 0
        self.end = End("enough")
        try:
            while True:
                data = switch.read(_TURN)
                stop = None if data else self._looked()
                now = time.monotonic()
                if data:
                    silent_since = now
                    found = reader.feed(data)
                    self.faults.extend(lines.feed(data, seen))
                    seen += len(found)
                    yield found
                if stop is None and not data and now - silent_since > _SILENCE:
                    silent_since = now
                    running = False
                    stop = self._halted()
                    if stop is None:
                        self._target.resume()
                        running = True
                if stop is not None:
                    running = False
                    if self.end.why == "enough":
                        self.end = end_of(stop, self._target, bounds)
                    rest = switch.rest()
                    self.faults.extend(lines.feed(rest, seen))
                    yield [*reader.feed(rest), *reader.finish()]
                    return
                over = bounds.count is not None and seen >= bounds.count
                if now > deadline or self._asked or over:
                    self.end = End("count" if over else "interrupted" if self._asked else "time")
                    running = False
                    yield [*reader.feed(self._halt(switch)), *reader.finish()]
                    return
        finally:
            if running:
                self._halt(switch)

    def _halt(self, switch: LogSwitch) -> bytes:
        with switch.drained() as pieces:
            try:
                self._target.interrupt()
            except TargetLost:
                pass  # it ended at that moment
        return b"".join(pieces) + switch.rest()

    def _looked(self) -> Stop | None:
        try:
            return self._target.wait(0.001)
        except TargetTimeout:
            return None
        except TargetLost:
            return Stop(StopKind.EXITED, 0, "the connection closed")

    def _halted(self) -> Stop | None:
        stop = self._target.interrupt()
        if stop.kind is not StopKind.INTERRUPT:
            return stop
        registers = self._target.read_registers()
        if not registers["eflags"] >> EFLAGS["IF"] & 1 and "HLT=1" in self._target.monitor("info registers"):
            self.end = End("halted", stop, registers["rip"])
            return stop
        return None
