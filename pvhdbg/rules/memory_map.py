"""The memory map of version 1 (struct hvm_memmap_table_entry in start_info.h)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pvhdbg.decode.boot_state import MEMORY_MAP_BOUND, BootState, seen
from pvhdbg.model import Kernel, LoadRange, Unavailable
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import RAM_MAP, at_entry
from pvhdbg.rules.start_info import kernel_loads, version_1
from pvhdbg.spec.documents import LINUX_PVH, START_INFO_H, Clause
from pvhdbg.spec.revisions import ONLY_V1
from pvhdbg.spec.start_info import MEMORY_TYPES, RAM, RESERVED, MemoryMapEntry

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO

_PAGE, _MIB = 4096, 1 << 20
LINUX_ENTRIES = 128  # E820_MAX_ENTRIES_ZEROPAGE
_ENTRY = "struct hvm_memmap_table_entry"


def _map(boot: BootState) -> tuple[MemoryMapEntry, ...]:
    entries = version_1(boot).memory_map
    if entries is None:
        raise NotApplicable("memmap_entries is 0: there is no memory map")
    return seen(entries)


def _beyond_bound(boot: BootState) -> None:
    v1 = boot.start_info.v1
    if v1 is not None and v1.memmap_entries > MEMORY_MAP_BOUND:
        raise Unavailable(f"memmap_entries is {v1.memmap_entries}; only the first {MEMORY_MAP_BOUND} were read")


def _shown(entry: MemoryMapEntry, value: int) -> str:
    return f"{value:#x} (entry is all zero)" if entry == MemoryMapEntry(0, 0, 0, 0) else f"{value:#x}"


def ram_ranges(boot: BootState) -> list[tuple[int, int]]:
    """The RAM of the memory map as [start, end) ranges, merged and in order. Raises Unavailable or NotApplicable without a map."""
    merged: list[tuple[int, int]] = []
    for entry in sorted((one for one in _map(boot) if one.type == RAM and one.size), key=lambda one: one.addr):
        end = min(entry.addr + entry.size, 1 << 64)
        if merged and entry.addr <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((entry.addr, end))
    return merged


def reserved_after(boot: BootState, address: int) -> int:
    """The size of the reserved entry that begins at `address`, 0 if there is none. Raises like `ram_ranges`."""
    return max((one.size for one in _map(boot) if one.type == RESERVED and one.addr == address), default=0)


def uncovered(start: int, end: int, ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether [start, end) is not inside one of the ranges (which are merged)."""
    return not any(first <= start and end <= last for first, last in ranges)


@rule(
    "SI-MM-PRESENT",
    "there is a memory map",
    clause=Clause(START_INFO_H, "Number of entries in the memory map table. Zero if there is no memory map being provided."),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memmap_entries=0)],
)
def mm_present(boot: BootState) -> Iterator[Violation]:
    """The text allows a hand-off without a map, for guests that can ask Xen. Under any other VMM Linux stops with a BUG."""
    v1 = version_1(boot).v1
    if v1 is not None and not v1.memmap_entries:
        yield Violation("start_info.memmap_entries", "greater than 0", "0")


@rule(
    "SI-MM-PADDR",
    "the memory map can be read",
    clause=Clause(START_INFO_H, "Physical address of an array of hvm_memmap_table_entry."),
    severity=MUST,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memmap_paddr=0), at_entry(memmap_paddr=0xB0000000), at_entry(memmap_entries=0xFFFFFFFF)],
)
def mm_paddr(boot: BootState) -> Iterator[Violation]:
    """Linux takes the content of address 0 for its memory map, reaches start_kernel and dies there."""
    v1 = version_1(boot).v1
    if v1 is None or not v1.memmap_entries:
        raise NotApplicable("memmap_entries is 0: there is no memory map")
    size = v1.memmap_entries * MemoryMapEntry.sizeof()
    if not v1.memmap_paddr:
        yield Violation("start_info.memmap_paddr", f"the address of {v1.memmap_entries} entries", "0x0")
    elif not boot.readable(v1.memmap_paddr, MemoryMapEntry.sizeof()):
        yield Violation("start_info.memmap_paddr", "a readable map", f"{v1.memmap_paddr:#x}, where the machine has no RAM")
    elif v1.memmap_entries > MEMORY_MAP_BOUND and not boot.readable(v1.memmap_paddr, size):
        found = f"{v1.memmap_entries} entries at {v1.memmap_paddr:#x} leave it"
        yield Violation("start_info.memmap_entries", "a map that lies in RAM", found)


@rule(
    "SI-MM-COUNT",
    "the map has at most 128 entries",
    clause=Clause(LINUX_PVH, "memcpy(pvh_bootparams.e820_table, ep, memmap_entries * sizeof(*ep)); e820_table has 128 entries"),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=RAM_MAP * 43)],
)
def mm_count(boot: BootState) -> Iterator[Violation]:
    """Linux copies all entries into a table of 128 without a bound, and counts them in 8 bits."""
    v1 = version_1(boot).v1
    if v1 is not None and v1.memmap_entries > LINUX_ENTRIES:
        yield Violation("start_info.memmap_entries", f"at most {LINUX_ENTRIES}", str(v1.memmap_entries))


@rule(
    "SI-MM-TYPE",
    "each entry has a type from 1 to 7",
    clause=Clause(START_INFO_H, "Mapping type: XEN_HVM_MEMMAP_TYPE_RAM 1 … XEN_HVM_MEMMAP_TYPE_PMEM 7", _ENTRY),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=[*RAM_MAP, MemoryMapEntry(1 << 32, 1 << 20, 8, 0)]),
           at_entry(memory_map=[*RAM_MAP, MemoryMapEntry(0, 0, 0, 0)])],
)  # fmt: skip
def mm_type(boot: BootState) -> Iterator[Violation]:
    """A guest does not use ranges of an unknown type or, worse, takes everything except "reserved" for RAM. On machines without
    MMCONFIG, qboot ends its map with an entry of zeros."""
    for index, entry in enumerate(_map(boot)):
        if entry.type not in MEMORY_TYPES:
            yield Violation(f"memory_map[{index}].type", "1 to 7", _shown(entry, entry.type))
    _beyond_bound(boot)


@rule(
    "SI-MM-SIZE0",
    "no entry is empty",
    clause=Clause(START_INFO_H, "uint64_t size; /* Size of the mapping in bytes. */", _ENTRY),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=[*RAM_MAP, MemoryMapEntry(1 << 32, 0, 1, 0)])],
)
def mm_size0(boot: BootState) -> Iterator[Violation]:
    """Linux skips empty entries; a reader that computes `addr + size - 1` gets a range that covers everything."""
    for index, entry in enumerate(_map(boot)):
        if not entry.size:
            yield Violation(f"memory_map[{index}].size", "greater than 0", _shown(entry, entry.size))
    _beyond_bound(boot)


@rule(
    "SI-MM-WRAP",
    "no entry wraps past 2^64",
    clause=Clause(START_INFO_H, "uint64_t addr; /* Base address of the memory region. */", _ENTRY),
    severity=MUST,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=[*RAM_MAP, MemoryMapEntry((1 << 64) - 0x1000, 0x2000, 2, 0)])],
)
def mm_wrap(boot: BootState) -> Iterator[Violation]:
    """The end of such an entry is below its start: a guest frees or maps everything in between."""
    for index, entry in enumerate(_map(boot)):
        if entry.addr + entry.size > 1 << 64:
            yield Violation(f"memory_map[{index}]", "an end of at most 2^64", f"{entry.addr:#x} + {entry.size:#x}")
    _beyond_bound(boot)


@rule(
    "SI-MM-RESERVED",
    "each entry's reserved word is zero",
    clause=Clause(START_INFO_H, "uint32_t reserved; /* Must be zero for Version 1. */", _ENTRY),
    severity=MUST,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=[*RAM_MAP, MemoryMapEntry(1 << 32, 1 << 20, 1, 1)])],
)
def mm_reserved(boot: BootState) -> Iterator[Violation]:
    """A later version may give the word a meaning; a reader of version 1 that finds it set cannot trust the entry."""
    for index, entry in enumerate(_map(boot)):
        if entry.reserved:
            yield Violation(f"memory_map[{index}].reserved", "0x0", f"{entry.reserved:#x}")
    _beyond_bound(boot)


@rule(
    "SI-MM-PAGES",
    "RAM begins and ends at whole pages",
    clause=Clause(START_INFO_H, "Size of the mapping in bytes. (The text names no granularity; RAM comes in pages.)", _ENTRY),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[
        at_entry(memory_map=[MemoryMapEntry(0x100000, 0xFF00001, 1, 0)]),
        at_entry(memory_map=[MemoryMapEntry(0x100010, 0xFF00FF0, 1, 0)]),
    ],
)
def mm_pages(boot: BootState) -> Iterator[Violation]:
    """A reader that rounds outwards uses memory that is not there, one that rounds inwards loses a page, and one that does
    neither counts on. RAM that ends below 1 MiB is left out: the EBDA begins where the BIOS wants it."""
    for index, entry in enumerate(_map(boot)):
        end = entry.addr + entry.size
        if entry.type != RAM or not entry.size or end <= _MIB:
            continue
        if entry.addr % _PAGE or end % _PAGE:
            kind = "ends one byte behind a whole page" if entry.addr % _PAGE == 0 and end % _PAGE == 1 else ""
            yield Violation(f"memory_map[{index}]", "a range of whole pages (4096 bytes)", f"{entry.addr:#x} - {end:#x}", kind=kind)
    _beyond_bound(boot)


@rule(
    "SI-MM-SORTED",
    "the entries are in order of address",
    clause=Clause(START_INFO_H, "(the text does not require an order)"),
    severity=INFO,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=tuple(reversed(RAM_MAP)))],
)
def mm_sorted(boot: BootState) -> Iterator[Violation]:
    """The text does not require an order, and several VMMs do not sort (Xen's toolstack, Firecracker, qboot): a guest must."""
    entries = _map(boot)
    for index in range(1, len(entries)):
        if entries[index].addr < entries[index - 1].addr and entries[index].size:
            found = f"{entries[index].addr:#x} after {entries[index - 1].addr:#x}"
            kind = " after ".join(MEMORY_TYPES.get(entries[one].type, "unknown") for one in (index, index - 1))
            yield Violation(f"memory_map[{index}]", "ascending addresses", found, kind=kind)
    _beyond_bound(boot)


@rule(
    "SI-MM-OVERLAP",
    "no two entries overlap",
    clause=Clause(START_INFO_H, "(the text does not forbid overlaps)"),
    severity=INFO,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=[*RAM_MAP, MemoryMapEntry(0x100000, 0x1000, 4, 0)])],
)
def mm_overlap(boot: BootState) -> Iterator[Violation]:
    """Xen's toolstack lists an NVS page inside a RAM entry. A guest must give the more restrictive type precedence."""
    entries = sorted((entry for entry in _map(boot) if entry.size), key=lambda entry: entry.addr)
    reaching = 0
    for entry in entries:
        if entry.addr < reaching:
            found = f"{entry.addr:#x} to {entry.addr + entry.size:#x} begins below {reaching:#x}"
            yield Violation("memory_map", "disjoint entries", found)
        reaching = max(reaching, entry.addr + entry.size)
    _beyond_bound(boot)


@rule(
    "SI-MM-RAM1M",
    "RAM entries cover the kernel",
    clause=Clause(LINUX_PVH, "the kernel is reserved inside the RAM that e820 lists"),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(memory_map=RAM_MAP[:2]), at_entry(kernel=Kernel(loads=(LoadRange(0xF0000, 0x1000),)))],
)
def mm_ram1m(boot: BootState) -> Iterator[Violation]:
    """A kernel that lies outside of its RAM has no mapping for its own code once it builds page tables."""
    ranges = ram_ranges(boot)
    for load in kernel_loads(boot):
        if load.size and uncovered(load.start, load.end, ranges):
            yield Violation(f"kernel {load.start:#x} - {load.end:#x}", "RAM in the memory map", "not listed as RAM there")
    _beyond_bound(boot)


CHAPTER: tuple[MachineRule, ...] = (
    mm_present, mm_paddr, mm_count, mm_type, mm_size0, mm_wrap, mm_reserved, mm_pages, mm_sorted, mm_overlap, mm_ram1m,
)  # fmt: skip
