"""The registers of each instruction, as the flight recorder keeps them, as events; and where QEMU's faults lie between them. Pure.

Each record holds the registers before one instruction. What the instruction changed is the difference to the next record, and is
computed on demand. Columns are read by strides: this is what bounds the rate at which instructions are delivered.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from operator import ne

from pvhdbg.decode.cpu_mode import Mode, mode_of, mode_of_hflags
from pvhdbg.tracing.event import Batch, Changes, Delta, Fault, FaultKind

SIZE = 512  # bytes of a record
# number pc block eflags code size efer, general registers, eip eflags cc_*, df, hflags, segments and tables, control registers
_LAYOUT = struct.Struct("<QQII15sBQ16QQQ24x4xiI4x" + "I4xQII" * 10 + "5Q")
_NUMBER, _PC, _BLOCK, _EFER, _HFLAGS, _EFLAGS = 0, 1, 4, 5, 56, 5  # indexes as words of 64 bits, or 32 (block, hflags, eflags)
_SYSTEM = slice(232, SIZE)  # bytes of segments, tables and control registers
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{index}" for index in range(8, 16)))
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")
_SHOWN_FLAGS = 0x00FFFF00  # of a segment, as QEMU prints them
_CS64 = 1 << 15  # in hflags
_IN_HFLAGS = 0x33100  # VM, RF, IOPL and TF of EFLAGS stand in the hidden flags of a block too
_FRAMES = {16: (6,), 32: (12, 16), 64: (40, 48)}  # bytes that an exception pushes to the same stack


def state_of(record: bytes) -> dict[str, int]:
    """The registers in a record, by the names of `tracing.cpu_text`."""
    found = _LAYOUT.unpack(record)
    flags, efer = found[3], found[6]
    general, (eip, _, _, hflags) = found[7:23], found[23:27]
    segments, control = found[27:67], found[67:72]
    long = bool(hflags & _CS64)
    mask = (1 << 64) - 1 if long else (1 << 32) - 1
    values = {name: value & mask for name, value in zip(_GENERAL if long else _GENERAL[:8], general, strict=False)}
    values |= {"rip": eip & mask, "eflags": flags, "efer": efer, "cr0": control[0] & 0xFFFFFFFF}
    values |= {"cr2": control[2], "cr3": control[3], "cr4": control[4] & 0xFFFFFFFF}
    for index, name in enumerate(_SEGMENTS):
        selector, base, limit, shown = segments[4 * index : 4 * index + 4]
        values |= {f"{name}_base": base & mask, f"{name}_limit": limit}
        if name not in ("gdt", "idt"):
            values |= {name: selector, f"{name}_flags": shown & _SHOWN_FLAGS}
    return values


class RecordDelta(Delta):
    """Two records in a row, compared on demand."""

    __slots__ = ("_at", "_records")

    def __init__(self, records: bytes, at: int) -> None:
        self._records, self._at = records, at

    def state(self) -> Mapping[str, int]:
        return state_of(self._records[self._at : self._at + SIZE])

    def decode(self) -> Mapping[str, int]:
        return changes(self.state(), state_of(self._records[self._at + SIZE : self._at + 2 * SIZE]))


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The new values of registers that both show."""
    return {name: value for name, value in after.items() if name != "rip" and before.get(name, value) != value}


class RegisterRows:
    """Feed it records as they are written; it returns the events that are complete. The last one waits for its successor."""

    def __init__(self) -> None:
        self._held = b""  # the last record
        self._codes: dict[int, bytes] = {}
        self._modes: dict[tuple[int, int, int, int], Mode] = {}
        self._faults: deque[Fault] = deque()  # that are not placed yet
        self.number = 0  # of the next event

    def feed(self, records: bytes, faults: Iterable[Fault] = ()) -> Batch:
        """The events that `records` complete. `faults` are all that were taken before the last of them, and perhaps later ones."""
        self._faults.extend(faults)
        rows = _last_of_each(self._held + records)
        if not rows:
            return Batch(self.number, [], [], [])
        self._held = rows[-SIZE:]
        count = len(rows) // SIZE - 1
        words, halves = memoryview(rows).cast("Q"), memoryview(rows).cast("I")
        numbers = words[_NUMBER :: SIZE // 8].tolist()
        self.number = numbers[-1]
        pcs = words[_PC :: SIZE // 8].tolist()
        batch = Batch(
            numbers[0], pcs[:count], self._modes_of(rows, halves, words)[:count], self._codes_of(rows, halves, count),
            list(map(RecordDelta, repeat(rows), range(0, count * SIZE, SIZE))), None, _systems(rows, words),
        )  # fmt: skip
        return replace(batch, faults=self._placed(rows, numbers, pcs))

    def finish(self, state: Mapping[str, int] | None, faults: Iterable[Fault] = ()) -> Batch:
        """The last event, and the faults behind it; `state` holds the registers at that moment, None without them."""
        self._faults.extend(faults)
        row, self._held = self._held, b""
        if not row:
            return Batch(self.number, [], [], [], faults=self._rest(self.number))
        words, halves = memoryview(row).cast("Q"), memoryview(row).cast("I")
        before = state_of(row)
        delta = None if state is None else Changes(changes(before, state), before)
        seq, self.number = words[_NUMBER], words[_NUMBER] + 1
        system = [0] if delta is not None and any(name not in _GENERAL and name != "eflags" for name in delta.decode()) else []
        modes, codes = self._modes_of(row, halves, words), self._codes_of(row, halves, 1)
        return Batch(seq, [words[_PC]], modes, codes, [delta], None, system, self._rest(self.number))

    def _rest(self, number: int) -> list[Fault]:
        rest = [replace(one, seq=number) for one in self._faults]
        self._faults.clear()
        return rest

    def _codes_of(self, rows: bytes, halves: memoryview, count: int) -> list[bytes]:
        blocks = halves[_BLOCK :: SIZE // 4].tolist()[:count]
        known: dict[int, bytes] = {}
        for index, block in enumerate(blocks):
            if block not in known:
                at = index * SIZE + 24
                known[block] = rows[at : at + rows[at + 15]]
        return list(map(known.__getitem__, blocks))

    def _modes_of(self, rows: bytes, halves: memoryview, words: memoryview) -> list[Mode]:
        hidden = halves[_HFLAGS :: SIZE // 4].tolist()
        flags = halves[_EFLAGS :: SIZE // 4].tolist()
        cr0, cr4 = words[(SIZE - 40) // 8 :: SIZE // 8].tolist(), words[(SIZE - 8) // 8 :: SIZE // 8].tolist()
        keys = list(zip(hidden, [one & _IN_HFLAGS for one in flags], cr0, cr4, strict=True))
        for key in set(keys) - self._modes.keys():
            found = mode_of_hflags(key[0] | key[1])
            self._modes[key] = mode_of(key[2], key[3], 0, None) if found is Mode.PROTECTED else found
        return list(map(self._modes.__getitem__, keys))

    # --- faults between instructions ------------------------------------------------------------------------------

    def _placed(self, rows: bytes, numbers: Sequence[int], pcs: Sequence[int]) -> list[Fault]:
        """The faults before the last record, each with the number of its handler's first instruction. Later ones wait."""
        placed: list[Fault] = []
        start = 0
        for index, fault in enumerate(tuple(self._faults)):
            at = _handler(fault, rows, pcs, start)
            if at is None:
                continue
            for _ in range(index + 1 - len(placed)):
                placed.append(replace(self._faults.popleft(), seq=numbers[at]))
            start = at
        return placed


def _last_of_each(rows: bytes) -> bytes:
    """The records without those of instructions that QEMU began again."""
    words = memoryview(rows).cast("Q")
    numbers = words[_NUMBER :: SIZE // 8].tolist()
    if not numbers or numbers[-1] - numbers[0] == len(numbers) - 1:
        return rows
    kept = [at for at, number in enumerate(numbers) if at + 1 == len(numbers) or numbers[at + 1] > number]
    return b"".join([rows[at * SIZE : (at + 1) * SIZE] for at in kept])


def _systems(rows: bytes, words: memoryview) -> list[int]:
    parts = [rows[at + _SYSTEM.start : at + SIZE] for at in range(0, len(rows), SIZE)]
    efer = words[_EFER :: SIZE // 8].tolist()
    differ = map(ne, parts, parts[1:])
    wider = map(ne, efer, efer[1:])
    return [index for index, (one, other) in enumerate(zip(differ, wider, strict=True)) if one or other]


def _handler(fault: Fault, rows: bytes, pcs: Sequence[int], start: int) -> int | None:
    """The index of the first instruction of a fault's handler: nothing but the stack has changed, and the code does not lead there."""
    if not fault.kind.has_handler or not fault.state:
        return None
    wanted = {name: fault.state[name] for name in _GENERAL if name in fault.state and name != "rsp"}
    for at in range(max(start, 1), len(pcs)):
        if pcs[at] == fault.pc:
            continue
        previous = (at - 1) * SIZE + 24
        if pcs[at] == pcs[at - 1] + rows[previous + 15] and fault.kind is not FaultKind.SOFTWARE_INTERRUPT:
            continue
        if rows[at * SIZE + 48 : at * SIZE + 56] != struct.pack("<Q", fault.state.get("rax", 0)):
            continue  # most are left out by this
        state = state_of(rows[at * SIZE : (at + 1) * SIZE])
        if all(state.get(name, 0) == value for name, value in wanted.items()) and _pushed(fault.state, state):
            return at
    return None


def _pushed(before: Mapping[str, int], handler: Mapping[str, int]) -> bool:
    """Whether the stack is that of a handler: an exception's frame below, or another stack."""
    old, new = before.get("rsp", 0), handler["rsp"]
    if old == new:
        return False
    if 0 < old - new < 64:
        return any(base - new in sizes for sizes in _FRAMES.values() for base in (old, old & ~15))
    return True
