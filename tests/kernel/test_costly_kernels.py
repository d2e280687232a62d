"""Kernel files that are made to cost time or memory: every answer stays quick and small, whatever the sizes in them say."""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg.commands.kernel import ElfOptions, file_report
from pvhdbg.errors import BadInput
from pvhdbg.kernel.image import open_kernel
from pvhdbg.report import kernel_json, kernel_text
from pvhdbg.report.kernel_document import FileReport
from pvhdbg.spec.elf import PT_LOAD, PT_NOTE, SHT_NOTE, SHT_STRTAB, SHT_SYMTAB, Header64, Ident, Section64, Segment64
from tests.kernel.test_kernel_fuzz import peak
from tests.support.elf_writer import NoteSpec

pytestmark = pytest.mark.slow

BODY = 0x10000


def load(filesz: int = 0x1000, memsz: int = 0x1000) -> Segment64:
    return Segment64(PT_LOAD, 7, 0, 0x100000, 0x100000, filesz, memsz, 4)


def section(kind: int, offset: int = 0, size: int = 0, link: int = 0) -> Section64:
    return Section64(0, kind, 0, 0, offset, size, link, 0, 4, 24)


def write(
    path: Path,
    body: bytes,
    sections: tuple[Section64, ...] = (),
    first: Segment64 | None = None,
    size: int = 0,
    notes: bytes = NoteSpec().encode(),
) -> Path:
    """An ELF of a PT_LOAD, a PT_NOTE with the entry, sections, and `body` at BODY or behind the section headers."""
    table = b"".join(one.encode() for one in sections)
    head = 64 + 2 * 56
    header = Header64(2, 62, 1, 0x100000, 64, head if sections else 0, 0, 64, 56, 2, 64 if sections else 0, len(sections), 0)
    at = head + len(table)
    segments = (first or load()).encode() + Segment64(PT_NOTE, 4, at, 0, 0, len(notes), 0, 4).encode()
    with open(path, "wb") as file:
        file.write(Ident(b"\x7fELF", 2, 1, 1, 0, bytes(8)).encode() + header.encode() + segments + table + notes)
        file.seek(max(BODY, file.tell()))
        file.write(body)
        file.truncate(max(file.tell(), size))
    return path


def report(path: Path) -> FileReport:
    with open_kernel(str(path)) as image:
        return file_report(image, ElfOptions())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    since = time.process_time()
    yield
    assert time.process_time() - since < seconds


def test_many_notes_in_many_sections(tmp_path: Path) -> None:
    notes = NoteSpec(1, desc=b"").encode() * 4000
    at = 0x500000
    sections = (section(0),) * 65_000 + (section(SHT_NOTE, at, len(notes)),)
    path = write(tmp_path / "k", bytes(at - 64 - 112 - 64 * len(sections) - len(NoteSpec().encode())) + notes, sections)
    with within(4):
        document = kernel_json.document(report(path))
    assert len(document["notes"]) == 4001


def test_more_in_the_file_than_in_memory_draws_no_longer_bar(tmp_path: Path) -> None:
    text = kernel_text.render(report(write(tmp_path / "k", bytes(1 << 20), first=load(1 << 20, 1))))
    assert "p_filesz 0x100000 is more than p_memsz" in text
    assert max(len(line) for line in text.splitlines()) < 400


@pytest.mark.parametrize("sizes", [(1 << 29, 64), (24, 1 << 29)], ids=["entries", "strings"])
def test_a_symbol_table_of_holes(tmp_path: Path, sizes: tuple[int, int]) -> None:
    table, strings = (section(kind, BODY, size, 2) for kind, size in zip((SHT_SYMTAB, SHT_STRTAB), sizes, strict=True))
    path = write(tmp_path / "k", b"", (section(0), table, strings), size=1 << 30)
    with pytest.raises(BadInput, match=r"table has 512 MiB.*sh_offset at file offset 0x"):
        report(path)


def test_a_linux_of_holes_is_not_looked_through_to_its_end(tmp_path: Path) -> None:
    """Its symbols are searched for in all of the file."""
    path = write(tmp_path / "k", b"", size=1 << 40, notes=NoteSpec().encode() + NoteSpec(0, b"Linux\0", b"6.1\0").encode())
    with within(5):
        assert report(path).symbols == 0


def symbols(path: Path, strings: bytes, names: list[int]) -> Path:
    rows = b"".join(struct.pack("<IBBHQQ", name, 2, 0, 1, 0x100000, 0) for name in names)
    sections = (section(0), section(SHT_SYMTAB, BODY, len(rows), 2), section(SHT_STRTAB, BODY + len(rows), len(strings)))
    return write(path, rows + strings, sections)


def test_names_that_overlap_are_not_all_kept(tmp_path: Path) -> None:
    """100 strings of 4000 letters, and a symbol for each of their ends: 800 MB of names in a file of 10 MB."""
    strings = b"\0" + b"".join(b"a" * 3997 + b"%03d" % number + b"\0" for number in range(100))
    path = symbols(tmp_path / "k", strings, [1 + 4001 * (row // 4000) + row % 4000 for row in range(400_000)])
    small = symbols(tmp_path / "small", b"\0pvh\0", [1])
    assert peak(path, "--symbol", "abc") - peak(small, "--symbol", "abc") < 100 << 20  # with 10 MB of symbols themselves


def test_a_name_that_all_strings_end_with(tmp_path: Path) -> None:
    path = symbols(tmp_path / "k", b"\0" + b"e\0" * 5_000_000, [1, 3])
    small = symbols(tmp_path / "small", b"\0e\0", [1])
    assert peak(path, "--symbol", "e") - peak(small, "--symbol", "e") < 64 << 20
    with open_kernel(str(path)) as image:
        assert image.symbols().virtual_address("e") == 0x100000


def test_a_misspelt_name_of_thousands_of_letters(tmp_path: Path) -> None:
    strings = b"\0" + b"".join(b"a%04d" % number + b"ab" * 1500 + b"\0" for number in range(300))
    with open_kernel(str(symbols(tmp_path / "k", strings, [1 + 3006 * row for row in range(300)]))) as image, within(3):
        assert image.symbols().like("a" + "ba" * 1502) == []
