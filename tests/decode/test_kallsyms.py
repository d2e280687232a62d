"""A stripped kernel's own symbol table: the real one, and what somebody made of it."""

from __future__ import annotations

import struct
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvhdbg.decode.kallsyms import Kallsyms, find
from tests.support.sorting import examples


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


def test_names_that_begin_so(table: Kallsyms) -> None:
    """With every beginning that a token may end in the middle of, or that ends in the middle of one."""
    names = [name.encode("utf-8", "surrogateescape") for name, _ in table.rows()]
    assert list(table.names()) == names
    tokens = [token[1:] for token in table.tokens[::9]]
    for prefix in (b"start_kernel", b"s", b"_", b"__ksymtab_", b"no_such_name", b"\xff", b"\0", *tokens):
        assert list(table.names(prefix)) == [name for name in names if name.startswith(prefix)], prefix


def test_the_addresses_of_names(table: Kallsyms) -> None:
    """Of several symbols with the name, the first; a name that is the beginning of others is not one of them."""
    first: dict[bytes, int] = {}
    for name, address in table.rows():
        first.setdefault(name.encode("utf-8", "surrogateescape"), address)
    asked = [*list(first)[::997], b"start_kernel", b"rest_init"]
    assert table.values([*asked, b"start_kerne", b"no_such_name", b""]) == {name: first[name] for name in asked}
    assert table.values([]) == {}


def test_one_lookup_decodes_one_name(table: Kallsyms, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, decoded = Kallsyms(table.packed, table.markers, table.tokens, table.addresses), list[int]()
    expand = Kallsyms._expand  # noqa: SLF001 - what is counted has no public name

    def counted(self: Kallsyms, at: int) -> str:
        decoded.append(at)
        return expand(self, at)

    monkeypatch.setattr(Kallsyms, "_expand", counted)
    address = table.addresses[len(table) // 2]
    assert fresh.nearest(address + 1) == fresh.nearest(address + 1)
    assert len(decoded) == 1


def test_the_part_alone_is_enough(cut: bytes, table: Kallsyms) -> None:
    found = find(cut)
    assert found is not None
    assert list(found.addresses) == list(table.addresses)


def test_it_is_found_wherever_it_is_looked_for_first(cut: bytes, table: Kallsyms) -> None:
    for first in (1, len(cut) // 2, len(cut) - 1, len(cut), 1 << 62):
        found = find(cut, first=first)
        assert found is not None
        assert len(found) == len(table)


BASE = 0xFFFFFFFF82A00000


def newest(table: Kallsyms, bits: int, skew: int, order: int) -> tuple[bytes, array[int]]:
    """The same names as Linux 7.2 lays them out: all parts 4-aligned, each address an offset from where the offset itself lies.

    `order` bytes for each name stand between markers and tokens: 3 since Linux 6.2.
    """
    last = (len(table) - 1) // 256 * 256
    end = table.markers[-1]
    for _ in range(len(table) - last):
        length = table.packed[end]
        end += 1 + length if length < 0x80 else 2 + (length & 0x7F | table.packed[end + 1] << 7)
    tokens = b"".join(token + b"\0" for token in table.tokens)
    starts, at = [], 0
    for token in table.tokens:
        starts.append(at)
        at += len(token) + 1
    names = len(table).to_bytes(4, "little") + table.packed[:end]
    parts = [bytes(skew), names, table.markers.tobytes(), bytes(order * len(table)), tokens, struct.pack("<256H", *starts)]
    data = b"".join(part + bytes(-len(part) % 4) for part in parts)
    high = 0xFFFFFFFF81000000 if bits == 64 else 0xC1000000
    addresses = array("Q", (high + 16 * (row // 2) for row in range(len(table))))
    base = BASE & (1 << bits) - 1
    return data + struct.pack(
        f"<{len(table)}i", *(address - (base + len(data) + 4 * row) for row, address in enumerate(addresses))
    ), addresses


@pytest.mark.parametrize(("skew", "order"), [(0, 0), (4, 0), (0, 3), (4, 3)])
@pytest.mark.parametrize("bits", [64, 32])
def test_offsets_from_their_own_place(table: Kallsyms, bits: int, skew: int, order: int) -> None:
    data, addresses = newest(table, bits, skew, order)
    found = find(data, bits, lambda at: (BASE & (1 << bits) - 1) + at)
    assert found is not None
    assert array("Q", found.addresses) == addresses
    assert [found.name(row) for row in (0, 255, 256, len(table) - 1)] == [table.name(row) for row in (0, 255, 256, len(table) - 1)]
    assert find(data, bits) is None  # where the file's bytes are linked to be is not known
    assert find(data[:-1], bits, lambda at: BASE + at) is None


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_table_is_none_or_bounded(data: st.DataObject, cut: bytes) -> None:
    spoilt = bytearray(cut)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    end = data.draw(st.one_of(st.just(len(spoilt)), st.integers(0, len(spoilt))))
    since = time.process_time()
    found = find(bytes(spoilt[:end]), 64, lambda at: BASE + at)
    if found is not None:
        assert sum(1 for _ in found.rows()) == len(found)
        assert all(name.startswith(b"s") for name in found.names(b"s"))
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


@pytest.mark.parametrize(("length", "believed"), [(64, True), (65, False), (10_000, False)])
def test_a_table_whose_tokens_are_pages_long_is_none(table: Kallsyms, length: int, believed: bool) -> None:
    """2 MB of it would else be 60 GB of names."""
    tokens = (*table.tokens[:-1], b"x" * length)
    data, _ = newest(Kallsyms(table.packed, table.markers, tokens, table.addresses), 64, 0, 0)
    assert (find(data, 64, lambda at: BASE + at) is not None) is believed
