"""Descriptor tables as the CPU reads them: GDT and LDT, IDT, and the task state segment.

Intel SDM volume 3A: 3.4.5 (descriptors), 6.11 and 6.14.1 (gates, also in long mode), 7.2 (TSS), 7.2.3 (16-byte descriptors),
7.7 (64-bit TSS); volume 3B 20.1.4 (the real-mode vector table). The bytes come from the guest: every content gives a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pvhdbg.model import Hex
from pvhdbg.spec.x86 import SYSTEM_TYPES, TYPE_CODE, TYPE_CONFORMING, TYPE_EXPAND_DOWN, TYPE_READABLE, TYPE_WRITABLE

_LONG_TYPES = {2: "LDT", 9: "TSS64-avl", 11: "TSS64-busy", 12: "call gate 64", 14: "interrupt gate 64", 15: "trap gate 64"}
_GATES = {4: "call gate 16", 5: "task gate", 6: "interrupt gate 16", 7: "trap gate 16", 12: "call gate 32"}
_GATES |= {14: "interrupt gate 32", 15: "trap gate 32"}
_LDT, _TSS = 2, frozenset({1, 3, 9, 11})
TSS_TYPES = _TSS


@dataclass(frozen=True)
class Descriptor:
    """One entry of a GDT or LDT. `limit` is in bytes, scaled by G; `size` is 8 bytes, or 16 for a system descriptor in long mode."""

    selector: Hex
    raw: Hex
    size: int
    base: Hex
    limit: Hex
    type: int
    s: int
    dpl: int
    present: bool
    long: bool
    db: bool
    granularity: bool
    meaning: str


@dataclass(frozen=True)
class Gate:
    """One entry of an IDT, or a vector of the real-mode table (`type` is then None)."""

    vector: int
    raw: Hex
    selector: Hex
    offset: Hex
    type: int | None
    dpl: int
    present: bool
    ist: int
    meaning: str


@dataclass(frozen=True)
class TaskState:
    """The fields of a TSS by name, up to its limit, and its kind: 16, 32 or 64 bits."""

    width: int
    values: dict[str, Hex]
    missing: tuple[str, ...]


# --- GDT and LDT --------------------------------------------------------------------------------------------------


def descriptors(data: bytes, long_mode: bool) -> Iterator[Descriptor]:
    """The entries of a GDT or LDT in order, without null ones. In long mode a system descriptor takes two slots."""
    offset = 0
    while offset + 8 <= len(data):
        low = int.from_bytes(data[offset : offset + 8], "little")
        wide = long_mode and low >> 44 & 1 == 0 and low >> 40 & 0xF in _LONG_TYPES
        if wide and offset + 16 > len(data):
            wide = False
        size = 16 if wide else 8
        if low or (wide and any(data[offset : offset + size])):
            yield _descriptor(offset, int.from_bytes(data[offset : offset + size], "little"), size, long_mode)
        offset += size


def _descriptor(selector: int, raw: int, size: int, long_mode: bool) -> Descriptor:
    low = raw & (1 << 64) - 1
    type, s = low >> 40 & 0xF, low >> 44 & 1
    base = low >> 16 & 0xFFFFFF | (low >> 56 & 0xFF) << 24
    if size == 16:
        base |= (raw >> 64 & 0xFFFFFFFF) << 32
    limit = low & 0xFFFF | (low >> 48 & 0xF) << 16
    granularity = bool(low >> 55 & 1)
    if granularity:
        limit = limit << 12 | 0xFFF
    long, db, present = bool(low >> 53 & 1), bool(low >> 54 & 1), bool(low >> 47 & 1)
    meaning = _code_or_data(type, long and long_mode, db) if s else _system(type, long_mode)
    return Descriptor(selector, raw, size, base, limit, type, s, low >> 45 & 3, present, long, db, granularity, meaning)


def _code_or_data(type: int, long: bool, db: bool) -> str:
    width = "64-bit" if long else "32-bit" if db else "16-bit"
    if type & TYPE_CODE:
        rights = "read/execute" if type & TYPE_READABLE else "execute-only"
        return f"{width} code, {rights}{', conforming' if type & TYPE_CONFORMING else ''}"
    rights = "read/write" if type & TYPE_WRITABLE else "read-only"
    return f"{width} data, {rights}{', expand-down' if type & TYPE_EXPAND_DOWN else ''}"


def _system(type: int, long_mode: bool) -> str:
    named = _LONG_TYPES if long_mode else {**_GATES, **SYSTEM_TYPES}
    return named.get(type, f"reserved system type {type:#x}")


# --- IDT ----------------------------------------------------------------------------------------------------------

VECTORS = (
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "coprocessor", "#TS", "#NP", "#SS", "#GP", "#PF", "",
    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
)  # fmt: skip


def vectors(data: bytes) -> Iterator[Gate]:
    """The vectors of the real-mode table: segment:offset, four bytes each, without those that are zero."""
    for vector in range(len(data) // 4):
        raw = int.from_bytes(data[4 * vector : 4 * vector + 4], "little")
        if raw:
            yield Gate(vector, raw, raw >> 16, raw & 0xFFFF, None, 0, True, 0, "real-mode vector")


def gates(data: bytes, long_mode: bool) -> Iterator[Gate]:
    """The entries of an IDT in order, without those that are zero; 16 bytes each in long mode, else 8."""
    size = 16 if long_mode else 8
    for vector in range(len(data) // size):
        raw = int.from_bytes(data[size * vector : size * (vector + 1)], "little")
        if raw:
            yield _gate(vector, raw, long_mode)


def _gate(vector: int, raw: int, long_mode: bool) -> Gate:
    type = raw >> 40 & 0xF
    offset = raw & 0xFFFF | (raw >> 48 & 0xFFFF) << 16
    if long_mode:
        offset |= (raw >> 64 & 0xFFFFFFFF) << 32
    named = _LONG_TYPES if long_mode else _GATES
    is_gate = raw >> 44 & 1 == 0 and "gate" in named.get(type, "")
    meaning = named[type] if is_gate else f"not a gate: type {raw >> 40 & 0x1F:#x}"
    ist = raw >> 32 & 7 if long_mode else 0
    return Gate(vector, raw, raw >> 16 & 0xFFFF, offset, type, raw >> 45 & 3, bool(raw >> 47 & 1), ist, meaning)


# --- TSS ----------------------------------------------------------------------------------------------------------

# name, offset, size (Intel SDM 3A figures 7-2, 7-10 and 7-11)
_TSS_16 = tuple((name, 2 * index, 2) for index, name in enumerate(
    ("link", "sp0", "ss0", "sp1", "ss1", "sp2", "ss2", "ip", "flags", "ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
     "es", "cs", "ss", "ds", "ldt")))  # fmt: skip
_TSS_32 = (
    ("link", 0, 2), ("esp0", 4, 4), ("ss0", 8, 2), ("esp1", 12, 4), ("ss1", 16, 2), ("esp2", 20, 4), ("ss2", 24, 2), ("cr3", 28, 4),
    ("eip", 32, 4), ("eflags", 36, 4), ("eax", 40, 4), ("ecx", 44, 4), ("edx", 48, 4), ("ebx", 52, 4), ("esp", 56, 4), ("ebp", 60, 4),
    ("esi", 64, 4), ("edi", 68, 4), ("es", 72, 2), ("cs", 76, 2), ("ss", 80, 2), ("ds", 84, 2), ("fs", 88, 2), ("gs", 92, 2),
    ("ldt", 96, 2), ("trap", 100, 2), ("iomap", 102, 2),
)  # fmt: skip
_TSS_64 = (
    ("rsp0", 4, 8), ("rsp1", 12, 8), ("rsp2", 20, 8), *((f"ist{n}", 28 + 8 * n, 8) for n in range(1, 8)), ("iomap", 102, 2),
)  # fmt: skip
TSS_BYTES = 104


def task_state(data: bytes, type: int, long_mode: bool) -> TaskState:
    """Decode a TSS. `data` holds its bytes up to its limit; `type` is the type of its descriptor."""
    width, fields = (64, _TSS_64) if long_mode else (32, _TSS_32) if type & 8 else (16, _TSS_16)
    values = {name: int.from_bytes(data[at : at + size], "little") for name, at, size in fields if at + size <= len(data)}
    return TaskState(width, values, tuple(name for name, _, _ in fields if name not in values))
