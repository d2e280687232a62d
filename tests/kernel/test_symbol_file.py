"""Files that hold symbols alone, as pyelftools and GDB read them."""

import io
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.errors import BadInput
from pvhdbg.kernel.symbol_file import NamedSymbol, stretches, symbol_file

HIGH = 0xFFFFFFFF81000000
LOADS = [(HIGH, 0x10000), (HIGH + 0x20000, 0x8000)]
ROWS = [
    NamedSymbol("T", b"_text", HIGH),
    NamedSymbol("t", b"local_one", HIGH + 0x40),
    NamedSymbol("W", b"weak_one", HIGH + 0x80),
    NamedSymbol("R", b"table", HIGH + 0x9000),
    NamedSymbol("D", b"jiffies", HIGH + 0x20000),
    NamedSymbol("t", b"in_init", HIGH + 0x24000),
    NamedSymbol("A", b"absolute", 0x1234),
]


@pytest.mark.parametrize("bits", [64, 32])
def test_another_reader_finds_every_symbol_as_it_was_given(bits: int) -> None:
    cut = (1 << bits) - 1
    rows = [one._replace(address=one.address & cut) for one in ROWS]
    elf = ELFFile(io.BytesIO(symbol_file(rows, [(start & cut, size) for start, size in LOADS], bits)))
    assert elf.elfclass == bits
    table: Any = elf.get_section_by_name(".symtab")
    found = {symbol.name: symbol for symbol in table.iter_symbols() if symbol.name}
    assert {name: symbol["st_value"] for name, symbol in found.items()} == {one.name.decode(): one.address for one in rows}
    assert {name: symbol["st_info"]["bind"].removeprefix("STB_") for name, symbol in found.items()} == {
        "_text": "GLOBAL", "local_one": "LOCAL", "weak_one": "WEAK", "table": "GLOBAL", "jiffies": "GLOBAL", "in_init": "LOCAL",
        "absolute": "GLOBAL",
    }  # fmt: skip
    first = next(
        index for index, symbol in enumerate(table.iter_symbols()) if symbol.name and symbol["st_info"]["bind"] != "STB_LOCAL"
    )
    assert table["sh_info"] == first
    sections = {
        name: "ABS" if symbol["st_shndx"] == "SHN_ABS" else elf.get_section(symbol["st_shndx"]).name
        for name, symbol in found.items()
    }
    assert sections == {"_text": ".text", "local_one": ".text", "weak_one": ".text", "table": ".data", "jiffies": ".data",
                        "in_init": ".text", "absolute": "ABS"}  # fmt: skip


def test_gdb_names_addresses_by_it_at_both_places(tmp_path: Path, gdb: str) -> None:
    path = tmp_path / "kernel.symbols"
    path.write_bytes(symbol_file(ROWS, LOADS, 64))
    words = ["-ex", f"symbol-file {path}", "-ex", f"info symbol {HIGH + 0x44:#x}", "-ex", "info address jiffies",
             "-ex", f"with confirm off -- add-symbol-file {path} -o {0x1000000 - HIGH & (1 << 64) - 1:#x}",
             "-ex", "info symbol 0x1024010"]  # fmt: skip
    done = subprocess.run([gdb, "-nx", "-q", "-batch", *words], capture_output=True, text=True, timeout=30, check=True)
    assert "local_one + 4 in section .text" in done.stdout
    assert f'"jiffies" is at {HIGH + 0x20000:#x}' in done.stdout
    assert "in_init + 16 in section .text" in done.stdout


@given(
    st.lists(st.tuples(st.sampled_from("tTwdDbr"), st.integers(0, 0x9000)), max_size=30),
    st.lists(st.tuples(st.integers(0, 0x8000), st.integers(-4, 0x3000)), max_size=5),
)
def test_stretches_cover_what_is_loaded_and_never_overlap(kinds: list[tuple[str, int]], loads: list[tuple[int, int]]) -> None:
    rows = [NamedSymbol(letter, b"x", address) for letter, address in kinds]
    found = stretches(rows, loads)
    assert all(one.start < one.end for one in found)
    assert all(a.end <= b.start for a, b in pairwise(found))
    for one in rows:
        around = [stretch for stretch in found if stretch.start <= one.address < stretch.end]
        if one.is_code and around:
            assert around[0].code
    table: Any = ELFFile(io.BytesIO(symbol_file(rows, loads, 64))).get_section_by_name(".symtab")
    assert len(table.data()) == 24 * (len(rows) + 1)


def test_no_name_speaks_to_a_terminal() -> None:
    data = symbol_file([NamedSymbol("T", b"a\x1b]0;b\x07\n\xc2\x9bc d", HIGH)], LOADS, 64)
    table: Any = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    assert [symbol.name for symbol in table.iter_symbols() if symbol.name] == ["a?]0;b??" + "??c?d"]


def test_names_without_end_are_refused_before_they_are_all_there() -> None:
    given = 0

    def endless() -> Iterator[NamedSymbol]:
        nonlocal given
        while True:
            given += 1
            yield NamedSymbol("T", b"n" * (1 << 16), HIGH)

    with pytest.raises(BadInput, match="64 MiB of names"):
        symbol_file(endless(), LOADS, 64)
    assert given == 1025


def test_many_segments_of_many_symbols_take_no_longer_than_few() -> None:
    """Each of 512 segments is cut at its own symbols, without a look."""
    rows = [NamedSymbol("t", b"f", HIGH + 16 * number) for number in range(200_000)]
    begun = time.process_time()
    assert len(stretches(rows, [(HIGH + 0x1000 * number, 0x1000) for number in range(512)])) >= 512
    assert time.process_time() - begun < 3
