"""Translate a linear address into a physical one through the guest's page tables, and record every level.

Intel SDM volume 3A, chapter 4: 32-bit paging (4.3), PAE (4.4), 4- and 5-level paging (4.5). The tables come from the guest: a
walk reads at most five entries, and an address from a table is only used for reading.
"""

from __future__ import annotations

from collections.abc import Callable

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Hex, MemoryView, Registers, Unavailable
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.spec.x86 import CR0, CR4, EFER

Read = Callable[[int, int], bytes]

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL = 0, 1, 2, 5, 6, 7, 8
NO_EXECUTE = 63
_FLAGS = ((WRITABLE, "writable"), (USER, "user"), (ACCESSED, "accessed"), (DIRTY, "dirty"), (GLOBAL, "global"))
_FRAME = (1 << 52) - 1 & ~0xFFF  # bits 51:12


class Scheme(NamedTuple):
    """A paging mode: its levels from the top, the lowest address bit that each level decodes, and the size of an entry.

    `large` are the levels whose entries may map a large page.
    """

    name: str
    levels: tuple[tuple[str, int, int], ...]  # name, lowest bit, number of bits
    entry_size: int
    large: frozenset[str]
    width: int  # bits of a linear address


_LONG = (("PML4", 39, 9), ("PDPT", 30, 9), ("PD", 21, 9), ("PT", 12, 9))
LEGACY = Scheme("32-bit paging", (("PD", 22, 10), ("PT", 12, 10)), 4, frozenset({"PD"}), 32)
PAE = Scheme("PAE paging", (("PDPT", 30, 2), ("PD", 21, 9), ("PT", 12, 9)), 8, frozenset({"PD"}), 32)
FOUR_LEVEL = Scheme("4-level paging", _LONG, 8, frozenset({"PDPT", "PD"}), 48)
FIVE_LEVEL = Scheme("5-level paging", (("PML5", 48, 9), *_LONG), 8, frozenset({"PDPT", "PD"}), 57)


@dataclass(frozen=True)
class Level:
    """One entry of a walk: its physical address and its value. `entry` is None if it cannot be read."""

    name: str
    index: int
    address: Hex
    entry: Hex | None
    points_to: Hex = 0  # the next table, or the page
    maps: Hex = 0  # bytes of the page that this entry maps; 0 for a table

    @property
    def present(self) -> bool:
        return bool((self.entry or 0) >> PRESENT & 1)

    def words(self) -> str:
        """The entry's bits in words; empty for an entry that is not present."""
        entry = self.entry or 0
        if not self.present:
            return ""
        named = [name for bit, name in _FLAGS if entry >> bit & 1 and (self.maps or bit not in (DIRTY, GLOBAL))]
        return " ".join([*named, "no-execute"] if entry >> NO_EXECUTE & 1 else named)


class Walk(NamedTuple):
    """The walk of one address. `physical` is None if the walk failed, and `problem` says why."""

    linear: int
    scheme: Scheme | None  # None: paging is off
    levels: tuple[Level, ...] = ()
    physical: int | None = None
    page_size: int = 0
    problem: str = ""


def above_4_gib(rip: int | None) -> bool:
    """Whether the pc lies where 64-bit code alone can be: it tells long mode where EFER was not observed, as in a core."""
    return rip is not None and rip >> 32 != 0


def scheme_of(registers: Registers) -> Scheme | None:
    """The active paging mode, None if paging is off. Raises Unavailable if the control registers were not observed."""
    if not registers["cr0"] >> CR0["PG"] & 1:
        return None
    cr4 = registers["cr4"]
    if not cr4 >> CR4["PAE"] & 1:
        return LEGACY
    if not above_4_gib(registers.get("rip")) and not registers["efer"] >> EFER["LMA"] & 1:
        return PAE
    return FIVE_LEVEL if cr4 >> CR4["LA57"] & 1 else FOUR_LEVEL


def translate(registers: Registers, linear: int, read: Read) -> Walk:
    """Walk the page tables that cr3 points to.

    `read(address, size)` reads physical memory and raises MemoryUnreadable or Unavailable; NeedMemory passes through. Raises
    Unavailable if cr0, cr3, cr4 or efer was not observed.
    """
    scheme = scheme_of(registers)
    if scheme is None:
        return Walk(linear, None, physical=linear, page_size=1 << 12)
    if not _canonical(linear, scheme):
        return Walk(linear, scheme, problem=_not_an_address(scheme))
    return walk(scheme, root_of(registers, scheme), linear, bool(registers["cr4"] >> CR4["PSE"] & 1), read)


def walk(scheme: Scheme, table: int, linear: int, pse: bool, read: Read) -> Walk:
    """Walk tables whose topmost one is at the physical address `table` as those of `scheme`; `pse` is cr4.PSE. See `translate`."""
    levels: list[Level] = []
    for name, low, bits in scheme.levels:
        index = linear >> low & (1 << bits) - 1
        level = _level(scheme, name, low, index, table + index * scheme.entry_size, pse, read)
        levels.append(level)
        if level.entry is None:
            return Walk(linear, scheme, tuple(levels), problem=f"the {name} at {table:#x} cannot be read")
        if not level.present:
            return Walk(linear, scheme, tuple(levels), problem=f"entry {index} of the {name} is not present")
        if level.maps:
            return Walk(linear, scheme, tuple(levels), level.points_to | linear & level.maps - 1, level.maps)
        table = level.points_to
    raise AssertionError("the last level maps a page")


def root_of(registers: Registers, scheme: Scheme) -> int:
    """The physical address of the topmost table. Raises Unavailable if cr3 was not observed."""
    return registers["cr3"] & (~0x1F & 0xFFFFFFFF if scheme is PAE else ~0xFFF & 0xFFFFFFFF if scheme is LEGACY else _FRAME)


def _level(scheme: Scheme, name: str, low: int, index: int, address: int, pse: bool, read: Read) -> Level:
    try:
        entry = int.from_bytes(read(address, scheme.entry_size), "little")
    except (MemoryUnreadable, Unavailable):
        return Level(name, index, address, None)
    return level_of(scheme, name, low, index, address, pse, entry)


def level_of(scheme: Scheme, name: str, low: int, index: int, address: int, pse: bool, entry: int) -> Level:
    """What an entry at a level means; `low` is the lowest address bit that the level decodes, `pse` is cr4.PSE."""
    large = name in scheme.large and bool(entry >> LARGE & 1) and (scheme is not LEGACY or pse)
    if not large and name != "PT":
        return Level(name, index, address, entry, entry & (0xFFFFF000 if scheme is LEGACY else _FRAME))
    size = 1 << low
    if scheme is not LEGACY:
        return Level(name, index, address, entry, entry & _FRAME & ~(size - 1), size)
    high = (entry >> 13 & 0xFF) << 32 if large else 0  # PSE-36: bits 20:13 are address bits 39:32
    return Level(name, index, address, entry, high | entry & 0xFFFFFFFF & ~(size - 1), size)


def _canonical(linear: int, scheme: Scheme) -> bool:
    if scheme.width == 32:
        return linear >> 32 == 0
    return linear >> scheme.width - 1 in (0, (1 << 65 - scheme.width) - 1)


def _not_an_address(scheme: Scheme) -> str:
    return "the address has more than 32 bits" if scheme.width == 32 else f"the address is not canonical in {scheme.width} bits"


def physical_address(address: int, registers: Registers, memory: MemoryView) -> int:
    """The guest-physical address of the linear `address`. Raises NeedMemory for page tables that it needs.

    Raises Unavailable if the address is not mapped, and if cr0 (or cr3, cr4, efer with paging on) was not observed.
    """
    scheme = scheme_of(registers)
    if scheme is None:
        return address & 0xFFFFFFFF
    walk = translate(registers, address & 0xFFFFFFFF if scheme.width == 32 else address, memory.read)
    if walk.physical is None:
        raise Unavailable(f"{address:#x} is not mapped: {walk.problem}")
    return walk.physical
