"""A stripped kernel's own symbol table: the real one, and what somebody made of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvhdbg.decode.kallsyms import Kallsyms, find


@pytest.fixture(scope="module")
def table(vmlinux: Path) -> Kallsyms:
    found = find(vmlinux.read_bytes())
    assert found is not None
    return found


@pytest.fixture(scope="module")
def table32(vmlinux32: Path) -> Kallsyms:
    data = vmlinux32.read_bytes()
    assert find(data) is None  # a word has 4 bytes there
    found = find(data, 32)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def cut(vmlinux: Path, table: Kallsyms) -> bytes:
    """The part of the file that holds the table."""
    data = vmlinux.read_bytes()
    offsets, names_at = 4 * len(table) + 32, data.index(table.packed[:65536])
    return data[names_at - offsets & ~7 : names_at + table.markers[-1] + (2 << 20)]


@pytest.mark.parametrize("bits", [64, 32])
def test_every_row_is_found_again(request: pytest.FixtureRequest, bits: int) -> None:
    table: Kallsyms = request.getfixturevalue("table" if bits == 64 else "table32")
    rows = list(table.rows())
    assert len(rows) == len(table) > 40_000
    assert rows[-1][1] < 1 << bits
    assert [address for _, address in rows] == sorted(address for _, address in rows)
    assert all(name.isprintable() and name for name, _ in rows)
    for row in (0, 1, 255, 256, 257, len(rows) // 2, len(rows) - 1):
        assert table.name(row) == rows[row][0]
        first = next(name for name, address in rows if address == rows[row][1])
        assert table.exact(rows[row][1]) == first
        assert table.nearest(rows[row][1]) == (first, 0)
    assert table.nearest(rows[-1][1] + 9) == (next(name for name, address in rows if address == rows[-1][1]), 9)
    assert table.exact(rows[-1][1] + 9) is None


def test_the_part_alone_is_enough(cut: bytes, table: Kallsyms) -> None:
    found = find(cut)
    assert found is not None
    assert list(found.addresses) == list(table.addresses)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_table_is_none_or_bounded(data: st.DataObject, cut: bytes) -> None:
    spoilt = bytearray(cut)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    end = data.draw(st.one_of(st.just(len(spoilt)), st.integers(0, len(spoilt))))
    since = time.process_time()
    found = find(bytes(spoilt[:end]))
    if found is not None:
        assert sum(1 for _ in found.rows()) == len(found)
    assert time.process_time() - since < 10


def test_what_looks_like_many_tables_is_given_up() -> None:
    words = [bytes([code]) if 0x21 <= code < 0x7F else b"t" for code in range(256)]
    text = b"".join(word + b"\0" for word in words)
    offsets, at = b"", 0
    for word in words:
        offsets += at.to_bytes(2, "little")
        at += len(word) + 1
    tokens = text + bytes(-len(text) % 8) + offsets
    block = (b"\0\x10\0\0\0\0\0\0" + b"\x02ab" * 21 + b"\x02") * 20_000
    since = time.process_time()
    assert find((block + bytes(-len(block) % 8) + tokens) * 6) is None
    assert time.process_time() - since < 20


def test_rows_of_digits_are_not_followed_for_ever() -> None:
    digits = b"".join(bytes([letter, 0]) for letter in b"0123456789")
    since = time.process_time()
    assert find((b"a\0" * 48 + digits) * 50_000) is None
    assert time.process_time() - since < 3


def test_chains_of_names_are_not_followed_for_ever() -> None:
    """Each number is followed by 256 names, of which the first hides the next number."""
    words = [bytes([code]) if 0x21 <= code < 0x7F else b"t" for code in range(256)]
    text = b"".join(word + b"\0" for word in words)
    index = b"".join(sum(len(word) + 1 for word in words[:row]).to_bytes(2, "little") for row in range(256))
    step = b"\x40\x42\x0f\0\0\0\0\0" + b"\xf6\x03" + bytes([7]) * 500 + bytes(2)
    block = step * 8_000
    since = time.process_time()
    assert find(block + bytes(-len(block) % 8) + text + bytes(-len(text) % 8) + index) is None
    assert time.process_time() - since < 3
