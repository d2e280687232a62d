"""Google's Alioth, which loads a kernel for PVH with its option --pvh.

Source: google/alioth alioth/src/loader/xen/xen.rs (load, search_pvh_note) and loader.rs (messages).
"""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.elf import Buffer, ElfFile
from pvhdbg.decode.notes import round_up
from pvhdbg.loaders.loading import Attempt, Entered, EntryProtocol, Loader, Refused, Undefined
from pvhdbg.spec.elf import PT_LOAD, PT_NOTE, SHT_NOTE, NoteHeader, Segment32, Segment64
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

_SOURCE = "alioth src/loader/xen/xen.rs "
_HEAD = NoteHeader.sizeof()
_MAGIC = int.from_bytes(b"\x7fELF", "little")
_BELOW_GAP = 0x80000000  # up to this size all of the RAM begins at 0
_STEPS_BOUND = 1 << 16


def _enter(attempt: Attempt) -> Entered:
    kernel = attempt.kernel
    magic = int.from_bytes(kernel.head[:4], "little")
    if magic != _MAGIC:
        raise Refused(f"Missing magic number {_MAGIC:#x}, found {magic:#x}")
    if kernel.elf.bits != 64:
        raise Refused("Not a 64-bit kernel")
    entry = _first(attempt, ((s.p_offset, s.p_filesz, s.p_align) for s in kernel.elf.segments if s.p_type == PT_NOTE))
    for index, segment in enumerate(kernel.elf.segments):
        if segment.p_type != PT_LOAD and segment.p_filesz and not _in_load(kernel.elf, segment):
            attempt.remark(
                f"program header {index} is not a PT_LOAD, and is copied to its p_paddr {segment.p_paddr:#x} all the same",
                _SOURCE + "load",
            )
    memory = attempt.boot.memory
    for segment in kernel.elf.segments:
        if memory is not None and memory <= _BELOW_GAP and segment.p_filesz and segment.p_paddr + segment.p_filesz > memory:
            raise Refused(f"a segment ends at {segment.p_paddr + segment.p_filesz:#x}, which is not mapped")
    if entry is None:
        entry = _first(attempt, ((s.offset, s.size, s.align) for s in kernel.sections if s.type == SHT_NOTE))
        if entry is not None:
            attempt.remark("without a note in a PT_NOTE the sections are searched", _SOURCE + "load")
    if entry is None:
        raise Refused("Cannot find payload entry point")
    attempt.remark_padding("by p_align", _SOURCE + "search_pvh_note")
    attempt.remark_entry(entry, _SOURCE + "load")
    if len(kernel.entry_notes) > 1:
        attempt.remark("of several notes the very first is used", _SOURCE + "load")
    if entry >> 32:
        attempt.remark("the note's 64 bits are kept", _SOURCE + "search_pvh_note")
    if not kernel.entry_notes:
        attempt.remark("the owner of a note of type 18 is not checked", _SOURCE + "search_pvh_note")
    return EntryProtocol.PVH, entry


def _in_load(elf: ElfFile, segment: Segment32 | Segment64) -> bool:
    """Whether a PT_LOAD puts the same bytes at the same address."""
    return any(
        load.p_paddr - load.p_offset == segment.p_paddr - segment.p_offset
        and load.p_offset <= segment.p_offset
        and segment.p_offset + segment.p_filesz <= load.p_offset + load.p_filesz
        for load in elf.loads
    )


def _first(attempt: Attempt, runs: Iterator[tuple[int, int, int]]) -> int | None:
    for offset, size, align in runs:
        found = _search(attempt.kernel.data, offset, size, align)
        if found is not None:
            return found
    return None


def _search(data: Buffer, offset: int, size: int, align: int) -> int | None:
    """search_pvh_note: padded by `align`, a descriptor of 4 or 8 bytes. Raises Refused if the file cannot be read."""
    if align & align - 1:
        raise Refused("Cannot access file")
    align = max(align, 1)
    at = 0
    for _ in range(_STEPS_BOUND):
        if at >= size:
            return None
        head = NoteHeader.decode(_read(data, offset + at, _HEAD))
        desc = offset + at + _HEAD + round_up(head.n_namesz, align)
        at += _HEAD + round_up(head.n_namesz, align) + round_up(head.n_descsz, align)
        if head.n_type == PHYS32_ENTRY and head.n_descsz in (4, 8):
            return int.from_bytes(_read(data, desc, head.n_descsz), "little")
    raise Undefined(f"there are more than {_STEPS_BOUND} notes in a row")


def _read(data: Buffer, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise Refused("Cannot access file")
    return bytes(data[at : at + size])


ALIOTH = Loader("alioth", "Alioth", "alioth/src/loader/xen/xen.rs load", _enter)
