"""The `recorder` engine: the milestones of a boot at nearly full speed, by the flight recorder in a QEMU that was started here.

It yields the instructions that matter for milestones, each with its exact number: the entry, system instructions, the first one in
a new mode, the first one in the higher half, and the recorder's marks. Instructions in between are counted, but not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import SafeText
from pvhdbg.targets.run import Ran, RunEnd, breakpoints_at, turns
from pvhdbg.targets.target import StopKind, Target
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd, end_at, is_halted
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.event import Batch, EndReason, Event
from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recording import Recording

_TURN = 0.02  # seconds between two reads of the recording
_SILENCE = 0.3  # seconds without a block after which the CPU may be halted for good


class Silence:
    """Detects that no CPU has begun a block for a while: the guest may be halted for good. QEMU's idle callback is not called
    where one thread runs all CPUs (-icount), so the blocks are counted."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._limit = _SILENCE
        self._heads: tuple[int, ...] = ()
        self._since = time.monotonic()

    def lasts(self) -> bool:
        """Whether it has lasted long enough for a look at the CPU, which stops the machine."""
        heads = self._recording.heads
        if heads != self._heads:
            self._heads, self._since = heads, time.monotonic()
        return time.monotonic() - self._since > self._limit

    def is_no_end(self) -> None:
        """The CPU waits for an interrupt: look again later."""
        self._limit, self._since = 2 * self._limit, time.monotonic()


class RecorderEngine(StopsWhenAsked):
    """See `Engine`. `state` holds the registers at the entry, where the machine is; `peek` gives the code at an address."""

    name: EngineKind = "recorder"

    def __init__(
        self, target: Target, recording: Recording, state: Mapping[str, int], peek: Callable[[int], bytes] = lambda _: b""
    ) -> None:
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self._target, self._recording = target, recording
        self._events = RecordedEvents(recording, state, peek)
        self._fault_log = FaultLog(target)

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """Run the machine and yield the relevant instructions, in order. Raises TargetError."""
        self.end = TraceEnd(EndReason.ENOUGH)
        deadline = time.monotonic() + bounds.seconds
        silence = Silence(self._recording)
        with breakpoints_at(self._target, bounds.addresses), self._fault_log:
            self.warnings += self._fault_log.warnings
            ended: TraceEnd | None = None
            while ended is None:
                ran = yield from self._run(max(deadline - time.monotonic(), 0.001), silence)
                ended = self._end(ran, silence)
            self.end = ended
            yield from self.seen(None)
            begun = self._recording.begun_at_a_stop
            yield Batch(begun, [], [], [], faults=self._fault_log.faults(begun))

    def seen(self, limit: int | None) -> list[Batch]:
        """The new events before instruction `limit`, in order; all of them without one."""
        return [_alone(event) for event in self._events.before(limit)]

    def _run(self, seconds: float, silence: Silence) -> Generator[Batch, None, Ran]:
        running = turns(self._target, seconds, turn=_TURN, stopping=self._fault_log.drained, may_vanish=True)
        with closing(running):
            next(running)
            while True:
                begun = self._recording.begun()
                yield from self.seen(begun)
                yield Batch(begun, [], [], [], faults=self._fault_log.faults(begun))
                try:
                    running.send(self._asked or silence.lasts())
                except StopIteration as end:
                    ran: Ran = end.value
                    return ran

    def _end(self, ran: Ran, silence: Silence) -> TraceEnd | None:
        """How the trace ended; None for a guest that only waits for an interrupt."""
        pc = None if ran.stop.kind is StopKind.EXITED else self._target.read_registers()["rip"]
        if ran.end is RunEnd.TIME:
            return TraceEnd(EndReason.TIME, None, pc)
        if ran.end is RunEnd.ASKED and self._asked:
            return TraceEnd(EndReason.INTERRUPTED, None, pc)
        if ran.end is RunEnd.ASKED:
            silence.is_no_end()
            return halted_for_good(self._target)
        return end_at(ran.stop, pc) or TraceEnd(EndReason.ADDRESS, None, pc)


def halted_for_good(target: Target) -> TraceEnd | None:
    """The end of a guest whose CPU is in `hlt` with interrupts off; None for another."""
    registers = target.read_registers()
    if is_halted(target) and interrupts_on(registers) is False:
        return TraceEnd(EndReason.HALTED, None, registers["rip"])
    return None


def _alone(event: Event) -> Batch:
    return Batch(event.seq, [event.pc], [event.mode], [event.code], [event.delta], None, [0])
