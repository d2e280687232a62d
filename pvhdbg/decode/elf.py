"""The parts of an ELF kernel that a loader reads: header, program headers, notes, and the place of the symbol table.

Layouts are those of the System V gABI. No field is trusted: offsets and counts are checked against the file before they
are used, and a field that does not fit raises a BadInput that names it and its file offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pvhdbg.decode.notes import Buffer as Buffer
from pvhdbg.decode.notes import Note, Span
from pvhdbg.decode.notes import read as read_notes
from pvhdbg.decode.text import quoted
from pvhdbg.errors import BadInput
from pvhdbg.layout import Structure
from pvhdbg.model import Kernel, LoadRange
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.spec.elf import (
    EM_386,
    EM_X86_64,
    MACHINES,
    PT_LOAD,
    PT_NOTE,
    SHT_SYMTAB,
    Header32,
    Header64,
    Ident,
    Section32,
    Section64,
    Segment32,
    Segment64,
)
from pvhdbg.spec.elf_notes import PHYS32_ENTRY, PHYS32_RELOC

_SEGMENTS_BOUND = 512
_SYMBOLS_BOUND = 64 << 20  # bytes of a symbol table, or of its strings: Debian's kernel has 3 MB, a kernel with all drivers 30 MB
_NT_GNU_BUILD_ID = 3

S = TypeVar("S", bound=Structure)


@dataclass(frozen=True)
class ElfFile:
    """A parsed ELF. `bits` is 32 or 64. Notes are those in PT_NOTE segments, which loaders read."""

    bits: int
    header: Header32 | Header64
    segments: tuple[Segment32 | Segment64, ...]
    notes: tuple[Note, ...]
    note_spans: tuple[Span, ...] = ()
    damage: str = ""  # where reading the notes failed

    @property
    def foreign(self) -> str | None:
        """The machine that e_machine names, if it is not x86; None if it is."""
        machine = self.header.e_machine
        return None if machine in (EM_386, EM_X86_64) else MACHINES.get(machine, f"machine {machine}")

    @property
    def loads(self) -> tuple[Segment32 | Segment64, ...]:
        return tuple(segment for segment in self.segments if segment.p_type == PT_LOAD)


def parse(data: Buffer) -> ElfFile:
    """Parse a little-endian ELF. Raises BadInput for anything else, and for a truncated file.

    e_machine is not checked here: most loaders do not read it.
    """
    if len(data) < Ident.sizeof():
        raise BadInput(f"the file has {len(data)} bytes: it is not an ELF", "give an uncompressed kernel (vmlinux) or a bzImage")
    ident = Ident.decode(data)
    if ident.magic != b"\x7fELF":
        raise BadInput(
            f"the file is not an ELF: it begins with {quoted(ident.magic)}", "give an uncompressed kernel (vmlinux) or a bzImage"
        )
    if ident.elf_class not in (1, 2) or ident.data not in (1, 2):
        raise BadInput(f"the ELF's class {ident.elf_class} or data encoding {ident.data} at offset 4 is unknown", _DAMAGED)
    if ident.data == 2:
        raise BadInput("the ELF is big-endian: it is not for x86", "give a kernel for x86 or x86-64")
    wide = ident.elf_class == 2
    layout: type[Header32] | type[Header64] = Header64 if wide else Header32
    header = _structure(layout, data, Ident.sizeof(), "the ELF header")
    segments = _segments(data, header, wide)
    spans = tuple(_note_spans(data, header, segments))
    notes, damage = read_notes(data, spans)
    return ElfFile(64 if wide else 32, header, segments, notes, spans, damage)


_DAMAGED = "the file is damaged: make or fetch it again"


def _structure(layout: type[S], data: Buffer, offset: int, what: str) -> S:
    if offset + layout.sizeof() > len(data):
        raise BadInput(
            f"the ELF is truncated: {what} at {offset:#x} needs {layout.sizeof()} bytes, and the file has {len(data):#x}", _DAMAGED
        )
    return layout.decode(data, offset)


def _segments(data: Buffer, header: Header32 | Header64, wide: bool) -> tuple[Segment32 | Segment64, ...]:
    layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
    if not header.e_phnum:
        raise BadInput("the ELF has no program headers, so no loader can boot it", "give the linked kernel, not an object file")
    if header.e_phnum > _SEGMENTS_BOUND:
        raise BadInput(f"e_phnum at file offset {_field(header, 'e_phnum'):#x} says {header.e_phnum} program headers", _DAMAGED)
    size = layout.sizeof()
    if header.e_phentsize != size:
        raise BadInput(
            f"e_phentsize at file offset {_field(header, 'e_phentsize'):#x} is {header.e_phentsize}, not {size}", _DAMAGED
        )
    segments = tuple(
        _structure(layout, data, header.e_phoff + index * size, f"program header {index}") for index in range(header.e_phnum)
    )
    for index, segment in enumerate(segments):
        end = segment.p_paddr + segment.p_memsz
        if segment.p_type == PT_LOAD and end > 1 << 64:
            at = header.e_phoff + index * size + layout.offset_of("p_memsz")
            raise BadInput(
                f"program header {index} ends at {end:#x}, beyond the address space: p_paddr {segment.p_paddr:#x}, "
                f"p_memsz {segment.p_memsz:#x} at file offset {at:#x}",
                _DAMAGED,
            )
    return segments


def _field(header: Header32 | Header64, name: str) -> int:
    return Ident.sizeof() + type(header).offset_of(name)


def _note_spans(data: Buffer, header: Header32 | Header64, segments: tuple[Segment32 | Segment64, ...]) -> Iterator[Span]:
    """The places of the notes, by file offset and file size: GRUB's PT_NOTE has no address and no memory size."""
    for index, segment in enumerate(segments):
        end = segment.p_offset + segment.p_filesz
        if segment.p_type not in (PT_LOAD, PT_NOTE) or not segment.p_filesz:
            continue
        if end > len(data):
            at = header.e_phoff + index * type(segment).sizeof() + type(segment).offset_of("p_offset")
            what = "is loaded from" if segment.p_type == PT_LOAD else "has notes at"
            raise BadInput(
                f"the ELF is truncated: program header {index} {what} {segment.p_offset:#x} to {end:#x} "
                f"(p_offset at file offset {at:#x}), but the file has {len(data):#x} bytes",
                _DAMAGED,
            )
        if segment.p_type == PT_NOTE:
            yield Span(segment.p_offset, end, segment.p_align, index)


# --- what the hand-off needs --------------------------------------------------------------------------------


def entry_notes(elf: ElfFile) -> tuple[Note, ...]:
    """The usable PHYS32_ENTRY notes: owner Xen, 4 or 8 bytes. Address 0 is one like any other."""
    return tuple(note for note in elf.notes if note.is_xen and note.type == PHYS32_ENTRY and len(note.desc) in (4, 8))


def _entry(note: Note) -> int:
    return int.from_bytes(note.desc[:4], "little")  # a 32-bit address in a field of any width


class PhysEntry(NamedTuple):
    """The PVH entry: its physical address, the note that gives it, and the file's other PHYS32_ENTRY notes."""

    address: int
    note: Note
    others: tuple[int, ...] = ()


def phys32_entry(elf: ElfFile) -> PhysEntry | None:
    """The PVH entry. If there are several notes, QEMU's choice: the first in the last segment that has one (Xen takes the very last)."""
    notes = entry_notes(elf)
    if not notes:
        return None
    chosen = next(note for note in notes if note.segment == notes[-1].segment)
    return PhysEntry(_entry(chosen), chosen, tuple(_entry(note) for note in notes if note is not chosen))


def build_id(notes: Iterable[Note]) -> str | None:
    """The GNU build-id among these notes, in hexadecimal."""
    for note in notes:
        if note.owner == b"GNU\0" and note.type == _NT_GNU_BUILD_ID and 4 <= len(note.desc) <= 64:
            return note.desc.hex()
    return None


def load_ranges(elf: ElfFile) -> tuple[LoadRange, ...]:
    """The physical addresses of the PT_LOADs."""
    return tuple(LoadRange(segment.p_paddr, segment.p_memsz) for segment in elf.loads if segment.p_memsz)


def describe(elf: ElfFile, path: str, size: int) -> Kernel:
    """The kernel as a value for the machine rules."""
    entry = phys32_entry(elf)
    return Kernel(
        path=path,
        build_id=build_id(elf.notes),
        size=size,
        entry=None if entry is None else entry.address,
        relocatable=any(note.is_xen and note.type == PHYS32_RELOC for note in elf.notes),
        loads=load_ranges(elf),
        elf_class=elf.bits,
    )


# --- symbols ------------------------------------------------------------------------------------------------------


class SymbolTable(NamedTuple):
    """The place of .symtab and its strings: file offsets and sizes in bytes. Entries are 16 or 24 bytes long."""

    offset: int
    size: int
    entry_size: int
    strings: int
    strings_size: int


def sections(data: Buffer, elf: ElfFile) -> tuple[Section32 | Section64, ...]:
    """All section headers; empty if the file has none of the right size. Raises BadInput if the file ends within them."""
    header = elf.header
    layout: type[Section32] | type[Section64] = Section64 if elf.bits == 64 else Section32
    size = layout.sizeof()
    if not header.e_shoff or header.e_shentsize != size:
        return ()
    table = bytes(data[header.e_shoff : header.e_shoff + header.e_shnum * size])
    whole = len(table) // size
    if whole < header.e_shnum:
        _structure(layout, data, header.e_shoff + whole * size, f"section header {whole}")
    return tuple(layout.decode(table, index * size) for index in range(header.e_shnum))


def _section_field(elf: ElfFile, index: int, name: str) -> int:
    layout: type[Section32] | type[Section64] = Section64 if elf.bits == 64 else Section32
    return elf.header.e_shoff + index * layout.sizeof() + layout.offset_of(name)


def symbol_table(data: Buffer, elf: ElfFile) -> SymbolTable | None:
    """The symbol table, or None when the file has none (a stripped kernel). Raises BadInput for a damaged one."""
    try:
        table = sections(data, elf)
    except BadInput:  # the section headers are cut off, which no loader minds
        return None
    for index, section in enumerate(table):
        if section.sh_type != SHT_SYMTAB:
            continue
        if section.sh_link >= len(table):
            at = _section_field(elf, index, "sh_link")
            raise BadInput(
                f"section header {index} links to section {section.sh_link}, which is not there (sh_link at file offset {at:#x})",
                _DAMAGED,
            )
        strings = table[section.sh_link]
        for name, one, number in (("symbol table", section, index), ("string table", strings, section.sh_link)):
            place = f"section header {number}, sh_offset at file offset {_section_field(elf, number, 'sh_offset'):#x}"
            end = one.sh_offset + one.sh_size
            if end > len(data):
                raise BadInput(f"the ELF is truncated: the {name} ends at {end:#x}, the file at {len(data):#x} ({place})", _DAMAGED)
            if one.sh_size > _SYMBOLS_BOUND:
                raise BadInput(f"the {name} has {one.sh_size >> 20} MiB, more than any kernel has ({place})", _DAMAGED)
        return SymbolTable(section.sh_offset, section.sh_size, 24 if elf.bits == 64 else 16, strings.sh_offset, strings.sh_size)
    return None
