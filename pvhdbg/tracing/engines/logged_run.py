"""A machine that runs while its log is read: the loop of the engines that observe by QEMU's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.errors import TargetLost, TargetTimeout
from pvhdbg.targets.run import leave_reset_vector
from pvhdbg.targets.target import GONE, RESET_RIP, Stop, StopKind, Target
from pvhdbg.tracing.engines.engine import Bounds, TraceEnd, end_of, is_halted
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.event import EndReason

_TRIPLE_FAULT = b"\nTriple fault\n"


class LoggedRun:
    """One run with the log on. `turn` is how long one wait for the FIFO takes, `silence` how long the log may be silent before we
    check the CPU, which may be halted for good. Both are in seconds.
    """

    def __init__(self, target: Target, switch: LogSwitch, *, turn: float, silence: float) -> None:
        self.end: TraceEnd | None = None  # None while it runs
        self.gone = False  # the VMM has ended
        self.interrupted = False  # the machine stands where it was interrupted
        self.died: Stop | None = None  # the guest's end, where it came before the interrupt
        self._target = target
        self._switch = switch
        self._turn = turn
        self._silence = silence
        self._running = False
        self._stop: Stop | None = None
        self._halted: TraceEnd | None = None
        self._tail = b""  # of the log so far

    def pieces(self, bounds: Bounds, asked: Callable[[], bool]) -> Generator[bytes, None, None]:
        """The log, piece by piece, to the end by `bounds` or by `asked`; the reader checks `bounds.count`.

        The last piece is the rest, which may be empty: `end` is set then. A reader may close it earlier. Raises TargetError.
        """
        deadline = time.monotonic() + bounds.seconds
        if self._target.read_registers()["rip"] == RESET_RIP:
            leave_reset_vector(self._target)
        self.resume()
        heard = time.monotonic()
        try:
            while self.end is None:
                data = self._switch.read(self._turn)
                if not data and self._stop is None:
                    self._stop = self._poll()
                if not data and self._stop is None and time.monotonic() - heard > self._silence:
                    data = self._look_at_silent_cpu()
                    heard = time.monotonic()
                if data and self._stop is None:
                    self._tail = (self._tail + data)[-len(_TRIPLE_FAULT) :]
                    yield data
                    heard = time.monotonic()
                if self._stop is not None:
                    self.end = self._halted or end_of(self._stop, self._target, bounds)
                    yield data + self._switch.rest()
                elif asked() or time.monotonic() > deadline:
                    rest = self.leave()
                    self.end = self.ended(bounds) or TraceEnd(EndReason.INTERRUPTED if asked() else EndReason.TIME)
                    yield rest
        finally:
            self.halt()

    def resume(self) -> None:
        """Let it run on after `halt`."""
        self.interrupted = False
        self._target.resume()
        self._running = True

    def halt(self) -> bytes:
        """Stop the machine if it runs; the log that was written meanwhile."""
        if not self._running:
            return b""
        self._running = False
        with self._switch.drained() as pieces:
            try:
                stop = self._target.interrupt()
            except TargetLost:
                stop = GONE  # it ended at that moment
        logged = b"".join(pieces) + self._switch.rest()
        if stop.kind is StopKind.INTERRUPT:
            stop = self._hidden_death(logged) or self._hidden_reset() or stop
        self.gone, self.interrupted = stop.kind is StopKind.EXITED, stop.kind is StopKind.INTERRUPT
        self.died = stop if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN) else None
        if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN, StopKind.BREAKPOINT):
            self._stop = stop  # it had stopped by itself
        return logged

    def leave(self) -> bytes:
        """Stop the machine as `halt` does, and step it once with the log on; the log that was written meanwhile.

        QEMU forgets its blocks after a step, so the next trace shows their code again. The step is an event like others: the guest
        may die of it.
        """
        logged = self.halt()
        if not self.interrupted or is_halted(self._target):
            return logged
        self.interrupted = False
        with self._switch.drained() as pieces:
            try:
                stop = self._target.step()
            except TargetLost:
                stop = GONE
        stepped = b"".join(pieces) + self._switch.rest()
        self.gone = stop.kind is StopKind.EXITED
        self._stop = stop if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN) else self._hidden_death(stepped)
        return logged + stepped

    def ended(self, bounds: Bounds) -> TraceEnd | None:
        """The end that it had come to by itself when `halt` was to stop it; None where it ran on until then."""
        return None if self._stop is None else end_of(self._stop, self._target, bounds)

    def stopped(self, stop: Stop) -> None:
        """The run ends with `stop`: the reader itself ran the machine after `halt`, and it stopped like this."""
        self._stop = stop
        self.gone, self.interrupted = stop.kind is StopKind.EXITED, False

    def _hidden_death(self, logged: bytes) -> Stop | None:
        """The death of a guest that was stopped by us at the same moment, by the end of its log; None where it lives.

        QEMU: a stop of ours hides a triple fault. A step would execute the instruction again, or is never answered.
        """
        if not (self._tail + logged).endswith(_TRIPLE_FAULT) and _TRIPLE_FAULT not in logged:
            return None
        reset = self._target.read_registers()["rip"] == RESET_RIP
        return Stop(StopKind.BREAKPOINT if reset else StopKind.SHUTDOWN)

    def _hidden_reset(self) -> Stop | None:
        """The stop at the reset vector of a machine that was interrupted between its reset and the breakpoint there; None for another.

        A run never begins there. A CPU that waits to be started stands there, too: no other than the first tells a reset.
        """
        if self._target.cpu or self._target.read_registers()["rip"] != RESET_RIP:
            return None
        return Stop(StopKind.BREAKPOINT)

    def _poll(self) -> Stop | None:
        try:
            stop = self._target.wait(0.001)
        except TargetTimeout:
            return None
        except TargetLost:
            stop = GONE
        self._running = False
        self.gone = stop.kind is StopKind.EXITED
        return stop

    def _look_at_silent_cpu(self) -> bytes:
        """Stop a CPU that logs nothing: in `hlt` with interrupts off, the run ends. One that is idle runs on. What was logged meanwhile."""
        logged = self.halt()
        if self.interrupted:
            registers = self._target.read_registers()
            if interrupts_on(registers) is False and is_halted(self._target):
                self._stop = Stop(StopKind.INTERRUPT)
                self._halted = TraceEnd(EndReason.HALTED, self._stop, registers["rip"])
            else:
                self.resume()
        return logged
