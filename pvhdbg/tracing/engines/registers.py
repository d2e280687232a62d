"""The `recorder` engine for all registers of each instruction: QEMU's one-instruction mode, and the flight recorder's table of registers.

The guest waits for the reader where the table is full, so nothing is lost. It stops exactly before the instruction that is asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetError
from pvhdbg.leaving import putting_back
from pvhdbg.targets.run import Ran, RunEnd, breakpoints_at, leave_reset_vector, turns
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd, end_of
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.engines.log_switch import single_step_mode
from pvhdbg.tracing.engines.recorded import Silence, halted_for_good
from pvhdbg.tracing.event import Batch, EndReason, Fault, FaultKind
from pvhdbg.tracing.recorded_registers import SIZE, RegisterRows
from pvhdbg.tracing.recorder.file import Wanted, open_recording
from pvhdbg.tracing.recording import Recording

_TURN = 0.002  # seconds between two reads of the table
_NO_END = 1 << 62
_AHEAD = 4096  # instructions that the guest may run on when it is asked to stop: it stops exactly there
_GRACE = 0.5  # seconds that this may take


@dataclass(frozen=True)
class Recorder:
    """The flight recorder of a running QEMU: what it has written, and what it is asked for."""

    recording: Recording
    wanted: Wanted

    @property
    def keeps_registers(self) -> bool:
        """Whether it may know where QEMU keeps the registers."""
        return self.recording.header.registers_found != _NOT_FOUND


_NOT_FOUND = 2


@contextmanager
def open_recorder(path: str | os.PathLike[str]) -> Iterator[Recorder]:
    """The recorder that writes to a file, open for the context. Raises BadInput for a file that is not a recording."""
    with open_recording(path) as recording:
        wanted = Wanted(path)
        try:
            yield Recorder(recording, wanted)
        finally:
            wanted.close()


class RegistersUnknown(TargetError):
    """The recorder did not find QEMU's registers; nothing was traced. The machine may have run on for one instruction."""


class RegisterEngine(StopsWhenAsked):
    """See `Engine`. With a count, the machine stands exactly behind the last instruction."""

    name: EngineKind = "recorder"

    def __init__(self, target: Target, recorder: Recorder, base: int | None = None) -> None:
        """`base` is the sequence number of the first event; without it, events have the recorder's own numbers, from the entry on."""
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self._target, self._recorder = target, recorder
        self._rows = RegisterRows(base)
        self._taken = 0
        self._records: list[bytes] = []  # that were read, and not fed yet
        self._triple = False  # the last fault is a triple fault
        self._fault_log = FaultLog(target)

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """Run the machine and yield its instructions, in order. Raises TargetError."""
        recording = self._recorder.recording
        until = _NO_END if bounds.count is None else recording.begun_at_a_stop + bounds.count
        self._taken = recording.header.register_count
        self.end = TraceEnd(EndReason.ENOUGH)
        if self._target.read_registers()["rip"] == RESET_RIP:
            leave_reset_vector(self._target)
        with breakpoints_at(self._target, (*bounds.addresses, RESET_VECTOR)), self._fault_log, self._restored() as mode:
            self.warnings += self._fault_log.warnings
            deadline, silence = time.monotonic() + bounds.seconds, Silence(recording)
            ended: TraceEnd | None = None
            while ended is None:
                self._recorder.wanted.keep(until, self._taken, waits=True)
                self._target.monitor(f"{mode} on")
                ran = yield from self._run(max(deadline - time.monotonic(), 0.001), silence, until)
                ended = self._ended(ran, bounds, silence, until)
            yield self._new()
            self.end = ended
            yield self._rows.finish(self._state(), self._faults())

    @contextmanager
    def _restored(self) -> Iterator[str]:
        """The name of QEMU's one-instruction mode, which is switched off afterwards."""
        mode = single_step_mode(self._target)
        try:
            yield mode
        finally:
            with putting_back("QEMU's one-instruction mode"):
                self._recorder.wanted.keep(0, 0, waits=False)
                with suppress(TargetError):
                    self._target.interrupt()
                    self._target.monitor(f"{mode} off")

    def _run(self, seconds: float, silence: Silence, until: int) -> Generator[Batch, None, Ran]:
        running = turns(self._target, seconds + _GRACE, turn=_TURN, stopping=self._released, may_vanish=True)
        deadline, late = time.monotonic() + seconds, 0.0
        with closing(running):
            next(running)
            while True:
                batch = self._new()
                if len(batch) or batch.faults:
                    yield batch
                now = time.monotonic()
                if not late and (self._asked or now > deadline):
                    late = now + _GRACE
                    self._recorder.wanted.until(min(self._rows.number + _AHEAD, until))
                try:
                    running.send(bool(late and now > late) or silence.lasts())
                except StopIteration as end:
                    ran: Ran = end.value
                    return ran

    @contextmanager
    def _released(self) -> Iterator[None]:
        """A CPU that waits for the reader cannot be stopped: the table is read meanwhile."""
        done = threading.Event()

        def drain() -> None:
            while not done.is_set():
                if not self._take():
                    time.sleep(_TURN)

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        try:
            with self._fault_log.drained():
                yield
        finally:
            done.set()
            thread.join()

    def _take(self) -> bool:
        """Read the records since the last call, if there are any."""
        self._taken, records = self._recorder.recording.registers(self._taken)
        self._taken += len(records) // SIZE
        self._recorder.wanted.taken(self._taken)
        self._records.append(records)
        return bool(records)

    def _new(self) -> Batch:
        """The instructions since the last call, with the faults between them: QEMU logs a fault before its handler begins."""
        self._take()
        records, self._records = b"".join(self._records), []
        return self._rows.feed(records, self._faults())

    def _faults(self) -> list[Fault]:
        faults = self._fault_log.faults(0)
        if faults:
            self._triple = any(one.kind is FaultKind.TRIPLE_FAULT for one in faults)
        return faults

    def _ended(self, ran: Ran, bounds: Bounds, silence: Silence, until: int) -> TraceEnd | None:
        """How the trace ended; None for a guest that only waits for an interrupt."""
        stop = ran.stop
        if stop.kind is not StopKind.INTERRUPT:
            return end_of(stop, self._target, bounds)
        pc = self._target.read_registers()["rip"]
        if self._triple:  # QEMU: a stop of ours hides a triple fault
            return end_of(Stop(StopKind.BREAKPOINT if pc == RESET_RIP else StopKind.SHUTDOWN), self._target, bounds)
        if not self._recorder.keeps_registers:
            raise RegistersUnknown("the recorder does not find this QEMU's registers", "use --no-recorder")
        if self._recorder.recording.begun_at_a_stop >= until:
            return TraceEnd(EndReason.COUNT, stop, pc)
        recording = self._recorder.recording
        if any(mark.halted and mark.pc == pc and pc != recording.entry for mark in recording.marks):
            return TraceEnd(EndReason.ADDRESS, stop, pc)
        if ran.end is RunEnd.ASKED and not self._asked and (halted := self._halted(silence)) is not None:
            return halted
        if self._asked:
            return TraceEnd(EndReason.INTERRUPTED, stop, pc)
        if ran.end is RunEnd.ASKED:
            return None
        return TraceEnd(EndReason.TIME, stop, pc)

    def _halted(self, silence: Silence) -> TraceEnd | None:
        silence.is_no_end()
        return halted_for_good(self._target)

    def _state(self) -> Mapping[str, int] | None:
        """All registers of the machine as it is now; None where it is gone."""
        if self.end.why is EndReason.EXITED:
            return None
        try:
            return decode(self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
        except TargetError:
            return None
