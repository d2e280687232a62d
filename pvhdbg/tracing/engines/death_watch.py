"""Watch a machine until it dies: the first instructions one by one, then at full speed.

Most early deaths come within the first instructions, where the whole path is then known. With the flight recorder, the machine is
stopped and examined later only where the recording shows a reason. Without it (a machine that was not started here), the machine is
stopped now and then. QEMU's log of faults (`int,cpu_reset`, no measurable cost) is read all the time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetLost
from pvhdbg.model import GuestEnd
from pvhdbg.targets.run import breakpoints_at, run
from pvhdbg.targets.target import RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.death import Death, DeathKind, panicked
from pvhdbg.tracing.engines.engine import Bounds, StopsWhenAsked
from pvhdbg.tracing.engines.examiner import Examiner
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.engines.followed import UNPLACED, Followed
from pvhdbg.tracing.engines.registers import Recorder
from pvhdbg.tracing.engines.suspicion import Suspicion
from pvhdbg.tracing.event import EndReason, Fault

FIRST = 20_000  # instructions with all registers: 0.2 s
_THEN = 200_000  # instructions by address: 0.3 s
_LONGEST = 1.0  # seconds for each of the two. QEMU 7: a REP that clears memory takes millions of records
# Seconds between two examinations. QEMU: each stop makes the guest lose its translated code.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)
_TURN = 0.005  # seconds to wait for the fault log before the stub is checked
_POLL = 0.001  # seconds
_PANIC_GRACE = 0.3  # seconds in which a kernel may write all of its panic
_STANDS = (StopKind.BREAKPOINT, StopKind.INTERRUPT)  # a QEMU whose guest ended may be gone already
_END_OF_PANIC = "---[ end Kernel panic"  # Linux' last line


class DeathWatch(StopsWhenAsked):
    """Watches `target` from its current state. `around` is the machine around a death, `code` gives the kernel file's bytes at a linear
    address, `status` the VMM's exit status, `serial` the last lines of the serial port, where they are at hand.
    `panics` are linear addresses of a function that never returns, Linux' panic(); `panicking` is called where one was reached.
    With `blind` nothing is logged (KVM): of a guest that shut down, what is left of it is told. `recorder` is the machine's flight
    recorder; with `halts` it stops the machine at `panics` by itself. `vmm_end` gives why QEMU says that the guest ended; `awaits`: see `Suspicion`.
    `vcpu` is the CPU whose state is told where none died that is known; the first one if None.
    """

    def __init__(
        self,
        target: Target,
        around: Surroundings,
        *,
        code: Callable[[int], bytes] = lambda _: b"",
        status: Callable[[], int | None] = lambda: None,
        serial: Callable[[], Sequence[str]] = tuple,
        progress: Callable[[str], None] = lambda _: None,
        panics: Sequence[int] = (),
        panicking: Callable[[], None] = lambda: None,
        blind: bool = False,
        vcpu: int | None = None,
        vmm_end: Callable[[], GuestEnd | None] = lambda: None,
        awaits: Callable[[], bool] = lambda: False,
        recorder: Recorder | None = None,
        halts: bool = False,
    ) -> None:
        self._target = target
        self._progress = progress
        self._followed = Followed(target, code, recorder)
        self._recorder = recorder
        self._serial, self._awaits = serial, awaits
        self._examiner = Examiner(
            target, around, self._followed, status=status, serial=serial, vmm_end=vmm_end, blind=blind, vcpu=vcpu
        )
        self._blind = blind
        self._panics, self._panicking = tuple(panics), panicking
        self._stops = () if halts else self._panics  # where breakpoints are needed

    @property
    def warnings(self) -> list[SafeText]:
        """Doubts about what was seen, as sentences."""
        return self._followed.warnings

    def post_mortem(self) -> Death:
        """The death of a machine that had shut down before: from what is left of it, which is not changed. Raises TargetError."""
        return self._examiner.found_dead()

    def until_dead(self, seconds: float) -> Death:
        """The death; one of the kind ALIVE after `seconds`. The machine is stopped afterwards. Raises TargetError."""
        try:
            return self._watched(time.monotonic() + seconds)
        except TargetLost:
            death = self._examiner.vanished()
            if death is None:
                raise
            return death

    def _watched(self, deadline: float) -> Death:
        if self._blind:
            return self._unseen(deadline)
        for states, count in ((True, FIRST), (False, _THEN))[: 1 if self._recorder is not None else 2]:
            self._progress(f"following the guest, after {len(self._followed):,} instructions")
            stops = () if self._recorder is None else self._stops
            bounds = Bounds(stops, count, min(max(deadline - time.monotonic(), 0.01), _LONGEST))
            end = self._followed.follow(bounds, states=states, enough=lambda _: self._asked)
            if end.why is EndReason.ADDRESS:
                with FaultLog(self._target, required=True) as fault_log:
                    return self._in_panic(fault_log)
            death = self._examiner.by_end(end)
            if death is None:
                with FaultLog(self._target) as fault_log:
                    death = self._looked_at(fault_log)
            if death is not None:
                return death
            if end.why is EndReason.INTERRUPTED or time.monotonic() > deadline:
                return self._examiner.alive()
        return self._at_full_speed(deadline)

    def _unseen(self, deadline: float) -> Death:
        """As `until_dead`, of a machine that shows nothing while it runs."""
        self._followed.lose_count()
        with breakpoints_at(self._target, [RESET_VECTOR, *self._panics]):
            for pause in _pauses(deadline):
                self._progress("watching the guest for its death")
                stop = run(self._target, pause, enough=lambda: self._asked, turn=_TURN, may_vanish=True).stop
                if stop.kind is StopKind.SHUTDOWN:
                    return replace(self._examiner.found_dead(), blind=True)
                if stop.kind is StopKind.BREAKPOINT and self._target.read_registers()["rip"] in self._panics:
                    return self._examiner.death(DeathKind.PANIC, self._examiner.state())
                death = self._examiner.by_stop(stop) or self._examiner.standing() or self._by_late_stop()
                if death is not None or self._asked:
                    return death or self._examiner.alive()
            alive = self._examiner.alive()
            return self._by_late_stop() or alive

    def _at_full_speed(self, deadline: float) -> Death:
        if self._recorder is None:
            self._followed.lose_count()
        with FaultLog(self._target, required=True) as fault_log, breakpoints_at(self._target, [RESET_VECTOR]):
            with breakpoints_at(self._target, self._stops):
                death = self._until_panic(fault_log, deadline)
            return death or self._in_panic(fault_log)

    def _until_panic(self, fault_log: FaultLog, deadline: float) -> Death | None:
        """The death; None for a kernel that begins to panic."""
        suspicion = (
            None
            if self._recorder is None
            else Suspicion(self._recorder.recording, lambda: panicked(self._serial()) is not None, self._awaits)
        )
        for pause in _pauses(deadline, often=suspicion is None):
            self._progress("watching the guest for its death")
            enough = (lambda: self._asked) if suspicion is None else (lambda: self._asked or suspicion.arises())
            stop = run_with_fault_log(self._target, fault_log, pause, self._followed.faults, enough)
            if stop.kind in _STANDS and self._target.read_registers()["rip"] in self._panics:
                return None
            death = self._examiner.by_stop(stop) or self._looked_at(fault_log)
            if death is not None:
                return death
            if self._asked:
                break
            if suspicion is not None:
                suspicion.was_unfounded()
        alive = self._examiner.alive()
        return self._by_late_stop() or alive

    def _in_panic(self, fault_log: FaultLog) -> Death:
        """The death of a kernel at the beginning of its panic: it gets a moment to say why, and to reboot if it wants to."""
        states = self._examiner.states()
        cpu = next((cpu for cpu, state in states.items() if state.get("rip") in self._panics), None)
        state = self._examiner.state() if cpu is None else states[cpu]
        panic = replace(self._examiner.death(DeathKind.PANIC, state), cpu=cpu if len(states) > 1 else None)
        self._panicking()
        said = lambda: self._asked or any(_END_OF_PANIC in line for line in self._serial())  # noqa: E731
        stop = run_with_fault_log(self._target, fault_log, _PANIC_GRACE, self._followed.faults, said)
        end = self._examiner.by_stop(stop)
        return panic if end is None else replace(panic, ended=end.kind, status=end.status)

    def _looked_at(self, fault_log: FaultLog) -> Death | None:
        """The death of a machine that stands. A look steps it, and may kill the guest: `fault_log` shows the faults of that."""
        death = self._examiner.standing()
        self._followed.faults.extend(fault_log.faults(len(self._followed)))
        return death or self._by_late_stop()

    def _by_late_stop(self) -> Death | None:
        stop = self._examiner.late_stop()
        return None if stop is None else self._examiner.by_stop(stop)


def _pauses(deadline: float, *, often: bool = True) -> Iterator[float]:
    index = 0
    while (left := deadline - time.monotonic()) > 0:
        yield min(_PAUSES[min(index, len(_PAUSES) - 1)], left) if often else left
        index += 1


def run_with_fault_log(
    target: Target, fault_log: FaultLog, seconds: float, faults: deque[Fault], enough: Callable[[], bool]
) -> Stop:
    """Run the machine for a while, or until `enough`, and collect its faults. It is stopped afterwards. Raises TargetError."""

    def look() -> bool:
        fault_log.read(_TURN)
        return enough()

    ran = run(target, seconds, enough=look, turn=_POLL, stopping=fault_log.drained, may_vanish=True)
    faults.extend(fault_log.faults(UNPLACED))
    return ran.stop
