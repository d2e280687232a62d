"""Memory that a machine uses in addition to the hand-off: GDT, IDT, the code at its pc, and the page tables that map them.

A snapshot holds it so that a later reader can disassemble, translate and look up a descriptor without the machine. Like the
decoder, this module never reads: `needed` names the memory that is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.paging import physical_address
from pvhdbg.model import NeedMemory, Unavailable

PAGE = 4096
CODE_PAGES = 2
_GDT_BOUND = 1 << 16  # bytes; the architecture's
_IDT_BOUND = 256 * 16


def linear_ranges(boot: BootState) -> Iterator[tuple[int, int]]:
    """Linear address and size in bytes of the code pages, GDT, IDT, and the stack of a machine that is past its entry."""
    registers, segments = boot.registers, boot.segments
    rip, rsp = registers.get("rip"), registers.get("rsp")
    if rip is not None:
        base = segments["cs"].base or 0
        yield (rip + base) % (1 << 64) & -PAGE, CODE_PAGES * PAGE
    if segments.gdt is not None:
        yield segments.gdt.base, min(segments.gdt.limit + 1, _GDT_BOUND)
    if segments.idt is not None:
        yield segments.idt.base, min(segments.idt.limit + 1, _IDT_BOUND)
    if rsp is not None and not boot.snapshot.entry.is_entry:
        yield rsp & -PAGE, PAGE


def mapped(boot: BootState) -> Iterator[tuple[int, int, int]]:
    """Linear address, physical address and size of each mapped piece of `linear_ranges`, at most a page each.

    Raises NeedMemory for a page table that the snapshot does not hold.
    """
    for start, size in linear_ranges(boot):
        while size > 0:
            step = min(PAGE - start % PAGE, size)
            try:
                yield start, physical_address(start, boot.registers, _Tables(boot)), step
            except Unavailable:
                pass  # not mapped, or not known since the control registers were not observed
            start, size = (start + step) % (1 << 64), size - step


def needed(boot: BootState) -> NeedMemory | None:
    """The first memory in use that the snapshot has neither as bytes nor as a hole; None when it is complete."""
    try:
        for _, physical, size in mapped(boot):
            try:
                _read(boot, physical, size)
            except Unavailable:
                continue  # a hole, or no memory
    except NeedMemory as need:
        return need
    return None


class _Tables:
    """The snapshot's memory for a page table walk: it requests whole tables, also where it holds one entry of a table."""

    def __init__(self, boot: BootState) -> None:
        self._boot = boot

    def read(self, address: int, size: int) -> bytes:
        page = address & -PAGE
        if _whole_page(self._boot, address):
            try:
                return _read(self._boot, page, PAGE)[address - page : address - page + size]
            except NeedMemory:
                raise
            except Unavailable:
                pass  # a part of it could not be read
        return _read(self._boot, address, size)


def _read(boot: BootState, address: int, size: int) -> bytes:
    if boot.snapshot.backing is not None and not boot.readable(address, size):
        raise Unavailable("the machine has no RAM or ROM there")
    return boot.snapshot.memory.read(address, size)


def _whole_page(boot: BootState, address: int) -> bool:
    try:
        return boot.readable(address & -PAGE, PAGE)
    except Unavailable:
        return False
