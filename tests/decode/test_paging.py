"""Page tables are walked as the machine walks them: QEMU's own `gva2gpa` is the oracle, and tables built here the other."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg import guests
from pvhdbg.decode.paging import physical_address
from pvhdbg.kernel.image import open_kernel
from pvhdbg.model import Memory, MemoryPiece, NeedMemory, Registers, Unavailable
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.vmm.qemu import QemuOptions
from tests.support.debugged import debugged
from tests.support.sorting import examples

PE_PG, PSE, PAE, LA57, LMA = 0x80000001, 1 << 4, 1 << 5, 1 << 12, 1 << 10
PRESENT, LARGE = 1, 0x80
CR3 = 0x10000


class Tables:
    """Page tables in the making: bytes by address, a fresh page for each table."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.bytes: dict[int, bytes] = {}
        self.next = CR3 + 0x1000

    def map(self, path: list[int], entry: int) -> None:
        """`entry` at the end of `path`, the indices from the top table down."""
        table = CR3
        for index in path[:-1]:
            at = table + index * self.width
            if at not in self.bytes:
                self.bytes[at] = (self.next | PRESENT).to_bytes(self.width, "little")
                self.next += 0x1000
            table = int.from_bytes(self.bytes[at], "little") & ~0xFFF
        self.bytes[table + path[-1] * self.width] = entry.to_bytes(self.width, "little")

    def memory(self) -> Memory:
        blank = {page: bytearray(0x1000) for page in range(CR3, self.next, 0x1000)}
        for at, data in self.bytes.items():
            blank[at & ~0xFFF][at & 0xFFF : (at & 0xFFF) + self.width] = data
        return Memory(MemoryPiece(page, bytes(data)) for page, data in blank.items())


# bits of the address that each table's index takes, from the top down, and the state that selects the format
FORMATS = {
    "legacy": ([10, 10], 4, {"cr4": 0, "efer": 0}),
    "pse": ([10, 10], 4, {"cr4": PSE, "efer": 0}),
    "pae": ([2, 9, 9], 8, {"cr4": PAE, "efer": 0}),
    "long": ([9, 9, 9, 9], 8, {"cr4": PAE, "efer": LMA}),
    "la57": ([9, 9, 9, 9, 9], 8, {"cr4": PAE | LA57, "efer": LMA}),
}


@settings(deadline=None, max_examples=examples(200))
@given(st.sampled_from(sorted(FORMATS)), st.integers(0, (1 << 57) - 1), st.integers(0, (1 << 40) - 1), st.integers(0, 2))
def test_what_was_mapped_is_found(name: str, linear: int, physical: int, above: int) -> None:
    bits, width, state = FORMATS[name]
    span = 12 + sum(bits)
    linear &= (1 << span) - 1
    large = {"legacy": 0, "pse": 1, "pae": 1, "long": 2, "la57": 2}[name]
    depth = len(bits) - min(above, large)
    size = 12 + sum(bits[depth:])
    path, at = [], span
    for count in bits[:depth]:
        at -= count
        path.append(linear >> at & (1 << count) - 1)
    page = physical >> size << size
    if width == 4 and depth == 1:
        entry = page & 0xFFC00000 | (page >> 32 & 0xFF) << 13 | LARGE
    elif width == 4:
        page &= 0xFFFFF000
        entry = page | LARGE  # at the last level that bit is PAT
    else:
        entry = page | (1 << 63) | LARGE  # not executable; or PAT
    tables = Tables(width)
    tables.map(path, entry | PRESENT)
    if span > 32 and linear >> (span - 1):
        linear |= (1 << 64) - (1 << span)  # canonical
    registers = Registers({"cr0": PE_PG, "cr3": CR3 | 0x18, **state})
    assert physical_address(linear, registers, tables.memory()) == page | linear & (1 << size) - 1
    with pytest.raises(Unavailable, match="not mapped"):
        physical_address(linear ^ 1 << (span - 1) if span == 32 else linear ^ 1 << 30, registers, tables.memory())


def test_without_paging_an_address_is_what_it_is() -> None:
    assert physical_address(0x123456789, Registers({"cr0": 1}), Memory()) == 0x23456789


def test_what_is_not_canonical_is_nowhere() -> None:
    for cr4, address in ((PAE, 1 << 47), (PAE, 0xFFFF << 47), (PAE | LA57, 1 << 56)):
        with pytest.raises(Unavailable, match="canonical"):
            physical_address(address, Registers({"cr0": PE_PG, "cr3": 0, "cr4": cr4, "efer": LMA}), Memory())


def test_the_tables_are_asked_for_and_what_is_not_observed_is_said() -> None:
    with pytest.raises(NeedMemory) as need:
        physical_address(0xFFFFFFFF80000000, Registers({"cr0": PE_PG, "cr3": CR3, "cr4": PAE, "efer": LMA}), Memory())
    assert (need.value.address, need.value.size) == (CR3 + 511 * 8, 8)
    for missing in ("cr0", "cr3", "cr4", "efer"):
        registers = Registers({"cr0": PE_PG, "cr3": CR3, "cr4": PAE, "efer": LMA}).replace(**{missing: None})
        with pytest.raises(Unavailable, match=missing):
            physical_address(0, registers, Memory())


class Live:
    """A machine's memory as the walk wants it."""

    def __init__(self, target: RemoteTarget) -> None:
        self.target = target

    def read(self, address: int, size: int) -> bytes:
        return self.target.read_memory(address, size)


@pytest.mark.boot
@pytest.mark.parametrize(
    ("guest", "line", "symbol", "mapped"),
    [
        ("other_protocols", "as=xen-pv", "second_entry", [0, 0x100123, 0xFFFFFFFF, 0xFFFFFFFF80100ABC, 0xFFFFFFFFBFFFFFFF]),
        ("crashers", "crash=wild-esp", "wild_push", [0, 0x100123, 0x3FFFFF]),
    ],
    ids=["long mode", "4 MiB pages"],
)
def test_a_real_machine_translates_in_the_same_way(guest: str, line: str, symbol: str, mapped: list[int]) -> None:
    kernel: Path = guests.path(guest)
    with open_kernel(str(kernel)) as image, debugged(QemuOptions(kernel, append=line)) as (_, target):
        run_until(target, [image.symbols().physical_address(symbol)], 20)
        registers, memory = target.read_registers(), Live(target)
        assert registers["cr0"] & PE_PG == PE_PG
        for address in (*mapped, 0x400000, 0x40000000, 0xD0000000, 0xFFFFFFFFC0000000):
            said = re.search(r"gpa: (?:0x)?([0-9a-f]+)", target.monitor(f"gva2gpa {address:#x}"))
            try:
                ours: int | None = physical_address(address, registers, memory)
            except Unavailable:
                ours = None
            if registers["efer"] & LMA or address < 1 << 32:
                assert ours == (int(said[1], 16) if said else None), hex(address)
            assert ours is not None or address not in mapped
