"""The physical and virtual KASLR offsets of a kernel, found by comparing its file with the guest's memory.

A relocating loader chooses two independent offsets: a physical one, and a virtual one by which it relocates the kernel (KASLR
of a Linux bzImage: arch/x86/boot/compressed/kaslr.c, choose_random_location). No register holds either. Code and constants
show the physical offset. Each pointer in the kernel was moved by the virtual offset (misc.c, handle_relocations) and shows
it. Both are therefore known from the kernel's first instruction on, before it has its own page tables.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from operator import eq
from typing import TYPE_CHECKING, NamedTuple

from pvhdbg.errors import PvhdbgError
from pvhdbg.model import Unavailable

if TYPE_CHECKING:
    from pvhdbg.decode.elf import Buffer, ElfFile
    from pvhdbg.decode.paging import Read
    from pvhdbg.spec.elf import Segment32, Segment64

    Segment = Segment32 | Segment64

_LOADS = 16  # segments that are compared; kernels have one to four read-only ones
_PLACES = 32  # places that are compared in a segment
_SIZE = 64
_VARIED = 16  # different values among the bytes of a mark: fewer are padding
_ALIKE = 48  # bytes of a mark that must agree: a running kernel patches its calls, and relocation changes addresses in code
_ENOUGH = 3  # marks that decide, by agreeing or not
_WINDOW = 1 << 16  # bytes of the file that are searched for pointers at one place
_POINTERS = 4  # pointers that are taken from one place
_STEP = 2 << 20  # distributions build with a CONFIG_PHYSICAL_ALIGN of at least that
_WRITABLE = 2  # PF_W


class KernelLocation(NamedTuple):
    """Where a kernel was found: how far from its p_paddr, and by how much its pointers were moved (None: that does not show)."""

    load_bias: int
    relocation: int | None


class Marks:
    """The bytes of a kernel file by which its image in memory is recognised.

    `start` and `end` are its link-time physical addresses, `link` is the virtual address of `start`. Offsets are multiples of `step`.
    """

    def __init__(self, data: Buffer, elf: ElfFile) -> None:
        # Writable segments no longer hold the file's bytes, and marks must not overlap.
        loads = [load for load in elf.loads if load.p_filesz >= _PLACES * _SIZE and not load.p_flags & _WRITABLE][:_LOADS]
        self._bytes = [mark for load in loads for mark in _constants(data, load)]
        self._pointers = [one for load in loads for one in _pointers(data, load, elf)]
        self._word = elf.bits // 8
        self.start = min((load.p_paddr for load in elf.loads), default=0)
        self.end = max((load.p_paddr + load.p_memsz for load in elf.loads), default=0)
        self.link = next((load.p_vaddr for load in elf.loads if load.p_paddr == self.start), 0)
        self.step = max([_STEP, *(load.p_align for load in elf.loads)])

    def __bool__(self) -> bool:
        """Whether there are enough marks to decide."""
        return len(self._bytes) >= _ENOUGH

    def at(self, load_bias: int, read: Read) -> bool | None:
        """Whether the kernel was loaded `load_bias` bytes above its physical addresses; None if its memory cannot be read."""
        agree = differ = unread = 0
        for address, wanted in self._bytes:
            try:
                found = read(address + load_bias, _SIZE)
            except (PvhdbgError, Unavailable):
                unread += 1
            else:
                same = sum(map(eq, found, wanted)) >= _ALIKE
                agree, differ = agree + same, differ + (not same)
            if _ENOUGH in (agree, differ, unread):
                break
        return True if agree == _ENOUGH else False if differ else None

    def location(self, load_bias: int, read: Read) -> KernelLocation:
        """The offsets of a kernel that was loaded `load_bias` bytes above its physical addresses."""
        return KernelLocation(load_bias, self._relocation(load_bias, read))

    def _relocation(self, load_bias: int, read: Read) -> int | None:
        """The virtual offset of a kernel with that `load_bias`; None unless most of its pointers agree."""
        votes: Counter[int] = Counter()
        for address, linked in self._pointers:
            try:
                votes[int.from_bytes(read(address + load_bias, self._word), "little") - linked] += 1
            except (PvhdbgError, Unavailable):
                pass
        for relocation, most in votes.most_common(1):
            if most >= _ENOUGH and 2 * most > len(self._pointers):
                return relocation
        return None


def _spread(load: Segment, size: int) -> list[int]:
    """Offsets in a segment's bytes: multiples of 8, evenly spread, in an order that covers all of it early."""
    room = load.p_filesz - size
    order = [number * 7 % _PLACES for number in range(_PLACES)]
    return list(dict.fromkeys(room * number // _PLACES & ~7 for number in order))


def _constants(data: Buffer, load: Segment) -> Iterator[tuple[int, bytes]]:
    """Physical addresses, and the bytes at them."""
    for offset in _spread(load, _SIZE):
        found = bytes(data[load.p_offset + offset : load.p_offset + offset + _SIZE])
        if len(found) == _SIZE and len(set(found)) >= _VARIED:
            yield load.p_paddr + offset, found


def _pointers(data: Buffer, load: Segment, elf: ElfFile) -> Iterator[tuple[int, int]]:
    """Physical addresses of words that hold link-time addresses of the kernel, and the held addresses."""
    lowest = min((one.p_vaddr for one in elf.loads if one.p_vaddr >> elf.bits - 1), default=1 << elf.bits)
    highest = max(one.p_vaddr + one.p_memsz for one in elf.loads)
    code, word = ("Q", 8) if elf.bits == 64 else ("I", 4)
    for offset in _spread(load, min(_WINDOW, load.p_filesz)):
        end = offset + min(_WINDOW, load.p_filesz)
        piece = bytes(data[load.p_offset + offset : load.p_offset + end])
        words = array(code, piece[: len(piece) & ~7])
        if sys.byteorder == "big":
            words.byteswap()
        found = ((row, linked) for row, linked in enumerate(words) if lowest <= linked < highest)
        for row, linked in islice(found, _POINTERS):
            yield load.p_paddr + offset + word * row, linked
