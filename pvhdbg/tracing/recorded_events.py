"""The events of a flight recorder's file: the instructions that matter for milestones, each with its number and what it changed.

These are the entry, system instructions, the first one in a new mode, the first one in the higher half, and the recorder's marks.
Pure: it reads a recording, of a machine that runs or of one that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain

from pvhdbg.decode.cpu_mode import Mode, mode_of
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.event import Changes, Event
from pvhdbg.tracing.milestones import HIGHER_HALF_32
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recorded_parts import State, System
from pvhdbg.tracing.recording import Recording

# Registers that an instruction of this effect writes. QEMU shows states at the start of blocks only: of several system
# instructions in one block, each is given the part of the next state that it can have made.
_WRITES: Mapping[Effect, tuple[str, ...]] = {
    Effect.LGDT: ("gdt_base", "gdt_limit"),
    Effect.LIDT: ("idt_base", "idt_limit"),
    Effect.LOAD_DS: ("ds", "ds_base", "ds_limit", "ds_flags"),
}
_UNDECIDED = 4096  # blocks: more would make each look take long


class RecordedEvents:
    """Read it again and again while the machine runs: each event is given once.

    `state` holds the registers at the entry, `peek` gives the code at a linear address; b"" where it is not known.
    """

    def __init__(self, recording: Recording, state: Mapping[str, int], peek: Callable[[int], bytes] = lambda _: b"") -> None:
        self._recording, self._peek = recording, peek
        self._state = dict(state)
        self._modes = [(0, _mode(self._state))]  # number of the first instruction, mode; the last one is current
        self._entered = False
        self._systems = 0
        self._marks: set[int] = set()
        self._scanned = 0  # blocks that were checked for the higher half
        self._undecided: set[int] = set()  # of them, those there that had not been executed, or not in a known mode with paging
        self._high = False

    @property
    def modes(self) -> list[tuple[int, Mode]]:
        """The modes of the CPU so far, each with the number of the first instruction in it."""
        return list(self._modes)

    def before(self, limit: int | None = None) -> list[Event]:
        """The events before instruction `limit` that were not given yet, in order; all of them without one."""
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
        return [by_number[number] for number in sorted(by_number)]

    def _system_events(self, limit: int | None) -> list[Event]:
        if self._recording.header.system_count == self._systems:
            return []  # usually: reading all of them each time would take longer than the guest's work
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
        """The first block in the higher half, with paging on: until it is found, each block is checked once, or until it is decided."""
        if self._high:
            return []
        best: tuple[int, int] | None = None
        for block in chain(map(self._recording.block, sorted(self._undecided)), self._recording.blocks(self._scanned)):
            if block.linear >= HIGHER_HALF_32:
                if block.first is None:  # QEMU may translate a block and not run it
                    self._undecided.add(block.number)
                elif limit is not None and block.first >= limit:
                    break  # not yet
                elif block.first >= 0 and self._mode_at(block.first) in (Mode.REAL, Mode.PROTECTED):
                    # The guest may have switched paging on and come here since the system instructions were read.
                    if len(self._undecided) < _UNDECIDED:
                        self._undecided.add(block.number)
                else:
                    self._undecided.discard(block.number)
                    best = best if block.first < 0 else min(best or (block.first, block.linear), (block.first, block.linear))
            self._scanned = max(self._scanned, block.number + 1)
        if best is None:
            return []
        self._high = True
        return [Event(*best, self._mode_at(best[0]), self._peek(best[1]))]


def mode_of_text(text: bytes) -> Mode:
    """The CPU's mode in a register state that was kept."""
    return _mode(decode(text))


def _mode(state: Mapping[str, int]) -> Mode:
    return mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"), state.get("eflags", 0))


_GENERAL = frozenset(f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp", *map(str, range(8, 16)))) | {"eflags"}


def _system_values(changes: Mapping[str, int]) -> dict[str, int]:
    """Drop general registers: other instructions between the two states may have changed them."""
    return {name: value for name, value in changes.items() if name not in _GENERAL}
