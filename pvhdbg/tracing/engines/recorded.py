"""The `recorder` engine: the milestones of a boot at nearly full speed, by the flight recorder in a QEMU that was started here.

It yields the instructions that matter for milestones, each with its exact number: the entry, system instructions, the first one in
a new mode, the first one in the higher half, and the recorder's marks. Instructions in between are counted, but not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from itertools import chain

from pvhdbg.decode.cpu_mode import Mode, interrupts_on, mode_of
from pvhdbg.decode.text import SafeText
from pvhdbg.targets.run import Ran, RunEnd, breakpoints_at, turns
from pvhdbg.targets.target import StopKind, Target
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, TraceEnd, end_at, is_halted
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.event import Batch, Changes, EndReason, Event
from pvhdbg.tracing.milestones import HIGHER_HALF_32
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.recording import NEVER, Recording, State, System

_TURN = 0.02  # seconds between two reads of the recording
_SILENCE = 0.3  # seconds without a block after which the CPU may be halted for good

# Registers that an instruction of this effect writes. QEMU shows states at the start of blocks only: of several system
# instructions in one block, each is given the part of the next state that it can have made.
_WRITES: Mapping[Effect, tuple[str, ...]] = {
    Effect.LGDT: ("gdt_base", "gdt_limit"),
    Effect.LIDT: ("idt_base", "idt_limit"),
    Effect.LOAD_DS: ("ds", "ds_base", "ds_limit", "ds_flags"),
}


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


class RecorderEngine:
    """See `Engine`. `state` holds the registers at the entry, where the machine is; `peek` gives the code at an address."""

    name: EngineKind = "recorder"

    def __init__(
        self, target: Target, recording: Recording, state: Mapping[str, int], peek: Callable[[int], bytes] = lambda _: b""
    ) -> None:
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self._target, self._recording, self._peek = target, recording, peek
        self._state = dict(state)
        self._modes = [(0, _mode(self._state))]  # number of the first instruction, mode; the last one is current
        self._fault_log = FaultLog(target)
        self._asked = False
        self._entered = False
        self._systems = 0
        self._marks: set[int] = set()
        self._scanned = 0  # blocks that were checked for the higher half
        self._unexecuted: set[int] = set()  # of them, those that had not been executed
        self._high = False

    def stop(self) -> None:
        """End the trace soon. Can be called from a signal handler or another thread."""
        self._asked = True

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

    # --- what was recorded since the last read -------------------------------------------------------------------------

    def seen(self, limit: int | None) -> list[Batch]:
        """The new events before instruction `limit`, in order; all of them without one."""
        if not self._recording.entered:
            return []
        found: list[Event] = []
        if not self._entered and self._recording.entry is not None and limit != 0:
            self._entered = True
            found.append(Event(0, self._recording.entry, self._mode_at(0), self._peek(self._recording.entry)))
        found += self._system_events(limit)
        found += self._mark_events(limit)
        found += self._first_high(limit)
        by_number: dict[int, Event] = {}
        for event in found:  # an event with changes is better than one with only a new mode
            if event.seq not in by_number or event.delta is not None:
                by_number[event.seq] = event
        return [_alone(by_number[number]) for number in sorted(by_number)]

    def _system_events(self, limit: int | None) -> list[Event]:
        rows = [one for one in self._recording.systems() if limit is None or one.number < limit]
        states = [state for state in self._recording.states() if state.number >= 0 and state.pc is not None]
        found: list[Event] = []
        for one in rows[self._systems :]:
            after = one.after or next((state for state in states if state.number > one.number), None)
            found += self._system_event(one, after)
        self._systems = len(rows)
        return found

    def _system_event(self, one: System, after: State | None) -> list[Event]:
        """The instruction with its changes, and the next one where that runs in another mode."""
        mode, before = self._mode_at(one.number), self._state
        values = {} if after is None else decode(after.text)
        if one.after is None:
            effect = effect_of(one.code, mode.bits)
            values = {name: value for name, value in values.items() if name in _WRITES.get(effect, ())}
        changes = {name: value for name, value in values.items() if name != "rip" and before.get(name, value) != value}
        self._state = {**before, **values}
        found = [Event(one.number, one.pc, mode, one.code, Changes(_system_values(changes), before))]
        behind = _mode(self._state)
        if behind is not mode and one.after is not None and one.after.pc is not None:
            self._modes.append((one.after.number, behind))
            found.append(Event(one.after.number, one.after.pc, behind, self._peek(one.after.pc)))
        return found

    def _mode_at(self, number: int) -> Mode:
        return next((mode for start, mode in reversed(self._modes) if start <= number), self._modes[0][1])

    def _mark_events(self, limit: int | None) -> list[Event]:
        found = []
        for index, mark in enumerate(self._recording.marks):
            if index in self._marks or mark.first == NEVER or (limit is not None and mark.first >= limit):
                continue
            self._marks.add(index)
            found.append(Event(mark.first, mark.pc, self._mode_at(mark.first), self._peek(mark.pc)))
        return found

    def _first_high(self, limit: int | None) -> list[Event]:
        """The first block in the higher half: until it is found, each block is checked once."""
        if self._high:
            return []
        best: tuple[int, int] | None = None
        for block in chain(map(self._recording.block, sorted(self._unexecuted)), self._recording.blocks(self._scanned)):
            if block.linear >= HIGHER_HALF_32:
                if block.first is None:  # QEMU may translate a block and not run it
                    self._unexecuted.add(block.number)
                elif limit is not None and block.first >= limit:
                    break  # not yet
                else:
                    self._unexecuted.discard(block.number)
                    best = best if block.first < 0 else min(best or (block.first, block.linear), (block.first, block.linear))
            self._scanned = max(self._scanned, block.number + 1)
        if best is None or self._mode_at(best[0]) in (Mode.REAL, Mode.PROTECTED):
            return []
        self._high = True
        return [Event(*best, self._mode_at(best[0]), self._peek(best[1]))]


def halted_for_good(target: Target) -> TraceEnd | None:
    """The end of a guest whose CPU is in `hlt` with interrupts off; None for another."""
    registers = target.read_registers()
    if is_halted(target) and interrupts_on(registers) is False:
        return TraceEnd(EndReason.HALTED, None, registers["rip"])
    return None


def _alone(event: Event) -> Batch:
    return Batch(event.seq, [event.pc], [event.mode], [event.code], [event.delta], None, [0])


def _mode(state: Mapping[str, int]) -> Mode:
    return mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"), state.get("eflags", 0))


_GENERAL = frozenset(f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp", *map(str, range(8, 16)))) | {"eflags"}


def _system_values(changes: Mapping[str, int]) -> dict[str, int]:
    """Drop general registers: other instructions between the two states may have changed them."""
    return {name: value for name, value in changes.items() if name not in _GENERAL}
