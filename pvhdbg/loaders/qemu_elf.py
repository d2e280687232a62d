"""QEMU's ELF loader: where it puts segments, which note it finds, and what it reports as an overlap.

Source: include/hw/elf_ops.h(.inc) and hw/core/loader.c. Since 4.2 the whole file is mapped, so that a search that runs past
a note segment continues in the file. Only a "note" that is longer than the whole segment ends it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.decode.elf import Buffer
from pvhdbg.decode.notes import Span
from pvhdbg.loaders.loading import Attempt, Crashed, Refused, Undefined
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.spec.elf import PF_X, PT_LOAD, PT_NOTE, NoteHeader
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

OPS = "include/hw/elf_ops.h.inc load_elf"
FIND = "include/hw/elf_ops.h.inc get_elf_note_type"
ROMS = "hw/core/loader.c rom_check_and_register_reset"
FAILED = "Error while loading elf kernel"

_PAGE = 4096
_HEAD = NoteHeader.sizeof()
_TYPE = NoteHeader.offset_of("n_type")
_STEPS_BOUND = 1 << 16
_WALK_BOUND = 256 << 20  # bytes after the note segment that are searched, which takes a second
_ZEROS = 1 << 16  # bytes of each step in the search for the end of a run of zeros
_U64 = (1 << 64) - 1
_SSIZE_MAX = (1 << 63) - 1
_MANY = 1 << 30  # bytes of zeros; QEMU needs 4 s for each GiB without RAM
_FIRMWARE = 0xFFFC0000  # SeaBIOS; qboot and others are smaller, OVMF lies in flash


class Rom(NamedTuple):
    """A piece of the kernel in guest memory: program header, address, bytes from the file, bytes in memory."""

    header: int
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size & _U64


@dataclass(frozen=True)
class Generation:
    """One generation of this code: its source, whether it can read the file after a note segment, the width of an ELF32's
    descriptor, its message for overlaps, whether it writes zeros after a segment when the machine is reset, and whether a
    segment may have more bytes in the file than in memory.
    """

    elfboot: str = "hw/i386/x86-common.c load_elfboot"
    mapped: bool = True
    width32: int = 4
    overlap: str = "Some ROM regions are overlapping"
    clears: bool = True
    longer: bool = True


MERGED = Generation()  # as of 7.2.22 and 10.0.2
DEFENDED = Generation(longer=False)  # "hw/elf_ops: defend against weird elf headers", as of 10.0.13 and 11.1.2


class Image(NamedTuple):
    """A loaded ELF: pieces in order of address, lowest and highest address, e_entry as physical, the note's entry (0: none)."""

    roms: tuple[Rom, ...]
    low: int
    high: int
    entry: int
    note: int


def load_elf(attempt: Attempt, generation: Generation, *, notes: bool = True) -> Image:
    """Load the file. Without `notes`, PT_NOTEs are skipped. Raises Ended if QEMU stops."""
    elf, data = attempt.kernel.elf, attempt.kernel.data
    if elf.foreign is not None:
        attempt.remark(f"e_machine is that of {elf.foreign}, which this QEMU does not emulate", OPS)
        raise Refused(FAILED)
    spans = {span.holder: span for span in elf.note_spans}
    roms: list[Rom] = []
    low, high, total, note = _U64, 0, 0, 0
    entry = elf.header.e_entry
    for index, segment in enumerate(elf.segments):
        if segment.p_type == PT_LOAD:
            if segment.p_filesz > segment.p_memsz and not generation.longer:
                sizes = f"p_filesz {segment.p_filesz:#x} above p_memsz {segment.p_memsz:#x}"
                attempt.remark(f"program header {index} has {sizes}: QEMU 10.0.13 and 11.1 refuse that, earlier ones go on", OPS)
                raise Refused(FAILED)
            size = _memory_size(attempt, index)
            if segment.p_vaddr != segment.p_paddr and segment.p_flags & PF_X:
                offset = elf.header.e_entry - segment.p_vaddr
                if 0 <= offset < segment.p_filesz:
                    entry = offset + segment.p_paddr & _U64
            if size > _SSIZE_MAX - total:
                attempt.remark(f"program header {index} brings the sizes in memory to {size + total:#x}", OPS)
                raise Refused(FAILED)
            if size:
                roms.append(Rom(index, segment.p_paddr, segment.p_filesz, size))
            total += size
            low, high = min(low, segment.p_paddr), max(high, segment.p_paddr + size & _U64)
        elif segment.p_type == PT_NOTE and notes and index in spans:
            found = _Search(attempt, data, spans[index], elf.bits, generation).value()
            note = note if found is None else found
    if total >> 31 & 1:  # the size is returned as a signed int
        attempt.remark(f"the segments take {total:#x} bytes together, which as an int is negative", OPS)
        raise Refused(FAILED)
    return Image(tuple(sorted(roms, key=lambda rom: rom.start)), low, high, entry, note)


def _memory_size(attempt: Attempt, index: int) -> int:
    """The memory size of a PT_LOAD, cut to its size in the file if its zeros would overlap another segment."""
    elf = attempt.kernel.elf
    mask = (1 << elf.bits) - 1
    segment = elf.segments[index]
    start, end = segment.p_paddr + segment.p_filesz & mask, segment.p_paddr + segment.p_memsz & mask
    if segment.p_memsz > segment.p_filesz:
        for other, one in enumerate(elf.segments):
            if other == index or one.p_type != PT_LOAD:
                continue
            if not (one.p_paddr >= end or start >= one.p_paddr + one.p_memsz & mask):
                attempt.remark(f"the zeros after program header {index} overlap program header {other} and are left out", OPS)
                return segment.p_filesz
    return segment.p_memsz


def complete(attempt: Attempt, roms: Iterable[Rom], generation: Generation = MERGED) -> None:
    """The check when the machine is complete: pieces of the kernel, in order of address, may not overlap."""
    last: Rom | None = None
    wrong = False
    for rom in roms:
        if last is not None and last.end > rom.start:
            wrong = True
            attempt.remark(
                f"program headers {last.header} ({last.start:#x} to {last.end:#x}) and {rom.header} ({rom.start:#x} to {rom.end:#x}) overlap",
                ROMS,
            )
        last = rom
    if wrong:
        raise Refused(generation.overlap)
    for rom in roms:
        if rom.data > rom.size and generation.clears:
            raise Crashed(f"QEMU hangs: program header {rom.header} has p_filesz {rom.data:#x} above p_memsz {rom.size:#x}")
        if generation.clears and rom.data and rom.size - rom.data >= _MANY:
            zeros = rom.size - rom.data
            attempt.remark(f"the {zeros:#x} zeros of program header {rom.header} take long to write where there is no RAM", ROMS)
        if rom.start < 1 << 32 and rom.start + rom.size > _FIRMWARE:
            raise Undefined(f"program header {rom.header} goes to {rom.start:#x}, where the firmware lies: its size decides")


class _Search:
    """The search for a note of type 18 in one PT_NOTE, with the arithmetic of the ELF's class."""

    def __init__(self, attempt: Attempt, data: Buffer, span: Span, bits: int, generation: Generation) -> None:
        self.attempt, self.data, self.span = attempt, data, span
        self.mask = (1 << bits) - 1
        self.width = 8 if bits == 64 else generation.width32
        self.limit = -(-len(data) // _PAGE) * _PAGE if generation.mapped else span.end
        self.size = span.end - span.start

    def value(self) -> int | None:
        """The number that is read as the descriptor; None if no note is found."""
        at = self._note()
        if at is None:
            return None
        namesz, descsz = self._number(at, 4), self._number(at + 4, 4)
        desc = at + _HEAD + self._padded(namesz)
        value = self._number(desc, 4)
        if self.width > 4 and (desc + self.width <= self.limit or not value):  # the high half is dropped later
            value = self._number(desc, self.width)
        if at + _HEAD > self.span.end:
            self._remark(f"the “note” that it finds lies at file offset {at:#x}, after the note segment")
        elif desc + self.width > self.span.end and desc + 4 > self.span.end:
            self._remark(f"it reads the entry at file offset {desc:#x}, which is not in the note segment")
        elif descsz >= 8 and value >> 32:
            self._remark(f"the note is read as 64 bits, {value:#x}, and truncated to 32")
        elif descsz < 4:
            self._remark(f"it reads {self.width} bytes at file offset {desc:#x}, and the note has {descsz}")
        return value

    def _note(self) -> int | None:
        at = self.span.start
        for _ in range(_STEPS_BOUND):
            if at - self.span.end > _WALK_BOUND:
                raise Undefined(f"it searches more than {_WALK_BOUND >> 20} MiB after the note segment")
            kind = self._number(at + _TYPE, 4)
            if kind == PHYS32_ENTRY:
                return at
            step = _HEAD + self._padded(self._number(at, 4)) + self._padded(self._number(at + 4, 4)) & self.mask
            if step > self.size:
                return None
            if not step:
                raise Crashed(f"QEMU hangs: the lengths of the note at file offset {at:#x} add up to 0 in 32 bits")
            at += max(step, self._zeros(at)) if step == _HEAD and not kind else step
        raise Undefined(f"it searches more than {_STEPS_BOUND} “notes”, far after the note segment")

    def _zeros(self, at: int) -> int:
        """The size of the run of whole empty "notes" at `at`, so that zeros are skipped in one step."""
        piece = bytes(self.data[at : at + _ZEROS])
        return (len(piece) - len(piece.lstrip(b"\0"))) // _HEAD * _HEAD

    def _padded(self, length: int) -> int:
        if not self.span.align:
            self._remark("the PT_NOTE has p_align 0, by which QEMU divides")
            raise Crashed("QEMU is killed by SIGFPE: it divides by the p_align 0 of a PT_NOTE")
        align = self.span.align
        return (length + align - 1 & self.mask) // align * align & self.mask

    def _number(self, at: int, size: int) -> int:
        if at + size > self.limit:
            where = "the file" if self.limit > self.span.end else "the note segment"
            raise Undefined(f"QEMU reads at file offset {at:#x}, past the end of {where}: the content of its memory there decides")
        return int.from_bytes(bytes(self.data[at : at + size]), "little")  # the last page of a mapping is padded with zeros

    def _remark(self, text: str) -> None:
        self.attempt.remark(text, FIND)
