"""Run a machine from the prompt: to the next stop, or instruction by instruction.

Breakpoints are set before each run and stay set at a stop. While the machine runs, its reset vector has a breakpoint too: a reboot
of the guest is reported at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pvhdbg.errors import PvhdbgError, TargetError, TargetLost
from pvhdbg.machine.ahead import places_ahead
from pvhdbg.machine.disassemble import linear_pc
from pvhdbg.model import Registers
from pvhdbg.repl.watchpoints import WatchedMemory, placed
from pvhdbg.targets.run import Ran, RunEnd, leave_reset_vector, run
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Watchpoint, watching

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.repl.breakpoints import Breakpoint
    from pvhdbg.repl.stops import StopPlaces
    from pvhdbg.vmm.qemu import QemuProcess

_POLL = 0.1  # seconds between two checks of the serial port, the VMM and Ctrl-C while the guest runs

_LEAST = 0.001  # seconds of a run
_WALK = 1_000_000  # instructions of a run that is made of steps, since the stub cannot watch memory
_SLOTS = 20  # hardware breakpoints of one run
_SLOTS_KVM = 3  # of the four debug registers: one shows a reboot
_STEPS = 64  # instructions between two looks at the code ahead, where that was of no use


class Runnable(Protocol):
    """The runner's view of the machine: it has breakpoints, and its state for the prompt."""

    session: Session
    breakpoints: StopPlaces
    interrupted: threading.Event
    running: bool
    gone: str | None
    ended: str | None
    qemu: QemuProcess | None
    watch: Callable[[], None]

    def needs_machine(self) -> None: ...


class Went(NamedTuple):
    """How a run ended: the machine's stop, what was hit, and whether it was stopped because the time was up."""

    stop: Stop
    found: Breakpoint | WatchedMemory | None = None
    late: bool = False


_REBOOTED = Went(Stop(StopKind.SHUTDOWN, 3, "the guest rebooted: it is at its reset vector"))


class Walked(NamedTuple):
    """How a walk ended: whether it got where it was to go, what was hit, whether the time was up, and whether
    something else than a step stopped the machine."""

    reached: bool
    found: Breakpoint | WatchedMemory | None = None
    late: bool = False
    stop: Stop | None = None


class Runner:
    """Runs one machine. `armed` are the linear addresses where the stub stops it now, `watched` the watchpoints that it has."""

    def __init__(self, machine: Runnable) -> None:
        self._machine = machine
        self.armed: set[int] = set()
        self.watched: set[Watchpoint] = set()
        self.reboots = 0  # reboots that the firmware may still need

    def go(self, until: Collection[int] = (), seconds: float = math.inf) -> Went:
        """Run to the next stop: a breakpoint, one of the linear addresses `until`, a reboot, the end, or an interrupt.

        After `seconds` it is stopped where it is.
        """
        self.ready_to_run("continue")
        deadline = time.monotonic() + seconds
        target = self._machine.session.target
        if target.read_registers()["rip"] == RESET_RIP:
            target.step()
        self._arm(until)
        if any(one.by_steps for one in self._machine.breakpoints.watches()):
            return self._walk(until, seconds)
        try:
            went: Went | None = None
            while went is None:
                self._machine.session.resumed()
                ran = self._run(max(deadline - time.monotonic(), _LEAST))
                went = self._ended_by(ran.stop, until)
            if went is _REBOOTED:
                return went
            self._found_out()
            return went._replace(late=ran.end is RunEnd.TIME)
        finally:
            self._leave_temporaries(until)

    def _ended_by(self, stop: Stop, until: Collection[int]) -> Went | None:
        """How this stop ends a run; None where the machine goes on."""
        if not self._still_there(stop) or stop.kind is not StopKind.BREAKPOINT:
            return Went(stop)
        if (watch := self._watch_hit(stop)) is not None:
            return Went(stop, watch)
        if stop.watched is not None and any(stop.watched == one.address for one in self.watched):
            return None  # the address is that of something else by now
        pc = self._machine.session.target.read_registers()["rip"]
        if pc == RESET_RIP:
            return None if self._passes_reboot() else _REBOOTED
        here = self._here(pc)
        for one in self._machine.breakpoints.all():
            if here & set(one.addresses) and self._is_meant(one, here):
                return Went(stop, self._machine.breakpoints.hit(one.number))
        passed = here & self.armed and not here & set(until)  # else GDB's own breakpoint or watchpoint stopped it
        return None if passed else Went(stop)

    def _still_there(self, stop: Stop) -> bool:
        """Whether the guest still runs; its end is noted. Raises TargetLost where the VMM is gone."""
        if stop.kind is StopKind.EXITED:
            raise TargetLost(stop.text)
        if stop.kind is StopKind.SHUTDOWN:
            self._machine.ended = stop.text
        return stop.kind is not StopKind.SHUTDOWN

    def _walk(self, until: Collection[int], seconds: float) -> Went:
        """As `go`, by steps: `_WALK` of them at most."""
        watches = [one for one in self._machine.breakpoints.watches() if one.by_steps]
        session, hit = self._machine.session, list[WatchedMemory]()

        def here(registers: Registers) -> bool:
            hit[:] = [one for one in watches if one.now(session) != one.value][:1]
            return bool(hit) or registers["rip"] in until

        walked = self.step_until(here, _WALK, seconds)
        if self._machine.ended is not None:
            return Went(Stop(StopKind.SHUTDOWN, 3, self._machine.ended))
        if hit:
            return Went(Stop(StopKind.BREAKPOINT), self._seen(hit[0]))
        late = walked == Walked(False) or walked.late
        return Went(walked.stop or Stop(StopKind.BREAKPOINT), walked.found, late)

    def _watch_hit(self, stop: Stop) -> WatchedMemory | None:
        """The watchpoint that a stop reports, where its address maps to what was meant."""
        placement = self._machine.session.placement if stop.watched is not None else None
        for one in self._machine.breakpoints.watches():
            if placement is None or stop.watched not in one.addresses or stop.watched_for is not one.access:
                continue
            if one.physical is None or placement.physical(stop.watched) in (one.physical, None):
                return self._seen(one)
        return None

    def _seen(self, one: WatchedMemory) -> WatchedMemory:
        """Count a hit, with the bytes that are there now."""
        return self._machine.breakpoints.watch(
            replace(one, hits=one.hits + 1, before=one.value, value=one.now(self._machine.session))
        )

    def ready_to_run(self, command: str) -> None:
        self._machine.session.needs_control(command)
        self._machine.needs_machine()
        if self._machine.ended is not None:
            raise TargetError(f"the machine cannot run on: {self._machine.ended}", "boot it again: restart")

    @property
    def ended(self) -> str | None:
        """How the guest ended, where it has."""
        return self._machine.ended

    def slots(self) -> int:
        """How many more breakpoints one run may have."""
        kvm = self._machine.session.hand_off().snapshot.vmm.kvm
        return _SLOTS_KVM - len(self._machine.breakpoints.addresses()) if kvm else _SLOTS

    def _found_out(self) -> None:
        self.reboots = 0
        self._machine.session.stopped()
        self._machine.breakpoints.place(self._machine.session)

    def _run(self, seconds: float) -> Ran:
        self._machine.running = True
        try:
            return run(self._machine.session.target, seconds, enough=self._is_interrupted, turn=_POLL)
        finally:
            self._machine.running = False
            self._machine.interrupted.clear()
            self._machine.watch()

    def _is_interrupted(self) -> bool:
        """Check the serial port, Ctrl-C and the VMM of a running machine. Raises TargetLost where QEMU ended."""
        self._machine.watch()
        if self._machine.interrupted.is_set():
            return True
        if self._machine.qemu is not None and self._machine.qemu.poll() is not None:
            raise TargetLost("QEMU ended")
        return False

    def _passes_reboot(self) -> bool:
        if self.reboots <= 0:
            self._machine.session.forget()
            return False
        self.reboots -= 1
        leave_reset_vector(self._machine.session.target)
        return True

    def _here(self, pc: int) -> set[int]:
        """The linear address of `pc`, in both readings where CS has a base."""
        if pc in self.armed:
            return {pc}
        return {pc, linear_pc(self._machine.session)}

    def _is_meant(self, one: Breakpoint, here: set[int]) -> bool:
        """Whether the address that was hit maps to the symbol: a user's program may use the same low addresses."""
        if one.physical is None:
            return True
        placement = self._machine.session.placement
        return any(placement.physical(address) in (one.physical, None) for address in here)

    def _arm(self, until: Collection[int]) -> None:
        self._machine.breakpoints.place(self._machine.session)
        self.arm_watches()
        wanted = self._machine.breakpoints.addresses() | set(until)
        target = self._machine.session.target
        for address in self.armed - wanted - {RESET_VECTOR}:
            target.clear_breakpoint(address)
        self.armed &= wanted
        for address in sorted(wanted - self.armed):
            target.set_breakpoint(address)
            self.armed.add(address)
        try:
            target.set_breakpoint(RESET_VECTOR)  # reports a reboot at once
            self.armed.add(RESET_VECTOR)
        except TargetError:
            pass  # the accelerator has no slot left: a reboot then shows by what follows it

    def arm_watches(self) -> None:
        """Have the stub watch all watchpoints. Raises TargetError where it refuses one; what it has none of goes by steps."""
        breakpoints, session = self._machine.breakpoints, self._machine.session
        target = watching(session.target)
        found = [breakpoints.watch(placed(session, one)) for one in breakpoints.watches()]
        wanted = {point for one in found for point in one.points()}
        for point in self.watched - wanted:
            if target is not None:
                target.clear_watchpoint(point)
        self.watched &= wanted
        for one in found:
            for point in one.points():
                if point not in self.watched and (target is None or not target.set_watchpoint(point)):
                    breakpoints.watch(replace(one, by_steps=True))
                    break
                self.watched.add(point)

    def _leave_temporaries(self, until: Collection[int]) -> None:
        try:
            for address in set(until) - self._machine.breakpoints.addresses():
                self._machine.session.target.clear_breakpoint(address)
                self.armed.discard(address)
        except PvhdbgError:
            pass  # the machine is gone, and its breakpoints with it

    def disarm(self) -> None:
        target = self._machine.session.target
        for address in self.armed:
            target.clear_breakpoint(address)
        if (watcher := watching(target)) is not None:
            for point in self.watched:
                watcher.clear_watchpoint(point)
        self.starts_anew()

    def starts_anew(self) -> None:
        """Another connection, or another machine: nothing is set there."""
        self.armed, self.watched = set(), set()

    def step(self, count: int = 1) -> Breakpoint | WatchedMemory | None:
        """Step `count` instructions, or up to the next breakpoint or watchpoint, which is then returned."""
        return self.step_until(lambda _: False, count).found

    def step_until(self, true: Callable[[Registers], bool], most: int, seconds: float = math.inf) -> Walked:
        """Step until `true` of the registers, a breakpoint, Ctrl-C, the guest's end, `most` instructions, or for `seconds`."""
        self.ready_to_run("stepi")
        deadline = time.monotonic() + seconds
        target = self._machine.session.target
        if self._machine.breakpoints.watches():
            self.arm_watches()
        self._machine.session.resumed()
        self._machine.running = True
        last = time.monotonic()
        try:
            for _ in range(most):
                stop = target.step()
                if not self._still_there(stop):
                    break
                if stop.kind is StopKind.INTERRUPT and not self._machine.interrupted.is_set():
                    raise TargetError(stop.text, "let it run with: continue; or see where it waits: mode, disas")
                walked = self._hit_by_step(stop, true)
                if walked is not None:
                    return walked
                if time.monotonic() - last > _POLL:
                    last = time.monotonic()
                    self._machine.watch()
                if self._machine.interrupted.is_set():
                    return Walked(False, stop=Stop(StopKind.INTERRUPT, 2))
                if time.monotonic() > deadline:
                    return Walked(False, late=True)
            return Walked(False)
        finally:
            self._machine.running = False
            self._machine.interrupted.clear()
            if self._machine.gone is None:
                self._stopped_quietly()
            self._machine.watch()

    def _hit_by_step(self, stop: Stop, true: Callable[[Registers], bool]) -> Walked | None:
        """What ends a walk after this step: a watchpoint, `true`, or a breakpoint."""
        registers = self._machine.session.target.read_registers()
        if stop.watched is not None and (watch := self._watch_hit(stop)) is not None:
            return Walked(False, watch)
        if true(registers):
            return Walked(True)
        for one in self._machine.breakpoints.all():
            if registers["rip"] in one.addresses:
                return Walked(False, self._machine.breakpoints.hit(one.number))
        return None

    def until_true(self, true: Callable[[Registers], bool], seconds: float, tell: Callable[[int], None]) -> Walked:
        """Run until `true` of the registers, which only a change of the CPU's mode can make true; else as `step_until`.

        Where the places at which the mode can change are known, the machine runs from one to the next at full speed. `tell` gets the pc
        of each.
        """
        deadline = time.monotonic() + seconds
        session = self._machine.session
        slots = self.slots()
        while True:
            left = max(deadline - time.monotonic(), _LEAST)
            ahead = places_ahead(session, slots)
            pc = linear_pc(session)
            tell(pc)
            if ahead is not None and pc not in ahead:
                went = self.go(ahead, left)
                if went.found is not None or went.late:
                    return Walked(False, went.found, went.late)
                if went.stop.kind is not StopKind.BREAKPOINT or linear_pc(session) not in ahead:
                    return Walked(False, stop=went.stop)
            walked = self.step_until(true, 1 if ahead is not None else _STEPS, left)
            if walked != Walked(False) or self._machine.ended is not None:
                return walked

    def _stopped_quietly(self) -> None:
        try:
            self._machine.session.stopped()
        except PvhdbgError:
            pass  # it is being interrupted already
