"""A file as bytes: the same slices as of bytes, and an error instead of a signal when it is cut short."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.commands.kernel import ElfOptions, file_report
from pvhdbg.errors import BadInput
from pvhdbg.kernel.file_bytes import FileBytes, pieces
from pvhdbg.kernel.image import open_kernel
from tests.support.elf_writer import build_elf

DATA = bytes(range(200))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileBytes]:
    path = tmp_path_factory.mktemp("bytes") / "f"
    path.write_bytes(DATA)
    found = FileBytes(os.open(path, os.O_RDONLY), "f", len(DATA))
    yield found
    found.close()
    found.close()  # twice is once


_PLACE = st.one_of(st.none(), st.integers(-300, 300), st.integers(-(1 << 64), 1 << 64))


@given(_PLACE, _PLACE, st.integers(0, 200), st.integers(0, 200))
def test_slices_are_those_of_bytes(file: FileBytes, start: int | None, end: int | None, at: int, size: int) -> None:
    assert file[start:end] == DATA[start:end]
    size = min(size, len(DATA) - at)
    part = file.part(at, size)
    assert (len(part), part[start:end]) == (size, DATA[at : at + size][start:end])
    assert b"".join(bytes(piece) for piece in pieces(part)) == DATA[at : at + size]


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    """What is mapped would end the process by SIGBUS."""
    path = tmp_path / "k"
    path.write_bytes(build_elf() + bytes(1 << 16))
    with open_kernel(str(path)) as image:
        os.truncate(path, 0)
        with pytest.raises(BadInput, match="truncated"):
            file_report(image, ElfOptions())
