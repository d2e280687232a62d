"""A hand-off taken apart into its parts, which a mutation changes, and laid out in guest memory again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from struct import pack

from pvhdbg.decode.boot_state import BootState, Module, Text, Unread, seen
from pvhdbg.model import Unavailable
from pvhdbg.spec.start_info import RAM, START_MAGIC, MemoryMapEntry, ModuleEntry, StartInfoV0, StartInfoV1

PAGE = 4096
_BIOS_DATA = 0x1000  # below it lie the real-mode vectors and the BIOS data area
_LOW = 0x100000
_TOP_MARGIN = 0x100000  # the end of RAM, where only Place.HIGH puts anything
_FOUR_GIB = 1 << 32


class NotTried(Exception):
    """This machine or this hand-off cannot have the mutation; the message says why."""


class Place(Enum):
    """Where the parts of the hand-off are put."""

    STAY = "where the loader put them, as long as they fit there"
    HIGH = "at the end of RAM below 4 GiB"
    LOW = "at the beginning of RAM"
    ODD = "at odd addresses"
    PAGE_END = "each so that it ends with its page"
    APART = "each far from the others"


@dataclass(frozen=True)
class ModulePart:
    """A module. `data` is None for one of the loader's, whose `size` bytes are at `address`. `line_at` is the loader's pointer to a
    command line where there is none behind it (qboot's garbage)."""

    size: int
    address: int = 0
    data: bytes | None = None
    command_line: bytes | None = None
    reserved: int = 0
    line_at: int = 0


@dataclass(frozen=True)
class Handover:
    """What start_info says, without the addresses of its parts. `tail` are fields of a later version, behind those of version 1."""

    version: int
    flags: int
    rsdp: int
    command_line: bytes | None
    modules: tuple[ModulePart, ...]
    memory_map: tuple[MemoryMapEntry, ...] | None
    tail: bytes = b""


@dataclass(frozen=True)
class Write:
    """Bytes for guest memory; or `size` bytes that are copied there from `source`."""

    address: int
    data: bytes = b""
    source: int = 0
    size: int = 0

    @property
    def taken(self) -> range:
        """The addresses that it occupies."""
        return range(self.address, self.address + (len(self.data) or self.size))


@dataclass(frozen=True)
class HandoverLayout:
    """A hand-off in memory: the address of start_info, what to write, and the ranges that hold it."""

    start_info: int
    writes: tuple[Write, ...]
    kept: tuple[range, ...]


def handover(boot: BootState) -> Handover:
    """The hand-off of a machine at its entry. Raises NotTried where it cannot be read whole."""
    try:
        info = boot.start_info
        modules, memory_map = seen(info.modules), None if info.memory_map is None else seen(info.memory_map)
        complete = len(modules) == info.raw.nr_modules
        if memory_map is not None and info.v1 is not None:
            complete = complete and len(memory_map) == info.v1.memmap_entries
        if not complete:
            raise NotTried("the hand-off has more entries than are read")
        line = info.command_line
        return Handover(
            info.raw.version,
            info.raw.flags,
            info.raw.rsdp_paddr,
            None if line is None else seen(line).data,
            tuple(_part(one) for one in modules),
            memory_map,
        )
    except Unavailable as gap:
        raise NotTried(f"the hand-off cannot be read: {gap.reason}") from gap


def _part(module: Module) -> ModulePart:
    line, entry = module.command_line, module.entry
    if isinstance(line, Text):
        return ModulePart(entry.size, entry.paddr, None, line.data, entry.reserved)
    return ModulePart(entry.size, entry.paddr, None, None, entry.reserved, entry.cmdline_paddr)


# --- free memory --------------------------------------------------------------------------------------------------


def ram(memory_map: Iterable[MemoryMapEntry]) -> list[range]:
    """The RAM below 4 GiB in order of address."""
    areas = (range(one.addr, min(one.addr + one.size, _FOUR_GIB)) for one in memory_map if one.type == RAM)
    return sorted((area for area in areas if area), key=lambda area: area.start)


def used(boot: BootState) -> list[range]:
    """What a guest may rely on in addition to the hand-off: the kernel, the BIOS's data, ACPI's tables, and the loader's GDT and IDT."""
    found = [range(_BIOS_DATA)]
    if boot.snapshot.kernel is not None:
        found += [range(one.start, one.end) for one in boot.snapshot.kernel.loads]
    info = boot.start_info
    if info.raw.rsdp_paddr:
        found.append(range(info.raw.rsdp_paddr, info.raw.rsdp_paddr + 64))
    if not isinstance(info.root_tables, Unread):
        found += [range(one.address, one.address + 0x10000) for one in info.root_tables]
    for table in (boot.segments.gdt, boot.segments.idt):
        if table is not None and table.base < _FOUR_GIB:
            found.append(range(table.base, table.base + table.limit + 1))
    return found


def without(areas: Iterable[range], taken: Iterable[range]) -> list[range]:
    """The parts of `areas` that overlap none of `taken`, in order."""
    left = sorted(areas, key=lambda area: area.start)
    for hole in taken:
        left = [
            part
            for area in left
            for part in (range(area.start, min(area.stop, hole.start)), range(max(area.start, hole.stop), area.stop))
            if len(part)
        ] if hole else left  # fmt: skip
    return sorted(set(left), key=lambda area: area.start)


class Allocator:
    """Free RAM below 4 GiB, which is handed out by the rule of a Place."""

    def __init__(self, areas: Iterable[range], taken: Iterable[range], parts: int) -> None:
        """`parts` is how many there will be, for Place.APART."""
        self._free = without(areas, taken)
        self._parts = parts
        self._number = 0
        top = max((area.stop for area in self._free), default=0)
        self._top = top - _TOP_MARGIN

    def take(self, size: int, place: Place, alignment: int = 8) -> int:
        """An address for `size` bytes. Raises NotTried where there is no room."""
        found = next(self._candidates(max(size, 1), place, alignment), None)
        if found is None:
            raise NotTried(f"there is no room for {size} bytes {place.value}")
        self._free = without(self._free, [range(found, found + max(size, 1))])
        self._number += 1
        return found

    def _candidates(self, size: int, place: Place, alignment: int) -> Iterator[int]:
        if place is Place.HIGH:
            for area in reversed(self._free):
                start = (area.stop - size) // alignment * alignment
                if start >= area.start:
                    yield start
            return
        wanted = 0 if place is Place.LOW else _LOW
        if place is Place.APART:
            wanted += (self._top - wanted) * self._number // max(self._parts, 1)
        for area in self._free:
            start = max(area.start, wanted)
            stop = area.stop if place is Place.LOW else min(area.stop, self._top)
            if place is Place.ODD:
                start = -(-start // PAGE) * PAGE + 1
            elif place is Place.PAGE_END:
                start = -(-(start + size) // PAGE) * PAGE - size
            else:
                start = -(-start // alignment) * alignment
            if start + size <= stop:
                yield start


# --- laid out -----------------------------------------------------------------------------------------------------


class _Writer:
    """Collects what is written; a part stays at `old` where it fits and the place is STAY."""

    def __init__(self, place: Place, allocator: Allocator) -> None:
        self._place = place
        self._allocator = allocator
        self.writes: list[Write] = []

    def put(self, data: bytes, old: range, alignment: int = 8) -> int:
        """The address of `data`."""
        stays = self._place is Place.STAY and len(data) <= len(old)
        address = old.start if stays else self._allocator.take(len(data), self._place, alignment)
        self.writes.append(Write(address, data))
        return address

    def move(self, part: ModulePart) -> int:
        """The address of a module."""
        if part.data is not None:
            return self.put(part.data, range(0), PAGE) if part.data else self._allocator.take(0, self._place, PAGE)
        if self._place is Place.STAY or not part.size:
            self.writes.append(Write(part.address, b"", part.address, part.size))
            return part.address
        address = self._allocator.take(part.size, self._place, PAGE)
        self.writes.append(Write(address, b"", part.address, part.size))
        return address


def laid_out(boot: BootState, wish: Handover, place: Place, allocator: Allocator) -> HandoverLayout:
    """The bytes of a hand-off and their addresses. Raises NotTried where there is no room."""
    info, writer = boot.start_info, _Writer(place, allocator)
    old_line = info.command_line
    old = range(old_line.address, old_line.address + len(old_line.data) + 1) if isinstance(old_line, Text) else range(0)
    line = 0 if wish.command_line is None else writer.put(wish.command_line + b"\0", old, 1)
    entries = b""
    for part in wish.modules:
        text = part.line_at if part.command_line is None else writer.put(part.command_line + b"\0", range(0), 1)
        entries += ModuleEntry(writer.move(part), part.size, text, part.reserved).encode()
    old_list = range(info.raw.modlist_paddr, info.raw.modlist_paddr + info.raw.nr_modules * ModuleEntry.sizeof())
    modules = writer.put(entries, old_list) if entries else 0
    fields = (START_MAGIC, wish.version, wish.flags, len(wish.modules), modules, line, wish.rsdp)
    if wish.version == 0:
        head = StartInfoV0(*fields).encode()
    else:
        count, at = 0, 0
        if wish.memory_map is not None:
            v1 = info.v1
            before = range(v1.memmap_paddr, v1.memmap_paddr + v1.memmap_entries * MemoryMapEntry.sizeof()) if v1 else range(0)
            count, at = len(wish.memory_map), writer.put(b"".join(one.encode() for one in wish.memory_map), before)
        head = StartInfoV1(*fields, at, count, 0).encode() + wish.tail
    start = writer.put(head, range(info.address, info.address + type(info.raw).sizeof()))
    return HandoverLayout(start, tuple(writer.writes), tuple(one.taken for one in writer.writes))


def original(boot: BootState) -> tuple[range, ...]:
    """Where the loader's own hand-off lies."""
    info = boot.start_info
    found = [range(info.address, info.address + type(info.raw).sizeof())]
    found.append(range(info.raw.modlist_paddr, info.raw.modlist_paddr + info.raw.nr_modules * ModuleEntry.sizeof()))
    if isinstance(info.command_line, Text):
        found.append(range(info.command_line.address, info.command_line.address + len(info.command_line.data) + 1))
    if not isinstance(info.modules, Unread):
        found += [range(one.entry.paddr, one.entry.paddr + one.entry.size) for one in info.modules]
    if info.v1 is not None:
        found.append(range(info.v1.memmap_paddr, info.v1.memmap_paddr + info.v1.memmap_entries * MemoryMapEntry.sizeof()))
    return tuple(one for one in found if one)


def pattern(size: int, word: int) -> bytes:
    """`size` bytes of a repeated 32-bit word."""
    return (pack("<I", word) * (size // 4 + 1))[:size]
