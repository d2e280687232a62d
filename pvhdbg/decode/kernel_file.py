"""A kernel file for loaders and rules: its container, its ELF, sections, notes, and the headers of other boot protocols."""

from __future__ import annotations

from pvhdbg.decode import boot_headers, notes
from pvhdbg.decode.boot_headers import Multiboot
from pvhdbg.decode.container import HEAD_SIZE, Container
from pvhdbg.decode.elf import Buffer, ElfFile, PhysEntry, entry_notes, parse, phys32_entry, sections
from pvhdbg.decode.notes import Note, Span
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.record import NamedTuple, dataclass, field, replace
from pvhdbg.spec.elf import SHT_NOTE
from pvhdbg.spec.elf_notes import PHYS32_ENTRY

_NAME_BOUND = 64
_LEGACY_BOUND = 4096  # bytes of a __xen_guest section that are read
_COMMENT_BOUND = 4096


class Section(NamedTuple):
    """One section header, by name."""

    name: str
    type: int
    address: int
    offset: int
    size: int
    align: int


@dataclass(frozen=True)
class KernelFile:
    """The whole kernel file. `elf` and `data` are of the ELF that is inside `container`.

    `section_notes` are those in SHT_NOTE sections that no PT_NOTE covers; `legacy` is the text of a `__xen_guest` section;
    `made_by` holds the strings of `.comment`, in which compilers and linkers put their names.
    """

    elf: ElfFile
    data: Buffer = field(repr=False, compare=False, default=b"")
    container: Container = field(default_factory=Container)
    sections: tuple[Section, ...] = ()
    section_notes: tuple[Note, ...] = ()
    multiboot1: Multiboot | None = None
    multiboot2: Multiboot | None = None
    legacy: str | None = None
    made_by: tuple[str, ...] = ()
    damage: str = ""  # why section headers could not be read; no loader needs them

    @property
    def head(self) -> bytes:
        """The beginning of the given file, compressed or not: up to 8 KiB."""
        return bytes(self.data[:HEAD_SIZE]) if self.container.compression is None else self.container.head

    @property
    def entry_notes(self) -> tuple[Note, ...]:
        """The usable PHYS32_ENTRY notes of its PT_NOTE segments."""
        return entry_notes(self.elf)

    @property
    def entry(self) -> PhysEntry | None:
        """The PVH entry that those notes give."""
        return phys32_entry(self.elf)

    @property
    def numbered_18(self) -> tuple[Note, ...]:
        """All notes of type 18, of any owner, in segments and in sections."""
        return tuple(note for note in (*self.elf.notes, *self.section_notes) if note.type == PHYS32_ENTRY)

    def without_data(self) -> KernelFile:
        """A copy that outlives the opened file. It has no bytes, so the loaders cannot be run on it."""
        return replace(self, data=b"")


def survey(data: Buffer, container: Container | None = None, elf: ElfFile | None = None) -> KernelFile:
    """Read an ELF kernel. Raises BadInput like `elf.parse`; damage that no loader reads only sets `damage`."""
    elf = parse(data) if elf is None else elf
    found: tuple[Section, ...] = ()
    damage = elf.damage
    outside: tuple[Note, ...] = ()
    try:
        found = _named(data, elf)
        outside, broken = notes.read(data, _uncovered(found, elf, len(data)))
        damage = damage or broken
    except BadInput as error:
        damage = damage or error.what
    return KernelFile(
        elf=elf,
        data=data,
        container=container or Container(size=len(data)),
        sections=found,
        section_notes=outside,
        multiboot1=boot_headers.multiboot(data, 1),
        multiboot2=boot_headers.multiboot(data, 2),
        legacy=_legacy(data, found),
        made_by=_made_by(data, found),
        damage=damage,
    )


def _named(data: Buffer, elf: ElfFile) -> tuple[Section, ...]:
    table = sections(data, elf)
    index = elf.header.e_shstrndx
    start = table[index].sh_offset if index < len(table) else len(data)
    return tuple(
        Section(_text(data, start + one.sh_name), one.sh_type, one.sh_addr, one.sh_offset, one.sh_size, one.sh_addralign)
        for one in table
    )


def _text(data: Buffer, at: int) -> str:
    return printable(bytes(data[at : at + _NAME_BOUND]).split(b"\0")[0])


def _uncovered(table: tuple[Section, ...], elf: ElfFile, size: int) -> list[Span]:
    """The SHT_NOTE sections outside of every PT_NOTE, at most as many as are read of PT_NOTE segments."""
    spans = []
    for index, one in enumerate(table):
        end = one.offset + one.size
        if one.type != SHT_NOTE or end > size or not one.size:
            continue
        if not any(span.start <= one.offset and end <= span.end for span in elf.note_spans):
            spans.append(Span(one.offset, end, one.align, index))
    return spans[: notes.SPANS_BOUND]


def _content(data: Buffer, table: tuple[Section, ...], name: str, bound: int) -> bytes | None:
    one = next((one for one in table if one.name == name and one.offset + one.size <= len(data)), None)
    return None if one is None else bytes(data[one.offset : one.offset + min(one.size, bound)])


def _legacy(data: Buffer, table: tuple[Section, ...]) -> str | None:
    found = _content(data, table, "__xen_guest", _LEGACY_BOUND)
    return None if found is None else printable(found.split(b"\0")[0])


def _made_by(data: Buffer, table: tuple[Section, ...]) -> tuple[str, ...]:
    found = _content(data, table, ".comment", _COMMENT_BOUND) or b""
    return tuple(dict.fromkeys(printable(words) for words in found.split(b"\0") if words))
