"""ELF files for the tests, written with the layouts that decode them.

`build_elf()` is a correct PVH kernel that loops at its entry; each argument spoils or adds one thing.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from pvhdbg.spec.elf import (
    PT_LOAD,
    PT_NOTE,
    SHT_NOTE,
    SHT_STRTAB,
    SHT_SYMTAB,
    Header32,
    Header64,
    Ident,
    NoteHeader,
    Section32,
    Section64,
    Segment32,
    Segment64,
)

ENTRY = 0x100000
MULTIBOOT = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)


@dataclass(frozen=True)
class NoteSpec:
    """One note to write, padded to 4 bytes."""

    type: int = 18
    owner: bytes = b"Xen\0"
    desc: bytes = ENTRY.to_bytes(4, "little")

    def encode(self) -> bytes:
        return self.padded_by_lengths(4)

    def padded_by_lengths(self, align: int) -> bytes:
        """Owner and descriptor padded to `align` each: with 8, as QEMU reads a segment of p_align 8."""
        owner, desc = (part + bytes(-len(part) % align) for part in (self.owner, self.desc))
        return NoteHeader(len(self.owner), len(self.desc), self.type).encode() + owner + desc

    def padded_by_offsets(self) -> bytes:
        """Descriptor and end at multiples of 8, as GNU tools write a segment of p_align 8."""
        head = NoteHeader(len(self.owner), len(self.desc), self.type).encode() + self.owner
        whole = head + bytes(-len(head) % 8) + self.desc
        return whole + bytes(-len(whole) % 8)


@dataclass(frozen=True)
class RawNotes:
    """Bytes that stand where notes are expected."""

    data: bytes

    def encode(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class SymbolSpec:
    """One symbol to write: a local function, unless `info` says otherwise."""

    name: str
    value: int
    info: int = 2
    section: int = 1


@dataclass(frozen=True)
class ElfSpec:
    """An ELF to write: by default a correct PVH guest that loops at 1 MiB."""

    bits: int = 64
    machine: int = 62
    entry: int = ENTRY
    code: bytes = b"\xeb\xfe" + bytes(30)
    paddr: int = ENTRY
    vaddr: int | None = None  # as paddr
    notes: tuple[tuple[NoteSpec | RawNotes, ...], ...] = field(default=((NoteSpec(),),))  # one tuple for each PT_NOTE
    align: int = 4
    data: int = 1
    multiboot: bool = False  # a multiboot 1 header behind the code
    section_notes: tuple[NoteSpec, ...] = ()  # in a section .note.Xen that no segment covers
    symbols: tuple[SymbolSpec, ...] = ()

    def encode(self) -> bytes:
        wide = self.bits == 64
        layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
        header: type[Header32] | type[Header64] = Header64 if wide else Header32
        head = Ident.sizeof() + header.sizeof()
        body = head + layout.sizeof() * (1 + len(self.notes))
        code = self.code + bytes(-len(self.code) % 4)
        if self.multiboot:
            code += bytes(-(body + len(code)) % 4) + MULTIBOOT
        blobs = [b"".join(note.encode() for note in segment) for segment in self.notes]
        segments = [
            layout(
                p_type=PT_LOAD, p_flags=7, p_offset=body, p_vaddr=self.paddr if self.vaddr is None else self.vaddr,
                p_paddr=self.paddr, p_filesz=len(code), p_memsz=len(code) + 64, p_align=4,
            )
        ]  # fmt: skip
        at = body + len(code)
        for blob in blobs:
            segments.append(
                layout(
                    p_type=PT_NOTE, p_flags=4, p_offset=at, p_vaddr=0, p_paddr=0,
                    p_filesz=len(blob), p_memsz=0, p_align=self.align,
                )
            )  # fmt: skip
            at += len(blob)
        tail, sections = self._sections(at)
        ident = Ident(b"\x7fELF", 2 if wide else 1, self.data, 1, 0, bytes(8))
        fields = header(
            e_type=2, e_machine=self.machine, e_version=1, e_entry=self.entry, e_phoff=head,
            e_shoff=at + len(tail) if sections else 0, e_flags=0, e_ehsize=head, e_phentsize=layout.sizeof(),
            e_phnum=len(segments), e_shentsize=sections[0].sizeof() if sections else 0, e_shnum=len(sections),
            e_shstrndx=len(sections) - 1 if sections else 0,
        )  # fmt: skip
        parts = [ident, fields, *segments]
        return b"".join(part.encode() for part in parts) + code + b"".join(blobs) + tail + b"".join(s.encode() for s in sections)

    def _sections(self, at: int) -> tuple[bytes, list[Section32 | Section64]]:
        """What sections hold, to lie at file offset `at`, and their headers; the last is .shstrtab."""
        if not self.section_notes and not self.symbols:
            return b"", []
        strings, table = self._symbols()
        wanted = [(b"", 0, b"", 0), (b".note.Xen", SHT_NOTE, b"".join(note.encode() for note in self.section_notes), 0)]
        if self.symbols:
            wanted += [(b".symtab", SHT_SYMTAB, table, 3), (b".strtab", SHT_STRTAB, strings, 0)]
        names = b"".join(name + b"\0" for name, *_ in wanted) + b".shstrtab\0"
        wanted.append((b".shstrtab", SHT_STRTAB, names, 0))
        layout: type[Section32] | type[Section64] = Section64 if self.bits == 64 else Section32
        tail, headers = b"", []
        for name, kind, content, link in wanted:
            headers.append(
                layout(
                    sh_name=names.index(name + b"\0"), sh_type=kind, sh_flags=0, sh_addr=0, sh_offset=at + len(tail),
                    sh_size=len(content), sh_link=link, sh_info=0, sh_addralign=4, sh_entsize=24 if self.bits == 64 else 16,
                )
            )  # fmt: skip
            tail += content
        return tail, headers

    def _symbols(self) -> tuple[bytes, bytes]:
        strings, rows = bytearray(b"\0"), [bytes(24 if self.bits == 64 else 16)]
        for symbol in self.symbols:
            name = len(strings)
            strings += symbol.name.encode() + b"\0"
            if self.bits == 64:
                rows.append(struct.pack("<IBBHQQ", name, symbol.info, 0, symbol.section, symbol.value, 0))
            else:
                rows.append(struct.pack("<IIIBBH", name, symbol.value, 0, symbol.info, 0, symbol.section))
        return bytes(strings), b"".join(rows)


def build_elf(**changes: Any) -> bytes:
    """The bytes of `ElfSpec(**changes)`."""
    return ElfSpec(**changes).encode()


# --- any number of segments -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A program header and the bytes that it points to. Sizes follow the content unless they are given."""

    type: int = PT_LOAD
    content: bytes = b""
    paddr: int = ENTRY
    vaddr: int | None = None  # as paddr
    filesz: int | None = None
    memsz: int | None = None
    flags: int = 7
    align: int = 4


@dataclass(frozen=True)
class Program:
    """An ELF of pieces, in this order in the program headers and in the file; `front` lies before and `tail` behind them."""

    pieces: tuple[Piece, ...]
    bits: int = 64
    machine: int = 62
    entry: int = ENTRY
    flags: int = 0
    front: bytes = b""
    tail: bytes = b""
    step: int = 4  # alignment of the contents in the file

    @property
    def front_offset(self) -> int:
        """File offset of `front`, a multiple of 4."""
        sizes = (Header64, Segment64) if self.bits == 64 else (Header32, Segment32)
        return Ident.sizeof() + sizes[0].sizeof() + len(self.pieces) * sizes[1].sizeof()

    @property
    def offsets(self) -> tuple[int, ...]:
        """File offset of each piece's content."""
        at, found = self.front_offset + len(self.front), []
        for piece in self.pieces:
            at += -at % self.step
            found.append(at)
            at += len(piece.content)
        return tuple(found)

    def encode(self) -> bytes:
        wide = self.bits == 64
        layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
        header: type[Header32] | type[Header64] = Header64 if wide else Header32
        head = Ident.sizeof() + header.sizeof()
        fields = header(
            e_type=2, e_machine=self.machine, e_version=1, e_entry=self.entry, e_phoff=head, e_shoff=0, e_flags=self.flags,
            e_ehsize=head, e_phentsize=layout.sizeof(), e_phnum=len(self.pieces), e_shentsize=0, e_shnum=0, e_shstrndx=0,
        )  # fmt: skip
        data = bytearray(Ident(b"\x7fELF", 2 if wide else 1, 1, 1, 0, bytes(8)).encode() + fields.encode())
        for piece, at in zip(self.pieces, self.offsets, strict=True):
            filesz = len(piece.content) if piece.filesz is None else piece.filesz
            data += layout(
                p_type=piece.type, p_flags=piece.flags, p_offset=at, p_vaddr=piece.paddr if piece.vaddr is None else piece.vaddr,
                p_paddr=piece.paddr, p_filesz=filesz, p_memsz=filesz if piece.memsz is None else piece.memsz, p_align=piece.align,
            ).encode()  # fmt: skip
        data += self.front
        for piece, at in zip(self.pieces, self.offsets, strict=True):
            data += bytes(at - len(data)) + piece.content
        return bytes(data + self.tail)
