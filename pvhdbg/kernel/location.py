"""How far a kernel lies from where its file asks to be, told from its own bytes in the guest's memory.

A relocating loader chooses two places apart: a physical one, and the virtual one that the kernel is linked to anew (KASLR of a
Linux bzImage: arch/x86/boot/compressed/kaslr.c, choose_random_location). No register keeps either. But code and constants lie
where the kernel is, and each pointer among its bytes was moved by the KASLR offset (misc.c, handle_relocations). So both are
known from the kernel's first instruction on, before it has page tables of its own.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from operator import eq
from typing import TYPE_CHECKING, NamedTuple

from pvhdbg.errors import PvhdbgError
from pvhdbg.model import Unavailable

if TYPE_CHECKING:
    from pvhdbg.decode.elf import Buffer, ElfFile
    from pvhdbg.spec.elf import Segment32, Segment64

    Segment = Segment32 | Segment64

_LOADS = 16  # segments that are looked at; kernels have one to four that are not written to
_PLACES = 32  # in a segment that are looked at
_SIZE = 64
_VARIED = 16  # different values among the bytes of a mark: less is filling
_ALIKE = 48  # bytes of a mark that agree: a running kernel patches its calls, and relocation changes addresses in code
_ENOUGH = 3  # marks that agree, or that do not
_WINDOW = 1 << 16  # bytes of the file that are looked through for pointers at one place
_POINTERS = 4  # that are taken of one place
_STEP = 2 << 20  # CONFIG_PHYSICAL_ALIGN is that or more in what distributions build
_WRITABLE = 2  # PF_W

Read = Callable[[int, int], bytes]


class KernelLocation(NamedTuple):
    """Where a kernel was found: how far from its p_paddr, and by how much its pointers were moved (None: that does not show)."""

    load_bias: int
    relocation: int | None


class Marks:
    """What of a kernel file its image in memory is known by.

    `start` and `end` are its physical addresses, `link` the virtual one of `start`, `step` what it is moved by a multiple of.
    """

    def __init__(self, data: Buffer, elf: ElfFile) -> None:
        # What may be written is no longer what the file holds, and marks are not to overlap.
        loads = [load for load in elf.loads if load.p_filesz >= _PLACES * _SIZE and not load.p_flags & _WRITABLE][:_LOADS]
        self._bytes = [mark for load in loads for mark in _constants(data, load)]
        self._pointers = [one for load in loads for one in _pointers(data, load, elf)]
        self._word = elf.bits // 8
        self.start = min((load.p_paddr for load in elf.loads), default=0)
        self.end = max((load.p_paddr + load.p_memsz for load in elf.loads), default=0)
        self.link = next((load.p_vaddr for load in elf.loads if load.p_paddr == self.start), 0)
        self.step = max([_STEP, *(load.p_align for load in elf.loads)])

    def __bool__(self) -> bool:
        """Whether there are enough of them to tell."""
        return len(self._bytes) >= _ENOUGH

    def at(self, load_bias: int, read: Read) -> bool | None:
        """Whether the kernel lies that far from its physical addresses; None where its memory cannot be read."""
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
        """What is known of a kernel that lies that far from its physical addresses."""
        return KernelLocation(load_bias, self._relocation(load_bias, read))

    def _relocation(self, load_bias: int, read: Read) -> int | None:
        """How far the pointers of a kernel that lies there were moved; None unless most of them agree."""
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
    """Offsets in a segment's bytes, evenly spread, multiples of 8, and in an order that soon has been everywhere."""
    room = load.p_filesz - size
    order = [number * 7 % _PLACES for number in range(_PLACES)]
    return list(dict.fromkeys(room * number // _PLACES & ~7 for number in order))


def _constants(data: Buffer, load: Segment) -> Iterator[tuple[int, bytes]]:
    """Physical addresses, and the bytes that lie there."""
    for offset in _spread(load, _SIZE):
        found = bytes(data[load.p_offset + offset : load.p_offset + offset + _SIZE])
        if len(found) == _SIZE and len(set(found)) >= _VARIED:
            yield load.p_paddr + offset, found


def _pointers(data: Buffer, load: Segment, elf: ElfFile) -> Iterator[tuple[int, int]]:
    """Physical addresses of words that are link-time addresses of the kernel, and those."""
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
