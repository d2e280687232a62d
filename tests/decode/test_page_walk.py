"""Page walks over tables that the tests lay out; real machines are walked in tests/machine/test_session.py."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.paging import FIVE_LEVEL, FOUR_LEVEL, LEGACY, PAE, scheme_of, translate
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Registers, Unavailable

PG = 0x80000001
LMA = 0xD00


def state(cr3: int = 0x1000, cr4: int = 0x20, efer: int = LMA) -> Registers:
    return Registers({"cr0": PG, "cr3": cr3, "cr4": cr4, "efer": efer})


def memory(size: int, **entries: int) -> Callable[[int, int], bytes]:
    """Entries by their hexadecimal address; everything else below 1 MiB is zero, and beyond it nothing is."""
    known = {int(address.removeprefix("at_"), 16): value for address, value in entries.items()}

    def read(address: int, length: int) -> bytes:
        if address >= 1 << 20:
            raise MemoryUnreadable(address, length)
        return known.get(address, 0).to_bytes(size, "little")[:length]

    return read


def test_the_scheme_follows_the_control_registers() -> None:
    assert scheme_of(Registers({"cr0": 1})) is None
    assert scheme_of(state(cr4=0x10, efer=0)) is LEGACY
    assert scheme_of(state(efer=0)) is PAE
    assert scheme_of(state()) is FOUR_LEVEL
    assert scheme_of(state(cr4=0x1020)) is FIVE_LEVEL
    for missing in ("cr0", "cr4", "efer"):
        with pytest.raises(Unavailable):
            scheme_of(state().replace(**{missing: None}))


def test_without_paging_an_address_is_its_own() -> None:
    walk = translate(Registers({"cr0": 1}), 0x123456, memory(8))
    assert (walk.physical, walk.scheme, walk.levels) == (0x123456, None, ())


def test_a_page_of_1_gib() -> None:
    read = memory(8, at_1000=0x2003, at_2008=0xC0000083)
    walk = translate(state(), 0x7FFF_FFFF, read)
    assert (walk.physical, walk.page_size) == (0xFFFF_FFFF, 1 << 30)
    assert [level.name for level in walk.levels] == ["PML4", "PDPT"]


def test_a_page_of_4_kib_through_all_levels() -> None:
    read = memory(8, at_1008=0x2007, at_2010=0x3007, at_3018=0x4007, at_4020=0x8000_0000_0000_5867)
    linear = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x789
    walk = translate(state(), linear, read)
    assert walk.physical == 0x5789
    assert [level.index for level in walk.levels] == [1, 2, 3, 4]
    assert walk.levels[-1].words() == "writable user accessed dirty no-execute"
    assert walk.levels[0].words() == "writable user"


def test_pse_36_gives_a_large_page_more_address_bits() -> None:
    read = memory(4, at_1004=0x0060_0083 | 0x3 << 13)
    assert translate(state(cr4=0x10, efer=0), 0x7FFFFF, read).physical == 0x3_007F_FFFF
    # Without CR4.PSE the same bit means nothing, and the entry is a table.
    assert len(translate(state(cr4=0, efer=0), 0x7FFFFF, read).levels) == 2


def test_where_a_walk_ends() -> None:
    assert "entry 0 of the PML4 is not present" in translate(state(), 0, memory(8)).problem
    assert "PML4 at 0x900000 cannot be read" in translate(state(cr3=0x900000), 0, memory(8)).problem
    assert translate(state(cr3=0x900000), 0, memory(8)).levels[0].entry is None
    assert "not canonical in 48 bits" in translate(state(), 1 << 47, memory(8)).problem
    assert "not canonical in 57 bits" in translate(state(cr4=0x1020), 1 << 56, memory(8)).problem
    assert "more than 32 bits" in translate(state(efer=0), 1 << 32, memory(8)).problem


def test_cr3_keeps_its_other_bits() -> None:
    """PCID in 4-level paging, the cache bits in PAE, whose table is aligned to 32 bytes only."""
    read = memory(8, at_1000=0x2003, at_2000=0x83)
    assert translate(state(cr3=0x1FFF), 0x55, read).physical == 0x55
    pae = memory(8, at_1020=0x2001, at_2000=0x83)
    assert translate(state(cr3=0x103F, efer=0), 0x55, pae).physical == 0x55


@given(st.binary(min_size=8, max_size=64), st.integers(0, (1 << 64) - 1), st.sampled_from([0, 0x10, 0x20, 0x1020]), st.booleans())
def test_no_table_makes_a_walk_raise_or_go_on(pattern: bytes, linear: int, cr4: int, long: bool) -> None:
    page, asked = pattern * (4096 // len(pattern) + 1), []

    def read(address: int, size: int) -> bytes:
        asked.append(address)
        return page[address & 0xFFF : (address & 0xFFF) + size]

    walk = translate(state(cr4=cr4, efer=LMA if long else 0), linear, read)
    assert len(asked) <= 5
    assert (walk.physical is None) == bool(walk.problem)
    assert all(0 <= level.address < 1 << 52 for level in walk.levels)
