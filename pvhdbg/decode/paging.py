"""Where a linear address lies in memory, by the page tables that the machine is using (Intel SDM volume 3A, chapter 4).

Needed where a protocol hands over a virtual address. Only translation: who may read or write is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvhdbg.model import MemoryView, Registers, Unavailable
from pvhdbg.spec.x86 import CR0, CR4, EFER

_PRESENT = 1 << 0
_LARGE = 1 << 7
_ADDRESS = 0x000FFFFFFFFFF000  # bits 12 to 51 of an entry
_PSE36_SHIFT = 13  # of a 32-bit directory's entry for 4 MiB: there begin bits 32 to 39 of the address


@dataclass(frozen=True)
class _Level:
    """One step of the walk: which bits of the address are the index, and whether an entry may be a page already."""

    shift: int
    bits: int
    large: bool = False


_LONG = (_Level(39, 9), _Level(30, 9, True), _Level(21, 9, True), _Level(12, 9))
_LONG_5 = (_Level(48, 9), *_LONG)
_PAE = (_Level(30, 2), _Level(21, 9, True), _Level(12, 9))
_LEGACY_PSE = (_Level(22, 10, True), _Level(12, 10))
_LEGACY = (_Level(22, 10), _Level(12, 10))


def physical_address(address: int, registers: Registers, memory: MemoryView) -> int:
    """The guest-physical address of the linear `address`. Raises NeedMemory for the tables that it has to look at.

    Raises Unavailable where nothing is mapped, and where cr0 (or cr3, cr4, efer with paging on) was not observed.
    """
    if not registers["cr0"] >> CR0["PG"] & 1:
        return address & 0xFFFFFFFF
    levels, width = _levels(registers)
    highest = levels[0].shift + levels[0].bits
    if levels[0].shift >= 39 and address >> (highest - 1) not in (0, (1 << (65 - highest)) - 1):
        raise Unavailable(f"{address:#x} is no canonical address")
    table = registers["cr3"] & (_ADDRESS | (0xFE0 if levels is _PAE else 0))
    entry, level = 0, levels[0]
    for level in levels:
        at = table + (address >> level.shift & (1 << level.bits) - 1) * width
        entry = int.from_bytes(memory.read(at, width), "little")
        if not entry & _PRESENT:
            raise Unavailable(f"{address:#x} is not mapped: the page table entry at {at:#x} is {entry:#x}")
        table = entry & _ADDRESS
        if level.large and entry & _LARGE:
            break
    inside = (1 << level.shift) - 1
    page = entry & _ADDRESS
    if levels is _LEGACY_PSE and level.large:
        page = entry & 0xFFC00000 | (entry >> _PSE36_SHIFT & 0xFF) << 32
    return page & ~inside | address & inside


def _levels(registers: Registers) -> tuple[tuple[_Level, ...], int]:
    """The walk's steps in the mode the machine is in, and the size of an entry in bytes."""
    cr4 = registers["cr4"]
    if registers["efer"] >> EFER["LMA"] & 1:
        return (_LONG_5 if cr4 >> CR4["LA57"] & 1 else _LONG), 8
    if cr4 >> CR4["PAE"] & 1:
        return _PAE, 8
    return (_LEGACY_PSE if cr4 >> CR4["PSE"] & 1 else _LEGACY), 4

