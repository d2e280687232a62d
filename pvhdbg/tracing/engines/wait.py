"""Wait for an address, a mode or a line on the serial port, and for the guest's death, whichever comes first.

The first instructions are followed one by one, as in `death_watch`: most deaths are there, and the path explains them. After that the
machine runs at full speed with the fault log. With the flight recorder it is examined where the recording shows a reason; without it, often
enough that a death is reported within a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace

from pvhdbg.decode.cpu_mode import Mode, linear_pc, mode_in
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import EntryNotReached, TargetError, TargetLost
from pvhdbg.model import GuestEnd, Registers
from pvhdbg.targets.run import breakpoints_at
from pvhdbg.targets.target import RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.death import Death, DeathKind, panicked
from pvhdbg.tracing.engines.death_watch import FIRST, run_with_fault_log
from pvhdbg.tracing.engines.engine import Bounds, StopsWhenAsked, TraceEnd
from pvhdbg.tracing.engines.examiner import Examiner
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.engines.followed import Followed
from pvhdbg.tracing.engines.registers import Recorder
from pvhdbg.tracing.engines.suspicion import Suspicion
from pvhdbg.tracing.event import Batch, EndReason, Event
from pvhdbg.tracing.goal import Goal
from pvhdbg.tracing.milestones import Finder, Milestone
from pvhdbg.tracing.mode_words import first_in
from pvhdbg.tracing.recent import events_of
from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recording import Recording

_LONGEST = 0.5  # seconds that the first instructions are followed for
_PAUSES = (
    0.02,
    0.05,
    0.1,
    0.2,
    0.4,
)  # seconds between two examinations; the last one repeats; below a second including the examination
_LONGEST_PAUSE = 3600.0  # seconds, where the recording tells when to look
_MODE_PAUSE = 0.02  # seconds between two examinations for a mode, which nothing else shows
_PANIC_GRACE = 0.3  # seconds in which a kernel may write all of its panic


@dataclass(frozen=True)
class _Found:
    """The result of an examination: the goal, a death, or (false) neither."""

    arrived: bool = False
    death: Death | None = None

    def __bool__(self) -> bool:
        return self.arrived or self.death is not None


_NOTHING, _ARRIVED = _Found(), _Found(arrived=True)


class Wait(StopsWhenAsked):
    """See `DeathWatch`. With `blind` nothing is logged (KVM, or a log of the user's own): faults are then not observed.

    `ended` gives why QEMU says that the guest ended; `awaits`: see `Suspicion`. `milestones` are those of the instructions that were followed: the first
    20 000, as many as half a second allows, or with `count` that many, however long it takes. `recorder` is the machine's flight
    recorder: it counts all instructions, and stops the machine at `panics`, linear addresses of a function that never returns.
    """

    def __init__(
        self,
        target: Target,
        around: Surroundings,
        *,
        code: Callable[[int], bytes] = lambda _: b"",
        status: Callable[[], int | None] = lambda: None,
        serial: Callable[[], Sequence[str]] = tuple,
        ended: Callable[[], GuestEnd | None] = lambda: None,
        awaits: Callable[[], bool] = lambda: False,
        finder: Finder | None = None,
        blind: bool = False,
        count: int = 0,
        progress: Callable[[str], None] = lambda _: None,
        recorder: Recorder | None = None,
        panics: Sequence[int] = (),
    ) -> None:
        self._recorder = recorder
        self._panics = tuple(panics)
        self._serial, self._awaits = serial, awaits
        self._modes_seen = 0  # of the recorder's
        self._target = target
        self._progress = progress
        self._finder = finder or Finder()
        self._blind = blind
        self._goal = Goal()
        self._followed = Followed(target, code, recorder)
        self._examiner = Examiner(
            target, around, self._followed, status=status, serial=serial, vmm_end=ended, blind=blind,
            goal=lambda pc: pc in self._goal.addresses,
        )  # fmt: skip
        self._following = not blind
        self._counts = recorder is not None and recorder.recording.exact  # to the end
        self._first = FIRST if self._counts else max(count, FIRST)
        self._patient = bool(count) and not self._counts
        self._stood: Registers | None = None  # the machine's registers when the last wait ended
        self._dead: Death | None = None
        self._events: RecordedEvents | None = None
        self._passed: int | None = None  # the first instruction in a mode that is the goal, where the recorder saw it
        self.milestones: list[Milestone] = []
        self.last: tuple[int, Mode | None] | None = None  # where the CPU was seen last
        self.instructions: int | None = None  # instructions before the last goal that was reached; None where they were not counted

    @property
    def counted(self) -> int:
        """How many instructions were counted from the entry on."""
        if self._recorder is not None and self._counts:
            return self._recorder.recording.begun_at_a_stop
        return len(self._followed)

    @property
    def warnings(self) -> list[SafeText]:
        """Doubts about what was seen, as sentences."""
        return self._followed.warnings

    def until(self, goal: Goal, seconds: float) -> Death | None:
        """None when the goal was reached, else the death; one of the kind ALIVE after `seconds`. The machine is stopped afterwards.

        It stops exactly at an address; a mode is seen a little after it was entered (about a thousand instructions while
        they are followed). Raises TargetError.
        """
        if self._dead is not None:
            return self._dead
        self._goal = goal
        self.instructions = self._passed = None
        found = (
            _ARRIVED if goal.done() or self._in_wanted_mode(self._examiner.state()) else self._waited(time.monotonic() + seconds)
        )
        if found.arrived or goal.done():
            self._count_to_mode()
            return None
        if found.death is None:
            return None
        death = self._with_faulting_code(found.death)
        self._dead = death if death.kind.final or death.ended is not None else None
        return death

    def _waited(self, deadline: float) -> _Found:
        with self._remembered():
            try:
                found = self._follow(deadline) if self._follows() else _NOTHING
                return found or self._at_full_speed(deadline)
            except TargetLost:
                death = self._examiner.vanished()
                if death is None:
                    raise
                return _Found(death=death)

    def here(self) -> tuple[int, Mode | None] | None:
        """The pc and the mode of a stopped machine."""
        return _seen(self._examiner.state())

    def remember(self) -> None:
        """Other code is about to run the machine: the count from the entry ends here."""
        if self._stood is None:
            self._stood = self._target.read_registers()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._stood = None
            with suppress(TargetError):
                self._stood = self._target.read_registers()

    def _follows(self) -> bool:
        """Whether the machine is still where the trace of its first instructions ended."""
        if self._following and self._stood is not None and self._stood != self._target.read_registers():
            self._lose_count()
        return self._following

    def _lose_count(self) -> None:
        self._following = False
        self._followed.lose_count()

    def _count_to_mode(self) -> None:
        reached = first_in(self._followed.modes, self._goal.modes)
        if self._counts and self._goal.modes:
            began = 0 if self._following and not self.counted else None
            self.instructions = (
                self._followed.start + reached if reached is not None else self._passed if self._passed is not None else began
            )
        elif self._counts:
            self.instructions = self.counted
        elif reached is not None:
            self.instructions = reached
        elif self._goal.modes and self._following and not self.counted:
            self.instructions = 0  # it began there

    # --- the first instructions -----------------------------------------------------------------------------------

    def _follow(self, deadline: float) -> _Found:
        """Follow the first instructions: to the goal, to a death, or as far as that costs little time."""
        self._progress("following the guest's first instructions")
        left = max(deadline - time.monotonic(), 0.01)
        bounds = Bounds(self._goal.addresses, self._first - len(self._followed), left if self._patient else min(left, _LONGEST))
        passed = False

        def enough(batch: Batch) -> bool:
            nonlocal passed
            self.milestones += self._finder.feed(batch)
            if len(batch):
                self.last = batch.pcs[-1], batch.modes[-1]
            passed = passed or first_in(batch.modes, self._goal.modes) is not None or self._goal.done()
            return passed or self._asked

        end = self._followed.follow(bounds, states=True, enough=enough)
        found = _ARRIVED if passed else self._found_at(end)
        if end.why is EndReason.ADDRESS:
            self._following = len(self._followed) < self._first
            self.instructions = self.counted
        elif not found.arrived or len(self._followed) >= self._first:
            self._lose_count()  # else the next wait would continue the trace
        return _NOTHING if found.death is not None and _may_recover(found.death) else found

    def _found_at(self, end: TraceEnd) -> _Found:
        """The result that the end of the trace implies."""
        if end.why is EndReason.ADDRESS and end.pc not in self._panics:
            return _ARRIVED
        death = self._examiner.by_end(end)
        if self._goal.done():
            return _ARRIVED
        if death is not None:
            return _Found(death=death)
        with self._breakpoints():  # the search for a loop runs the machine for a moment
            return self._look(end.stop or Stop(StopKind.INTERRUPT, 2))

    # --- at full speed --------------------------------------------------------------------------------------------

    def _at_full_speed(self, deadline: float) -> _Found:
        self._lose_count()
        suspect: Death | None = None  # may recover: wait and examine again
        looked = False
        suspicion = None
        if self._recorder is not None:
            suspicion = Suspicion(self._recorder.recording, lambda: panicked(self._serial()) is not None, self._awaits)
            self._passes(self._recorder.recording)  # the modes so far are known
        with self._breakpoints(), self._fault_log() as fault_log:
            for pause in self._pauses():
                left = deadline - time.monotonic()
                if looked and (left <= 0 or self._asked):
                    break
                looked = True
                self._progress("waiting for the guest")
                stop = run_with_fault_log(
                    self._target,
                    fault_log,
                    max(min(pause, left), 0.001),
                    self._followed.faults,
                    lambda: self._asked or self._goal.done() or self._is_suspicious(suspicion),
                )
                found = self._look(stop)
                if not found:
                    if suspicion is not None:
                        suspicion.was_unfounded()
                    continue
                if found.death is None:
                    return found
                if not _may_recover(found.death):
                    return _Found(death=self._of_panic(suspect, found.death))
                if suspect is not None:
                    return _Found(death=suspect)
                suspect, deadline = found.death, min(deadline, time.monotonic() + _PANIC_GRACE)
            return _Found(death=suspect) if suspect is not None else self._living()

    def _of_panic(self, panic: Death | None, end: Death) -> Death:
        """The panic that the machine's end belongs to, if it had begun; else the end itself."""
        if panic is None or not self._panics or not end.kind.final:
            return end
        return replace(panic, ended=end.kind, status=end.status)

    def _is_suspicious(self, suspicion: Suspicion | None) -> bool:
        """Whether the recording shows the goal, or a reason to look at the machine."""
        if suspicion is None or self._recorder is None:
            return False
        return self._passes(self._recorder.recording) or suspicion.arises()

    def _passes(self, recording: Recording) -> bool:
        """Whether the CPU was in a mode that is the goal since the last call."""
        if not self._goal.modes or not recording.entered:
            return False
        self._events = self._events or events_of(recording)
        if self._events is None:
            return False
        self._events.before(recording.begun())
        new = self._events.modes[self._modes_seen :]
        self._modes_seen += len(new)
        self._passed = next((number for number, mode in new if mode in self._goal.modes), None)
        return self._passed is not None

    def _living(self) -> _Found:
        """It lives when the time is up; or it reached the goal, or died, in the last look."""
        alive = self._examiner.alive()
        late = self._examiner.late_stop()
        if late is None:
            return _Found(death=alive)
        return _ARRIVED if self._at_goal(late) else _Found(death=self._examiner.by_stop(late) or alive)

    def _breakpoints(self) -> AbstractContextManager[None]:
        return breakpoints_at(self._target, (*self._goal.addresses, RESET_VECTOR))

    def _pauses(self) -> Iterator[float]:
        while self._recorder is not None:
            yield _LONGEST_PAUSE
        yield from (_MODE_PAUSE,) if self._goal.modes else _PAUSES
        while True:
            yield _MODE_PAUSE if self._goal.modes else _PAUSES[-1]

    def _fault_log(self) -> AbstractContextManager[FaultLog]:
        fault_log = FaultLog(self._target, required=True)
        return nullcontext(fault_log) if self._blind else fault_log

    def _look(self, stop: Stop) -> _Found:
        """What is found at a machine that stands still after `stop`. Raises EntryNotReached where the VMM refused to run it on."""
        if self._goal.done():
            return _ARRIVED
        if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN):
            return _Found(death=self._examiner.by_stop(stop))
        if stop.kind is StopKind.ERROR:
            return _Found(death=self._refused(stop))
        if self._at_goal(stop):
            return _ARRIVED
        state = self._examiner.state()
        self.last = _seen(state) or self.last
        if self._passed is not None or self._in_wanted_mode(state):
            return _ARRIVED
        pc = self._target.read_registers()["rip"]
        if pc in self._panics and pc not in self._goal.addresses:
            return _Found(death=self._examiner.death(DeathKind.PANIC, state))
        death = self._examiner.by_stop(stop)
        if death is None and state:  # without a monitor only the stub's own report is available
            death = self._examiner.standing()
        late = self._examiner.late_stop()
        if death is None and late is not None:
            if self._at_goal(late):
                return _ARRIVED
            death = self._examiner.by_stop(late)
        if death is None and self._target.read_registers()["rip"] in self._goal.addresses:
            return _ARRIVED  # the examination stepped onto it
        return _Found(death=death)

    def _in_wanted_mode(self, state: dict[str, int]) -> bool:
        return bool(self._goal.modes) and mode_in(state) in self._goal.modes

    def _at_goal(self, stop: Stop) -> bool:
        if not self._goal.addresses or stop.kind is not StopKind.BREAKPOINT:
            return False
        pc = self._target.read_registers()["rip"]
        if pc in self._goal.addresses:
            return True
        # QEMU: in 16-bit code the stub's pc is an offset into CS.
        return linear_pc(pc, self._examiner.state().get("cs_base"), None) in self._goal.addresses

    def _refused(self, stop: Stop) -> Death:
        """The VMM stopped the machine itself. Raises EntryNotReached unless the guest's panic was the reason."""
        status = self._target.monitor("info status") if self._target.capabilities.monitor else ""
        if "guest-panicked" in status:
            return replace(self._examiner.death(DeathKind.PANIC, self._examiner.state()), reason=GuestEnd.PANIC)
        raise EntryNotReached(f"the VMM stopped the machine ({status.strip() or stop.text})", "see QEMU's own messages")

    def _with_faulting_code(self, death: Death) -> Death:
        """With the faulting instruction, which still lies in memory, where the path to it was not followed."""
        if death.path or death.first is None or death.first.pc is None or death.mode is None:
            return death
        code = self._examiner.code_at(death.first.pc, death.state)
        return replace(death, path=(Event(0, death.first.pc, death.mode, code),)) if code else death


def _may_recover(death: Death) -> bool:
    """A kernel that says that it panics has more to say."""
    return death.kind is DeathKind.PANIC and death.reason is None


def _seen(state: dict[str, int]) -> tuple[int, Mode | None] | None:
    return (state["rip"], mode_in(state)) if "rip" in state else None
