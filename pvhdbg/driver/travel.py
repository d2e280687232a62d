"""Time travel: each move boots the session's kernel again by the deterministic clock, and stops it before an exact instruction.

All boots by that clock are the same, so instruction N of the new machine is instruction N of the old one. A machine whose
registers or memory were changed, or that GDB runs, may have left that boot: its place is compared before it is used.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

from pvhdbg.decode.cpu_mode import long_mode_active
from pvhdbg.decode.descriptors import gates
from pvhdbg.decode.paging import translate
from pvhdbg.driver.destination import Destination, arrived
from pvhdbg.driver.history import History
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import RecordedMachine, deterministic, recorded_machine, stopped_at
from pvhdbg.errors import BadInput, EntryNotReached, MemoryUnreadable, TargetError
from pvhdbg.machine.disassemble import linear_pc
from pvhdbg.machine.names import Names
from pvhdbg.machine.session import Session
from pvhdbg.machine.travel import Arrival, Traveller
from pvhdbg.model import Registers, Unavailable
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recorded_parts import MemoryWrite
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import MOST_MARKS
from pvhdbg.vmm.options import RecorderOptions

_RESUME_FLAG = 1 << 16  # of eflags: a step may leave it set
MOST_WATCHED = 4096  # bytes


@dataclass(frozen=True)
class Wrote:
    """The last writer of a place: its instruction's number and address, and for memory what it stored.

    `doubt` says what does not fit: the value was changed in another way since.
    """

    number: int
    pc: int
    store: MemoryWrite | None = None
    doubt: str = ""


class Travel:
    """The moves of one session's machine. Where the boot does not lead there, they raise EntryNotReached, and the machine stays."""

    def __init__(self, session: Session, command: str, progress: Progress, seconds: float | None = None) -> None:
        """Raises TargetError where the machine was not started by pvhdbg, BadInput for an invalid time."""
        traveller = session.traveller
        if traveller is None:
            raise TargetError(
                f"{command} needs a machine that pvhdbg started: it goes back by booting the kernel again", session.starting
            )
        time_limit(seconds)
        self._session, self._progress, self._seconds = session, progress, seconds
        self._traveller: Traveller = traveller
        self._about = traveller.about

    # --- moves ----------------------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, traveller: Traveller, progress: Progress) -> None:
        """A first machine at the entry. Raises as `stopped_at`."""
        with ExitStack() as stack:
            machine = stack.enter_context(stopped_at(traveller.about, 0, progress, None, image=traveller.image, tied=False))
            _take(traveller, stack, machine)

    def goto(self, wanted: Destination) -> int:
        """Go there; returns the instruction's number."""
        with ExitStack() as stack:
            opening = arrived(self._about, wanted, self._progress, self._seconds, image=self._traveller.image, tied=False)
            return _take(self._traveller, stack, stack.enter_context(opening))

    def back(self, count: int = 1) -> int:
        """Go back some instructions. Raises EntryNotReached where there are not so many since the entry."""
        if count < 1:
            raise BadInput(f"{count} instructions cannot be gone back", "give a count of 1 or more")
        now = self.here()
        if count > now:
            raise EntryNotReached(
                f"only {now:,} instructions have run since the entry", "go to the entry: goto 0" if now else "go on with: stepi"
            )
        return self._to(now - count)

    def reverse_continue(self) -> tuple[int, bool]:
        """Go back to the last hit of a breakpoint, or to the entry where there was none: the second value says which."""
        marks = _marks(self._traveller.breakpoints_now())
        if not marks:
            raise BadInput("no breakpoint is set", "set one: break SYMBOL; or go to the entry: goto 0")
        now = self.here()
        with self._stopped(now, marks=marks) as machine:
            hits = [mark.last for mark in machine.recording.marks if mark.last != NEVER and mark.last < now]
        return self._to(max(hits, default=0)), bool(hits)

    def onward(self, addresses: tuple[int, ...], seconds: float) -> TraceEnd:
        """Go on to the next execution of one of these linear addresses, to the guest's end, until interrupted, or for `seconds`."""
        marks, now = _marks(addresses), self.here()

        def told(plain: RecorderOptions, _names: Names) -> RecorderOptions:
            return replace(plain, exact=True, code=True, marks=marks, after=now)

        with ExitStack() as stack:
            image = self._traveller.image
            machine = stack.enter_context(
                recorded_machine(deterministic(self._about), told, self._progress, image=image, tied=False)
            )
            self._traveller.follow(machine.qemu)
            try:
                end = machine.run(seconds, lambda: machine.marked is not None or self._traveller.asked())
            finally:
                self._traveller.follow(None)
            if machine.marked is None and not end.final and machine.begun < now:
                raise EntryNotReached(
                    f"{end.words}, before instruction {now:,} was passed again: the machine stays where it is", "give it more time"
                )
            if machine.marked is None:
                _take(self._traveller, stack, machine, end)
                return end
            number = machine.marked.first
        self._to(number)
        return end

    def onward_to_breakpoint(self, seconds: float) -> TraceEnd:
        """Go on to the next hit of one of the user's breakpoints: see `onward`."""
        return self.onward(self._traveller.breakpoints_now(), seconds)

    def last_write(self, address: int, size: int) -> Wrote:
        """Go to the instruction behind the last one that stored to this linear address."""
        if not 0 < size <= MOST_WATCHED:
            raise BadInput(f"{size} bytes cannot be watched", f"give a size of 1 to {MOST_WATCHED}")
        session = self._session
        walk = translate(session.registers(), address, session.physical)
        if walk.physical is None:
            raise MemoryUnreadable(address, size, f"the page tables do not map it: {walk.problem}")
        physical, before = walk.physical, session.target.read_memory(walk.physical, size)
        store = self.last_store(physical, size)
        self._to(store.number + 1)
        same = session.target.read_memory(physical, size) == before
        doubt = "" if same else "since then it was changed by something that is not a store: a device, or the frame of an interrupt"
        return Wrote(store.number, store.pc, store, doubt)

    def last_store(self, physical: int, size: int) -> MemoryWrite:
        """The last store to physical memory there, before the machine's place. The machine stays."""
        now = self.here()
        with self._stopped(now, watch=(physical, size)) as machine:
            return last_store(machine.recording, now, physical)

    def last_change(self, register: str) -> Wrote:
        """Go to the instruction behind the last one that wrote a general register."""
        now = self.here()
        before = self._session.registers().get(register)
        ran = self._history(now).last_writer(register)
        if ran is None:
            raise EntryNotReached(
                f"no instruction is known that wrote {register}: the recorder's ring and readable code do not reach back to one",
                "go back further first: back N",
            )
        self._to(ran.number + 1)
        same = self._session.registers().get(register) == before
        doubt = "" if same else "since then it was changed by something that is not an instruction: an interrupt or exception"
        return Wrote(ran.number, ran.pc, None, doubt)

    def back_to_call(self) -> int:
        """Go back to the call that the current function was entered by."""
        now = self.here()
        ran = self._history(now).caller(self._handlers())
        if ran is None:
            raise EntryNotReached(
                "no call is known that led here: the recorder's ring does not reach back to one, or an interrupt came instead",
                "see where it was before: back, reverse-continue",
            )
        return self._to(ran.number)

    # --- the place ------------------------------------------------------------------------------------------------

    def here(self) -> int:
        """The number of the instruction that the machine stands before. Raises TargetError where it is not known."""
        session = self._session
        if session.number is not None:
            return session.number
        recording = self._traveller.recording
        if recording is None or not recording.entered:
            raise TargetError(
                "the number of this instruction is not known: the machine ran by the host's clock",
                "name the place, as in: goto SYMBOL or goto SYMBOL#2; or start it with --deterministic",
            )
        number, registers = recording.begun_at_a_stop, session.registers()
        with self._stopped(number) as other:
            if not _same(registers, other.target.read_registers()):
                raise TargetError(
                    f"the number of this instruction is not known: after {number:,} instructions an undisturbed boot is elsewhere: "
                    "registers or memory were changed, or GDB held interrupts back",
                    f"go there: goto {number}; or name the place: goto SYMBOL",
                )
        session.number = number
        return number

    def _history(self, now: int) -> History:
        recording = self._traveller.recording
        if recording is None:
            raise TargetError("this machine has no recording", f"go to the same place: goto {now}")
        return History(self._session.target, recording, now, linear_pc(self._session))

    def _handlers(self) -> frozenset[int]:
        session, table = self._session, self._session.segments().idt
        try:
            data = b"" if table is None else session.linear(table.base, min(table.limit + 1, 1 << 12))
        except (Unavailable, MemoryUnreadable):
            return frozenset()
        return frozenset(one.offset for one in gates(data, bool(long_mode_active(session.registers()))))

    # --- machines -------------------------------------------------------------------------------------------------

    def _stopped(
        self, number: int, *, marks: tuple[int, ...] = (), watch: tuple[int, int] | None = None, tied: bool = True
    ) -> AbstractContextManager[RecordedMachine]:
        """Another machine, which stands before instruction `number`."""
        image = self._traveller.image
        return stopped_at(self._about, number, self._progress, self._seconds, marks=marks, watch=watch, image=image, tied=tied)

    def _to(self, number: int) -> int:
        with ExitStack() as stack:
            return _take(self._traveller, stack, stack.enter_context(self._stopped(number, tied=False)))


def _take(traveller: Traveller, stack: ExitStack, machine: RecordedMachine, end: TraceEnd | None = None) -> int:
    """Put the machine in the place of the current one. `end` is how its run ended, where that is not an exact instruction."""
    ended = end.words if end is not None and end.final else None
    number = machine.begun
    arrival = Arrival(stack.pop_all(), machine.target, machine.qemu, machine.recording, None if ended else number, ended)
    traveller.take(arrival)
    return number


def last_store(recording: Recording, number: int, physical: int) -> MemoryWrite:
    """The last store that was noted before instruction `number`. Raises EntryNotReached where there is none."""
    found = next((one for one in reversed(recording.writes()) if 0 <= one.number < number), None)
    if found is None:
        raise EntryNotReached(
            f"nothing was stored to {physical:#x} from the entry to instruction {number:,}",
            "what is there was put there by the loader or a device",
        )
    return found


def _marks(addresses: tuple[int, ...]) -> tuple[int, ...]:
    if len(addresses) > MOST_MARKS:
        raise BadInput(f"{len(addresses)} addresses are too many", f"delete breakpoints: at most {MOST_MARKS} can be watched")
    return addresses


def _same(one: Registers, other: Registers) -> bool:
    """Whether two machines' registers are the same, as far as both show them."""

    def differs(name: str) -> bool:
        difference = one.values[name] ^ other.values[name]
        return bool(difference & ~_RESUME_FLAG if name == "eflags" else difference)

    return not any(differs(name) for name in one.values.keys() & other.values.keys())
