"""Examples of kernel files: a correct one, changed by keyword. A file rule's declaration holds examples that pass and that fail.

They are values, not bytes: the decoder's own tests cover how bytes become a `KernelFile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pvhdbg.decode.boot_headers import Multiboot
from pvhdbg.decode.elf import ElfFile
from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.notes import Note, Span
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.spec.elf import EM_X86_64, PT_LOAD, PT_NOTE, Header32, Header64, Segment32, Segment64
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

ENTRY = 0x100040
_HEADERS, _NOTES = 0x40, 0x2000
READ, WRITE, EXECUTE = 4, 2, 1


class ExampleNote(NamedTuple):
    """One note: by default the PVH entry."""

    desc: bytes = ENTRY.to_bytes(4, "little")
    owner: bytes = b"Xen\0"
    type: int = PHYS32_ENTRY


class ExampleLoad(NamedTuple):
    """One PT_LOAD: by default the one that holds the entry."""

    paddr: int = 0x100000
    size: int = 0x4000
    flags: int = READ | WRITE | EXECUTE
    vaddr: int | None = None  # as paddr


@dataclass(frozen=True)
class FileExample:
    """A kernel file, described by its differences from a correct one.

    Changes are `bits`, `machine`, `e_entry`, `loads` (ExampleLoad), `notes` (a tuple of ExampleNote for each PT_NOTE), `aligns` (p_align
    of each), `offsets` (p_offset of each), `section_notes`, `multiboot` (flags of a version 1 header).
    """

    changes: Mapping[str, Any]

    def kernel(self) -> KernelFile:
        """The file that this example describes."""
        return _build(**self.changes)


def a_kernel(**changes: Any) -> FileExample:
    """A correct ELF64 kernel with one PT_LOAD and one PT_NOTE, changed as named."""
    return FileExample(MappingProxyType(changes))


def _build(
    bits: int = 64,
    machine: int = EM_X86_64,
    e_entry: int = ENTRY,
    loads: Iterable[ExampleLoad] = (ExampleLoad(),),
    notes: Iterable[Iterable[ExampleNote]] = ((ExampleNote(),),),
    aligns: tuple[int, ...] = (),
    offsets: tuple[int, ...] = (),
    section_notes: Iterable[ExampleNote] = (),
    multiboot: int | None = None,
) -> KernelFile:
    header: type[Header32] | type[Header64] = Header64 if bits == 64 else Header32
    segment: type[Segment32] | type[Segment64] = Segment64 if bits == 64 else Segment32
    segments = [
        segment(
            p_type=PT_LOAD, p_flags=load.flags, p_offset=0x1000, p_vaddr=load.paddr if load.vaddr is None else load.vaddr,
            p_paddr=load.paddr, p_filesz=load.size, p_memsz=load.size, p_align=0x200000,
        )
        for load in loads
    ]  # fmt: skip
    found: list[Note] = []
    spans = []
    for number, run in enumerate(notes):
        start = offsets[number] if offsets else _NOTES + 0x100 * number
        align, index, at = aligns[number] if aligns else 4, len(segments), start
        for one in run:
            found.append(Note(one.owner, one.type, one.desc, at, index, align))
            at += 12 + -(-len(one.owner) // 4) * 4 + -(-len(one.desc) // 4) * 4
        segments.append(
            segment(
                p_type=PT_NOTE, p_flags=READ, p_offset=start, p_vaddr=0, p_paddr=0, p_filesz=at - start, p_memsz=0, p_align=align
            )
        )
        spans.append(Span(start, at, align, index))
    fields = header(
        e_type=2, e_machine=machine, e_version=1, e_entry=e_entry, e_phoff=_HEADERS, e_shoff=0, e_flags=0,
        e_ehsize=_HEADERS, e_phentsize=segment.sizeof(), e_phnum=len(segments), e_shentsize=0, e_shnum=0, e_shstrndx=0,
    )  # fmt: skip
    return KernelFile(
        elf=ElfFile(bits, fields, tuple(segments), tuple(found), tuple(spans)),
        section_notes=tuple(Note(one.owner, one.type, one.desc, 0x3000, 0, 4) for one in section_notes),
        multiboot1=None if multiboot is None else Multiboot(1, 0x1000, multiboot),
    )
