"""Wait for a place, a mode or words on the serial port, and for the guest's death: whichever comes first.

The first instructions are followed one by one, as in `Watch`, because that is where most deaths are and where the way there
explains them. After that the machine runs at full speed with the fault tap, and is looked at often enough that a death is told
within a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from pvhdbg.errors import EntryNotReached, TargetError, TargetLost
from pvhdbg.model import Registers
from pvhdbg.targets.target import RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.trace.death import Death
from pvhdbg.trace.engines.engine import Bounds, End
from pvhdbg.trace.engines.log import LogEngine
from pvhdbg.trace.engines.log_switch import LogSwitch
from pvhdbg.trace.engines.watch import FIRST, Watch
from pvhdbg.trace.event import Event, Fault, Mode, mode_of
from pvhdbg.trace.milestones import Finder, Milestone
from pvhdbg.trace.mode_words import first_in
from pvhdbg.trace.places import Surroundings
from pvhdbg.trace.qemu_log import LogReader

_LONGEST = 0.5  # seconds that the first instructions are followed for
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4)  # seconds between two looks, the last from then on; less than a second with the look itself
_MODE_PAUSE = 0.02  # seconds, where a mode is waited for, which only a look tells
_PANIC_GRACE = 0.3  # seconds that a kernel gets to say all of its panic
_FINAL = ("triple fault", "shutdown", "reset", "exited")  # such a machine does not run any more


@dataclass(frozen=True)
class Goal:
    """What is waited for: one of some linear addresses, one of some modes, or until `done` says so (asked while the machine runs)."""

    addresses: tuple[int, ...] = ()
    modes: frozenset[Mode] = frozenset()
    done: Callable[[], bool] = lambda: False


class Wait(Watch):
    """See `Watch`. With `blind` nothing is logged (KVM, or a log of the user's own): faults are then not seen.

    `ended` gives QEMU's word for how the guest ended. `milestones` are those of the instructions that were followed: the first
    20 000, as many as half a second allows, or with `count` that many, however long it takes.
    """

    def __init__(self, target: Target, around: Surroundings, *, code: Callable[[int], bytes] = lambda _: b"",
                 status: Callable[[], int | None] = lambda: None, serial: Callable[[], Sequence[str]] = tuple,
                 ended: Callable[[], str] = str, finder: Finder | None = None, blind: bool = False, count: int = 0,
                 progress: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
        super().__init__(target, around, code=code, status=status, serial=serial, progress=progress)
        self._ended_by = ended
        self._finder = finder or Finder()
        self._blind = blind
        self._goal = Goal()
        self._following = not blind
        self._first = max(count, FIRST)
        self._patient = bool(count)
        self._stood: Registers | None = None
        self._death_seen: Death | None = None
        self.milestones: list[Milestone] = []
        self.last: tuple[int, Mode | None] | None = None  # where the CPU was seen last
        self.instructions: int | None = None  # that ran before the goal that was reached last; None where they were not counted

    def until(self, goal: Goal, seconds: float) -> Death | None:
        """None when the goal was reached, else the death, or "alive" after `seconds`. The machine stands still afterwards.

        A place is stopped at exactly; a mode is seen a little after it was entered (about a thousand instructions while
        they are followed). Raises TargetError.
        """
        if self._death_seen is not None:
            return self._death_seen
        self._goal = goal
        self.instructions = None
        deadline = time.monotonic() + seconds
        if goal.done() or (goal.modes and self._mode(self._state()) in goal.modes):
            self._count_to_mode()
            return None
        with self._remembered():
            try:
                arrived, death = self._approach(deadline) if self._follows() else (False, None)
                if not arrived and death is None:
                    arrived, death = self._at_full_speed(deadline)
            except TargetLost:  # in the middle of a question
                arrived, death = False, self._ended(End("exited"))
                if death is None or death.status is None:
                    raise  # it is the connection that ended, as far as is known
        if arrived or goal.done():
            self._count_to_mode()
            return None
        if death is not None and death.kind in _FINAL:
            self._death_seen = death
        return death

    @property
    def counted(self) -> int:
        """How many instructions were followed from the entry on."""
        return len(self._pcs)

    def _count_to_mode(self) -> None:
        met = first_in(self._modes, self._goal.modes)
        if met is not None:
            self.instructions = met
        elif self._goal.modes and self._following and not self._pcs:
            self.instructions = 0  # it began there

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._stood = None
            with suppress(TargetError):
                self._stood = self._target.read_registers()

    def remember(self) -> None:
        """Somebody else is about to let the machine run: what is counted from the entry ends here."""
        if self._stood is None:
            self._stood = self._target.read_registers()

    def _follows(self) -> bool:
        """Whether the machine stands where its first instructions were followed to: nobody else let it run."""
        if self._following and self._stood is not None and self._stood != self._target.read_registers():
            self._lose_count()
        return self._following

    def _lose_count(self) -> None:
        self._following = self._counted = False
        self._last.clear()

    # --- the first instructions -----------------------------------------------------------------------------------

    def _approach(self, deadline: float) -> tuple[bool, Death | None]:
        self._progress("following the guest's first instructions")
        engine = LogEngine(self._target, states=True, base=len(self._pcs), peek=self._code)
        left = max(deadline - time.monotonic(), 0.01)
        bounds = Bounds(self._goal.addresses, self._first - len(self._pcs), left if self._patient else min(left, _LONGEST))
        met = False
        for batch in engine.batches(bounds):
            self._record(batch)
            self.milestones += self._finder.feed(batch)
            if len(batch):
                self.last = batch.pcs[-1], batch.modes[-1]
            met = met or first_in(batch.modes, self._goal.modes) is not None or self._goal.done()
            if met or self._asked:
                engine.stop()
        self.warnings += [warning for warning in engine.warnings if warning not in self.warnings]
        end = self._end_of(engine)
        if end.why == "address":
            self._following = len(self._pcs) < self._first
            self.instructions = len(self._pcs)
            return True, None
        death = None if met else self._ended(end)
        arrived = met or self._goal.done()
        if not arrived and death is None:
            with self._places_held():  # looking for a loop lets the machine run for a moment
                arrived, death = self._judged(end.stop)
        if arrived and len(self._pcs) < self._first:
            return True, None  # the next wait follows it on
        self._lose_count()
        if death is not None and (death.kind == "panic" or death.polls) and death.kind not in _FINAL and not death.reason:
            death = None  # time has to tell
        return arrived, None if arrived else death

    # --- at full speed --------------------------------------------------------------------------------------------

    def _at_full_speed(self, deadline: float) -> tuple[bool, Death | None]:
        self._lose_count()
        reader = LogReader(states=False)
        suspect: Death | None = None
        looked = False
        with self._places_held(), self._tap() as switch:
            for pause in self._looks():
                left = deadline - time.monotonic()
                if looked and left <= 0:
                    break
                looked = True
                self._progress("waiting for the guest")
                stop = self._run(switch, reader, max(min(pause, left), 0.001))
                self._faults.extend(reader.tap(switch.rest()))
                arrived, death = self._judged(stop)
                if death is not None and death.kind == "panic" and not death.reason and suspect is None:
                    suspect, deadline = death, min(deadline, time.monotonic() + _PANIC_GRACE)
                    continue
                if death is not None and death.kind == "loop" and death.polls:
                    suspect = death  # it may wait for something that comes: only the end of the time tells
                    continue
                if arrived or death is not None:
                    return arrived, death
                suspect = suspect if suspect is not None and suspect.kind == "panic" else None
                if self._asked:
                    break
        return False, suspect or self._death("alive", self._state())

    @contextmanager
    def _places_held(self) -> Iterator[None]:
        """Breakpoints at the goal's addresses and at the reset vector for as long as this lasts."""
        places = (*self._goal.addresses, RESET_VECTOR)
        try:
            for address in places:
                self._target.set_breakpoint(address)
            yield
        finally:
            for address in places:
                with suppress(TargetError):  # the machine may be gone
                    self._target.clear_breakpoint(address)

    def _looks(self) -> Iterator[float]:
        yield from (_MODE_PAUSE,) if self._goal.modes else _PAUSES
        while True:
            yield _MODE_PAUSE if self._goal.modes else _PAUSES[-1]

    @contextmanager
    def _tap(self) -> Iterator[LogSwitch]:
        if self._blind:
            yield _Blind()
            return
        with LogSwitch(self._target, "int,cpu_reset", single=False) as switch:
            yield switch

    def _judged(self, stop: Stop | None) -> tuple[bool, Death | None]:
        """Whether a machine that stands still has arrived, and whether it is dead."""
        if stop is None:
            stop = Stop(StopKind.INTERRUPT, 2)
        if self._goal.done():
            return True, None
        if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN):
            return False, self._stopped(stop)
        if stop.kind is StopKind.ERROR:
            return False, self._refused(stop)
        if self._at_goal(stop):
            return True, None
        state = self._state()
        self.last = self._seen(state) or self.last
        if self._goal.modes and self._mode(state) in self._goal.modes:
            return True, None
        death = self._stopped(stop)
        if death is None and state:  # without a monitor only what the stub tells is known
            death = self._standing()
        late, self._late = self._late, None
        if death is None and late is not None:
            if self._at_goal(late):
                return True, None
            death = self._stopped(late)
        if death is None and self._target.read_registers()["rip"] in self._goal.addresses:
            return True, None  # stepped onto it while the machine was looked at
        return False, death

    def _at_goal(self, stop: Stop) -> bool:
        if not self._goal.addresses or stop.kind is not StopKind.BREAKPOINT:
            return False
        pc = self._target.read_registers()["rip"]
        if pc in self._goal.addresses:
            return True
        state = self._state()  # in 16-bit code the pc is an offset into cs
        return pc + state.get("cs_base", 0) in self._goal.addresses

    def _refused(self, stop: Stop) -> Death:
        """The VMM stopped the machine itself. Raises EntryNotReached when that was not the guest's doing."""
        status = self._target.monitor("info status") if self._target.capabilities.monitor else ""
        if "guest-panicked" in status:
            return replace(self._death("panic", self._state()), reason="guest-panic")
        raise EntryNotReached(f"the VMM stopped the machine ({status.strip() or stop.text})", "see what QEMU itself said")

    def _ended(self, end: End) -> Death | None:
        death = super()._ended(end)
        if death is None:
            return None
        reason = self._ended_by() if death.kind in ("shutdown", "exited") else ""
        kind = {"guest-reset": "reset", "guest-panic": "panic"}.get(reason, death.kind) if death.kind == "shutdown" else death.kind
        return replace(death, kind=kind, reason=reason, blind=self._blind)

    def _death(self, kind: str, state: dict[str, int], chain: tuple[Fault, ...] = (), loop: tuple[int, ...] = ()) -> Death:
        """With the faulting instruction, which lies in memory still, where the way to it was not followed."""
        death = super()._death(kind, state, chain, loop)
        if death.path or death.first is None or death.first.pc is None or death.mode is None:
            return death
        code = self._bytes(death.first.pc, dict(death.state))
        return replace(death, path=(Event(0, death.first.pc, death.mode, code),)) if code else death

    def _content(self) -> bool:
        return self._goal.done()

    def _arrives(self, pc: int) -> bool:
        return super()._arrives(pc) or pc in self._goal.addresses

    def here(self) -> tuple[int, Mode | None] | None:
        """Where a machine stands that stands still, and its mode."""
        return self._seen(self._state())

    def _seen(self, state: dict[str, int]) -> tuple[int, Mode | None] | None:
        return (state["rip"], self._mode(state)) if "rip" in state else None

    def _mode(self, state: dict[str, int]) -> Mode | None:
        if any(name not in state for name in ("cr0", "cr4", "efer")):
            return None
        return mode_of(state["cr0"], state["cr4"], state["efer"], state.get("cs_flags"), state.get("eflags", 0))


class _Blind(LogSwitch):
    """In the place of a log that cannot be switched on: says nothing, in the same time."""

    def __init__(self) -> None:
        pass

    def read(self, patience: float) -> bytes:
        time.sleep(patience)
        return b""

    def rest(self) -> bytes:
        return b""

    @contextmanager
    def drained(self) -> Iterator[list[bytes]]:
        yield []
