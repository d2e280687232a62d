"""The registers of each instruction, as the flight recorder keeps them, as events; and where QEMU's faults lie between them. Pure.

Each record holds the registers before one instruction. What the instruction changed is the difference to the next record, and is
computed on demand. Columns are read by strides: this is what bounds the rate at which instructions are delivered.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, repeat

from pvhdbg.decode.cpu_mode import Mode, mode_of, mode_of_hflags
from pvhdbg.tracing.event import Batch, Changes, Delta, Fault, FaultKind

SIZE = 512  # bytes of a record
# number pc block eflags code size efer, general registers, eip eflags cc_*, df, hflags, segments and tables, control registers
_LAYOUT = struct.Struct("<QQII15sBQ16QQQ24x4xiI4x" + "I4xQII" * 10 + "5Q")
_NUMBER, _PC, _RAX = 0, 1, 6  # indexes as words of 64 bits
_BLOCK, _HFLAGS, _EFLAGS = 4, 56, 5  # and of 32
_CODE, _LENGTH = 24, 15  # offset of the code, and from there of its length
_CHANGED = 0x80  # in the length: EFER, a segment, a table or a control register differs from the record before
_MARKED = re.compile(rb"[\x80-\xff]")
_RSP = struct.Struct("<80xQ")  # of a record
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
    """Feed it records as they are written; it returns the events that are complete. The last one waits for its successor.

    `base` is the sequence number of the first event; None: events have the recorder's numbers.
    """

    def __init__(self, base: int | None = None) -> None:
        self._base = base
        self._less: int | None = None if base is not None else 0  # the recorder's number minus the event's
        self._held = b""  # the last record
        self._modes: dict[tuple[int, int, int], Mode] = {}
        self._faults: deque[Fault] = deque()  # that are not placed yet
        self.number = 0  # of the last record, or behind it

    def feed(self, records: bytes, faults: Iterable[Fault] = ()) -> Batch:
        """The events that `records` complete. `faults` are all that were taken before the last of them, and perhaps later ones."""
        self._faults.extend(faults)
        rows = _last_of_each(self._held + records)
        if not rows:
            return Batch(self._seq(self.number), [], [], [])
        self._held = rows[-SIZE:]
        count = len(rows) // SIZE - 1
        words = memoryview(rows).cast("Q")
        first, self.number = words[_NUMBER], words[count * SIZE // 8 + _NUMBER]
        if self._less is None:
            self._less = first - (self._base or 0)
        pcs = words[_PC :: SIZE // 8].tolist()
        changed = _changed(rows)
        batch = Batch(
            self._seq(first), pcs[:count], self._modes_of(rows, changed)[:count], _codes_of(rows, count),
            list(map(RecordDelta, repeat(rows), range(0, count * SIZE, SIZE))), None, [one - 1 for one in changed if one],
        )  # fmt: skip
        return replace(batch, faults=self._placed(rows, pcs)) if self._faults else batch

    def finish(self, state: Mapping[str, int] | None, faults: Iterable[Fault] = ()) -> Batch:
        """The last event, and the faults behind it; `state` holds the registers at that moment, None without them."""
        self._faults.extend(faults)
        row, self._held = self._held, b""
        if not row:
            return Batch(self._seq(self.number), [], [], [], faults=self._rest(self.number))
        words = memoryview(row).cast("Q")
        before = state_of(row)
        delta = None if state is None else Changes(changes(before, state), before)
        if self._less is None:
            self._less = words[_NUMBER] - (self._base or 0)
        seq, self.number = words[_NUMBER], words[_NUMBER] + 1
        system = [0] if delta is not None and any(name not in _GENERAL and name != "eflags" for name in delta.decode()) else []
        return Batch(
            self._seq(seq), [words[_PC]], [self._mode(row)], _codes_of(row, 1), [delta], None, system, self._rest(self.number)
        )

    def _seq(self, number: int) -> int:
        """The sequence number of the event with a number of the recorder's."""
        return number - (self._less or 0)

    def _rest(self, number: int) -> list[Fault]:
        rest = [replace(one, seq=self._seq(number)) for one in self._faults]
        self._faults.clear()
        return rest

    def _modes_of(self, rows: bytes, changed: Sequence[int]) -> list[Mode]:
        """The mode of each record; it changes only with segments and control registers."""
        found: list[Mode] = []
        for start, end in pairwise(sorted({0, *changed, len(rows) // SIZE})):
            found += [self._mode(rows[start * SIZE : (start + 1) * SIZE])] * (end - start)
        return found

    def _mode(self, row: bytes) -> Mode:
        words, halves = memoryview(row).cast("Q"), memoryview(row).cast("I")
        key = halves[_HFLAGS] | halves[_EFLAGS] & _IN_HFLAGS, words[(SIZE - 40) // 8], words[(SIZE - 8) // 8]
        if key not in self._modes:
            found = mode_of_hflags(key[0])
            self._modes[key] = mode_of(key[1], key[2], 0, None) if found is Mode.PROTECTED else found
        return self._modes[key]

    # --- faults between instructions ------------------------------------------------------------------------------

    def _placed(self, rows: bytes, pcs: Sequence[int]) -> list[Fault]:
        """The faults before the last record, each with the number of its handler's first instruction. Later ones wait."""
        numbers = memoryview(rows).cast("Q")[_NUMBER :: SIZE // 8].tolist()
        placed: list[Fault] = []
        start = 0
        for index, fault in enumerate(tuple(self._faults)):
            at = _handler(fault, rows, pcs, start)
            if at is None:
                continue
            for _ in range(index + 1 - len(placed)):
                placed.append(replace(self._faults.popleft(), seq=self._seq(numbers[at])))
            start = at
        return placed


def _codes_of(rows: bytes, count: int) -> list[bytes]:
    blocks = memoryview(rows).cast("I")[_BLOCK :: SIZE // 4].tolist()[:count]
    known = {}
    for block, index in dict(zip(blocks, range(count), strict=True)).items():
        at = index * SIZE + _CODE
        known[block] = rows[at : at + (rows[at + _LENGTH] & ~_CHANGED)]
    return list(map(known.__getitem__, blocks))


def _changed(rows: bytes) -> list[int]:
    """The records that differ from the one before in EFER, a segment, a table or a control register."""
    return [found.start() for found in _MARKED.finditer(rows[_CODE + _LENGTH :: SIZE])]


def _last_of_each(rows: bytes) -> bytes:
    """The records without those of instructions that QEMU began again."""
    words = memoryview(rows).cast("Q")
    count = len(rows) // SIZE
    if not count or words[(count - 1) * SIZE // 8 + _NUMBER] - words[_NUMBER] == count - 1:
        return rows
    numbers = words[_NUMBER :: SIZE // 8].tolist()
    kept = [at for at, number in enumerate(numbers) if at + 1 == len(numbers) or numbers[at + 1] > number]
    return b"".join([rows[at * SIZE : (at + 1) * SIZE] for at in kept])


def _handler(fault: Fault, rows: bytes, pcs: Sequence[int], start: int) -> int | None:
    """The index of the first instruction of a fault's handler: nothing but the stack has changed, and the code does not lead there."""
    if not fault.kind.has_handler or not fault.state:
        return None
    wanted = {name: fault.state[name] for name in _GENERAL if name in fault.state and name != "rsp"}
    rax = fault.state.get("rax", 0)
    first = max(start, 1)
    for at, held in enumerate(memoryview(rows).cast("Q")[_RAX + first * SIZE // 8 :: SIZE // 8].tolist(), first):
        if held != rax or at >= len(pcs):  # most are left out by this
            continue
        size = rows[(at - 1) * SIZE + _CODE + _LENGTH] & ~_CHANGED
        if pcs[at] == pcs[at - 1] + size and pcs[at - 1] != fault.pc and fault.kind is not FaultKind.SOFTWARE_INTERRUPT:
            continue
        if pcs[at - 1] == fault.pc and _RSP.unpack_from(rows, (at - 1) * SIZE)[0] != fault.state.get("rsp", 0):
            continue  # that instruction was executed with another stack, for another fault
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
