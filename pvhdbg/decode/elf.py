"""ELF kernels as far as a loader reads them: header, program headers, notes, and where the symbol table is.

Layouts are those of the System V gABI. Every field is a stranger's word: offsets and counts are checked against the file
before they are used, and what does not fit is a BadInput that names the field and its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from pvhdbg.errors import BadInput, NotBootable
from pvhdbg.layout import Structure, raw, u8, u16, u32, u64
from pvhdbg.model import Kernel, LoadRange
from pvhdbg.spec.elf_notes import PHYS32_ENTRY, PHYS32_RELOC

PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
SHT_SYMTAB, SHT_NOTE = 2, 7
EM_386, EM_X86_64 = 3, 62
MACHINES = {2: "SPARC", 3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC 64", 22: "S/390", 40: "Arm", 62: "x86-64", 183: "AArch64",
            243: "RISC-V", 258: "LoongArch"}  # fmt: skip
_SEGMENTS_BOUND = 512
_SECTIONS_BOUND = 1 << 16
_NOTES_BOUND = 1024
_NT_GNU_BUILD_ID = 3
_MULTIBOOT = 0x1BADB002
_MULTIBOOT_SEARCH = 8192

Buffer = bytes | memoryview
S = TypeVar("S", bound=Structure)


@dataclass(frozen=True)
class Ident(Structure):
    """e_ident, 16 bytes."""

    magic: bytes = raw(4, "\\x7fELF")
    elf_class: int = u8("1: 32-bit, 2: 64-bit")
    data: int = u8("1: little endian, 2: big endian")
    version: int = u8("1")
    osabi: int = u8("OS")
    rest: bytes = raw(8, "padding")


@dataclass(frozen=True)
class Header32(Structure):
    """Elf32_Ehdr without e_ident."""

    e_type: int = u16("object file type")
    e_machine: int = u16("architecture")
    e_version: int = u32("1")
    e_entry: int = u32("entry point")
    e_phoff: int = u32("program header table's file offset")
    e_shoff: int = u32("section header table's file offset")
    e_flags: int = u32("processor flags")
    e_ehsize: int = u16("header size")
    e_phentsize: int = u16("program header entry size")
    e_phnum: int = u16("program header entry count")
    e_shentsize: int = u16("section header entry size")
    e_shnum: int = u16("section header entry count")
    e_shstrndx: int = u16("section name string table index")


@dataclass(frozen=True)
class Header64(Structure):
    """Elf64_Ehdr without e_ident."""

    e_type: int = u16("object file type")
    e_machine: int = u16("architecture")
    e_version: int = u32("1")
    e_entry: int = u64("entry point")
    e_phoff: int = u64("program header table's file offset")
    e_shoff: int = u64("section header table's file offset")
    e_flags: int = u32("processor flags")
    e_ehsize: int = u16("header size")
    e_phentsize: int = u16("program header entry size")
    e_phnum: int = u16("program header entry count")
    e_shentsize: int = u16("section header entry size")
    e_shnum: int = u16("section header entry count")
    e_shstrndx: int = u16("section name string table index")


@dataclass(frozen=True)
class Segment32(Structure):
    """Elf32_Phdr."""

    p_type: int = u32("segment type")
    p_offset: int = u32("file offset")
    p_vaddr: int = u32("virtual address")
    p_paddr: int = u32("physical address")
    p_filesz: int = u32("size in the file")
    p_memsz: int = u32("size in memory")
    p_flags: int = u32("PF_X 1, PF_W 2, PF_R 4")
    p_align: int = u32("alignment")


@dataclass(frozen=True)
class Segment64(Structure):
    """Elf64_Phdr."""

    p_type: int = u32("segment type")
    p_flags: int = u32("PF_X 1, PF_W 2, PF_R 4")
    p_offset: int = u64("file offset")
    p_vaddr: int = u64("virtual address")
    p_paddr: int = u64("physical address")
    p_filesz: int = u64("size in the file")
    p_memsz: int = u64("size in memory")
    p_align: int = u64("alignment")


@dataclass(frozen=True)
class Section32(Structure):
    """Elf32_Shdr."""

    sh_name: int = u32("name, in the section name string table")
    sh_type: int = u32("section type")
    sh_flags: int = u32("flags")
    sh_addr: int = u32("virtual address")
    sh_offset: int = u32("file offset")
    sh_size: int = u32("size")
    sh_link: int = u32("index of a related section")
    sh_info: int = u32("extra information")
    sh_addralign: int = u32("alignment")
    sh_entsize: int = u32("entry size")


@dataclass(frozen=True)
class Section64(Structure):
    """Elf64_Shdr."""

    sh_name: int = u32("name, in the section name string table")
    sh_type: int = u32("section type")
    sh_flags: int = u64("flags")
    sh_addr: int = u64("virtual address")
    sh_offset: int = u64("file offset")
    sh_size: int = u64("size")
    sh_link: int = u32("index of a related section")
    sh_info: int = u32("extra information")
    sh_addralign: int = u64("alignment")
    sh_entsize: int = u64("entry size")


@dataclass(frozen=True)
class NoteHeader(Structure):
    """Elf_Nhdr, the same in both classes."""

    n_namesz: int = u32("length of the owner's name, its NUL included")
    n_descsz: int = u32("length of the descriptor")
    n_type: int = u32("type, in the owner's numbering")


@dataclass(frozen=True)
class Note:
    """One ELF note. `offset` is its place in the file, `segment` the index of the PT_NOTE that holds it."""

    owner: bytes
    type: int
    desc: bytes
    offset: int
    segment: int
    align: int

    @property
    def is_xen(self) -> bool:
        return self.owner == b"Xen\0"


@dataclass(frozen=True)
class ElfFile:
    """A parsed ELF. `bits` is 32 or 64. Notes are those in PT_NOTE segments, which is where loaders look."""

    bits: int
    header: Header32 | Header64
    segments: tuple[Segment32 | Segment64, ...]
    notes: tuple[Note, ...]

    @property
    def loads(self) -> tuple[Segment32 | Segment64, ...]:
        return tuple(segment for segment in self.segments if segment.p_type == PT_LOAD)


def parse(data: Buffer) -> ElfFile:
    """Parse an x86 ELF. Raises BadInput for anything that is not one, or is cut short."""
    if len(data) < Ident.sizeof():
        raise BadInput(f"the file has {len(data)} bytes: it is no ELF", "give an uncompressed kernel (vmlinux) or a bzImage")
    ident = Ident.decode(data)
    if ident.magic != b"\x7fELF":
        raise BadInput(
            f"the file is not an ELF: it begins with {ident.magic!r}", "give an uncompressed kernel (vmlinux) or a bzImage"
        )
    if ident.elf_class not in (1, 2) or ident.data not in (1, 2):
        raise BadInput(f"the ELF's class {ident.elf_class} or data encoding {ident.data} at offset 4 is unknown", _DAMAGED)
    if ident.data == 2:
        raise BadInput("the ELF is big-endian: it is for another machine than x86", "give a kernel for x86 or x86-64")
    wide = ident.elf_class == 2
    layout: type[Header32] | type[Header64] = Header64 if wide else Header32
    header = _structure(layout, data, Ident.sizeof(), "the ELF header")
    if header.e_machine not in (EM_386, EM_X86_64):
        name = MACHINES.get(header.e_machine, f"machine {header.e_machine}")
        raise BadInput(f"the ELF is for {name}, not for x86", "give a kernel for x86 or x86-64")
    segments = _segments(data, header, wide)
    return ElfFile(64 if wide else 32, header, segments, tuple(_notes(data, segments)))


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
        raise BadInput(
            "the ELF has no program headers: it is not something that can be booted", "give the linked kernel, not an object file"
        )
    if header.e_phnum > _SEGMENTS_BOUND:
        raise BadInput(f"e_phnum says {header.e_phnum} program headers", _DAMAGED)
    if header.e_phentsize != layout.sizeof():
        raise BadInput(f"e_phentsize is {header.e_phentsize}, not {layout.sizeof()}", _DAMAGED)
    size = layout.sizeof()
    return tuple(
        _structure(layout, data, header.e_phoff + index * size, f"program header {index}") for index in range(header.e_phnum)
    )


def _notes(data: Buffer, segments: tuple[Segment32 | Segment64, ...]) -> Iterator[Note]:
    """The notes of every PT_NOTE, found by file offset and size (GRUB's segment has no address and no memory size).

    Owner and descriptor are padded to 4 bytes as Xen's libelf reads them, in segments aligned to 8 too: the property
    note that GNU tools align to 8 has a descriptor that is a multiple of 8 anyway. A note that leaves its segment ends it.
    """
    count = 0
    for index, segment in enumerate(segments):
        if segment.p_type != PT_NOTE or not segment.p_filesz:
            continue
        end = segment.p_offset + segment.p_filesz
        if end > len(data):
            raise BadInput(
                f"program header {index} puts notes at {segment.p_offset:#x} to {end:#x}, but the file has {len(data):#x} bytes",
                _DAMAGED,
            )
        at = segment.p_offset
        while at + NoteHeader.sizeof() <= end and count < _NOTES_BOUND:
            head = NoteHeader.decode(data, at)
            name = at + NoteHeader.sizeof()
            desc = name + (head.n_namesz + 3 & ~3)
            after = desc + (head.n_descsz + 3 & ~3)
            if desc + head.n_descsz > end:
                break
            owner = bytes(data[name : name + head.n_namesz])
            yield Note(owner, head.n_type, bytes(data[desc : desc + head.n_descsz]), at, index, segment.p_align)
            at, count = after, count + 1


# --- what the hand-off needs of it --------------------------------------------------------------------------------


def entry_notes(elf: ElfFile) -> tuple[Note, ...]:
    """The usable PHYS32_ENTRY notes: owner Xen, 4 or 8 bytes, not 0."""
    return tuple(
        note for note in elf.notes if note.is_xen and note.type == PHYS32_ENTRY and len(note.desc) in (4, 8) and _entry(note)
    )


def _entry(note: Note) -> int:
    return int.from_bytes(note.desc[:4], "little")  # a 32-bit address, whatever the field's width


def phys32_entry(elf: ElfFile) -> int | None:
    """The PVH entry that QEMU takes: the first note of the last segment that has one."""
    notes = entry_notes(elf)
    if not notes:
        return None
    last = notes[-1].segment
    return next(_entry(note) for note in notes if note.segment == last)


def why_not(elf: ElfFile) -> NotBootable:
    """Why this ELF has no usable PVH entry, and what QEMU says to it."""
    said = "QEMU refuses it: “Error loading uncompressed kernel without PVH ELF Note”"
    numbered = [note for note in elf.notes if note.type == PHYS32_ENTRY]
    wrong = [note for note in numbered if note.is_xen]
    if wrong:
        found = f"its PHYS32_ENTRY note at file offset {wrong[0].offset:#x} holds {wrong[0].desc[:8].hex() or 'nothing'}"
        todo = "the descriptor has to be the entry's physical address in 4 (or 8) bytes"
    elif numbered:
        found = f"its note of type 18 belongs to {numbered[0].owner!r}, not to Xen"
        todo = 'the owner has to be "Xen" with its NUL: namesz 4'
    elif any(segment.p_type == PT_NOTE for segment in elf.segments):
        found = f"none of its {len(elf.notes)} notes is XEN_ELFNOTE_PHYS32_ENTRY"
        todo = "build Linux with CONFIG_PVH=y; otherwise add the note (type 18, owner Xen) to a PT_NOTE segment"
    else:
        found = "it has no PT_NOTE segment"
        todo = "a note section alone is not loaded: give it a PT_NOTE in the linker script (PHDRS { note PT_NOTE; })"
    return NotBootable(f"the kernel has no usable PVH entry: {found}. {said}", todo)


def multiboot_header(data: Buffer) -> int | None:
    """The offset of a multiboot 1 header in the first 8 KiB, which makes QEMU pass over the PVH note; None without."""
    head = bytes(data[:_MULTIBOOT_SEARCH])
    for offset in range(0, len(head) - 11, 4):
        if head[offset : offset + 4] == _MULTIBOOT.to_bytes(4, "little"):
            words = [int.from_bytes(head[offset + at : offset + at + 4], "little") for at in (0, 4, 8)]
            if sum(words) & 0xFFFFFFFF == 0:
                return offset
    return None


def build_id(elf: ElfFile) -> str | None:
    """The GNU build-id in hexadecimal."""
    for note in elf.notes:
        if note.owner == b"GNU\0" and note.type == _NT_GNU_BUILD_ID and 4 <= len(note.desc) <= 64:
            return note.desc.hex()
    return None


def load_ranges(elf: ElfFile) -> tuple[LoadRange, ...]:
    """Where the PT_LOADs go in physical memory."""
    return tuple(LoadRange(segment.p_paddr, segment.p_memsz) for segment in elf.loads if segment.p_memsz)


def describe(elf: ElfFile, path: str, size: int) -> Kernel:
    """The kernel as the rules know it."""
    return Kernel(
        path=path,
        build_id=build_id(elf),
        size=size,
        entry=phys32_entry(elf),
        relocatable=any(note.is_xen and note.type == PHYS32_RELOC for note in elf.notes),
        loads=load_ranges(elf),
        elf_class=elf.bits,
    )


# --- symbols ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SymbolTable:
    """Where .symtab and its strings lie: file offsets and sizes in bytes. Entries are 16 or 24 bytes long."""

    offset: int
    size: int
    entry_size: int
    strings: int
    strings_size: int


def symbol_table(data: Buffer, elf: ElfFile) -> SymbolTable | None:
    """The symbol table, or None when the file has none (a stripped kernel). Raises BadInput for a damaged one."""
    header = elf.header
    layout: type[Section32] | type[Section64] = Section64 if elf.bits == 64 else Section32
    if not header.e_shoff or not header.e_shnum or header.e_shentsize != layout.sizeof():
        return None
    size = layout.sizeof()
    for index in range(min(header.e_shnum, _SECTIONS_BOUND)):
        section = _structure(layout, data, header.e_shoff + index * size, f"section header {index}")
        if section.sh_type != SHT_SYMTAB:
            continue
        if section.sh_link >= header.e_shnum:
            raise BadInput(f"section header {index} links to section {section.sh_link}, which is not there", _DAMAGED)
        strings = _structure(layout, data, header.e_shoff + section.sh_link * size, f"section header {section.sh_link}")
        for name, one in (("symbol table", section), ("string table", strings)):
            if one.sh_offset + one.sh_size > len(data):
                raise BadInput(f"the {name} ends at {one.sh_offset + one.sh_size:#x}, the file at {len(data):#x}", _DAMAGED)
        return SymbolTable(section.sh_offset, section.sh_size, 24 if elf.bits == 64 else 16, strings.sh_offset, strings.sh_size)
    return None
