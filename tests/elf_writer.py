"""ELF files for the tests, written with the layouts that decode them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvhdbg.decode.elf import (
    PT_LOAD,
    PT_NOTE,
    Header32,
    Header64,
    Ident,
    NoteHeader,
    Segment32,
    Segment64,
)

ENTRY = 0x100000


@dataclass(frozen=True)
class NoteSpec:
    """One note to write. `desc` of an int is that many bytes of little-endian number."""

    type: int = 18
    owner: bytes = b"Xen\0"
    desc: bytes = ENTRY.to_bytes(4, "little")

    def encode(self) -> bytes:
        head = NoteHeader(len(self.owner), len(self.desc), self.type).encode()
        return head + self.owner + bytes(-len(self.owner) % 4) + self.desc + bytes(-len(self.desc) % 4)


@dataclass(frozen=True)
class ElfSpec:
    """An ELF to write: by default a correct PVH guest that loops at 1 MiB."""

    bits: int = 64
    machine: int = 62
    entry: int = ENTRY
    code: bytes = b"\xeb\xfe" + bytes(30)
    paddr: int = ENTRY
    notes: tuple[tuple[NoteSpec, ...], ...] = field(default=((NoteSpec(),),))  # one tuple for each PT_NOTE
    align: int = 4
    data: int = 1

    def encode(self) -> bytes:
        wide = self.bits == 64
        layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
        header: type[Header32] | type[Header64] = Header64 if wide else Header32
        head = Ident.sizeof() + header.sizeof()
        body = head + layout.sizeof() * (1 + len(self.notes))
        blobs = [b"".join(note.encode() for note in segment) for segment in self.notes]
        segments = [
            layout(
                p_type=PT_LOAD, p_flags=7, p_offset=body, p_vaddr=self.paddr, p_paddr=self.paddr,
                p_filesz=len(self.code), p_memsz=len(self.code) + 64, p_align=4,
            )
        ]  # fmt: skip
        at = body + len(self.code)
        for blob in blobs:
            segments.append(
                layout(
                    p_type=PT_NOTE, p_flags=4, p_offset=at, p_vaddr=0, p_paddr=0,
                    p_filesz=len(blob), p_memsz=0, p_align=self.align,
                )
            )  # fmt: skip
            at += len(blob)
        ident = Ident(b"\x7fELF", 2 if wide else 1, self.data, 1, 0, bytes(8))
        fields = header(
            e_type=2, e_machine=self.machine, e_version=1, e_entry=self.entry, e_phoff=head, e_shoff=0, e_flags=0,
            e_ehsize=head, e_phentsize=layout.sizeof(), e_phnum=len(segments), e_shentsize=0, e_shnum=0, e_shstrndx=0,
        )  # fmt: skip
        return ident.encode() + fields.encode() + b"".join(s.encode() for s in segments) + self.code + b"".join(blobs)
