"""The kernel in memory: it lies where the machine has RAM, and holds what its file holds (pvh.pandoc, System V gABI)."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState, Unread
from pvhdbg.model import Backing, BackingKind, ImageComparison, ImageDifference, Kernel, LoadRange, Unavailable
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import BACKING, ENTRY, at_entry
from pvhdbg.rules.start_info import kernel_loads, parts
from pvhdbg.spec.documents import GABI, PVH_PANDOC, Clause
from pvhdbg.spec.start_info import MEMORY_TYPES

MUST = Severity.MUST

_MIB = 1 << 20
_FIRMWARE = 18  # MiB above the kernel that SeaBIOS needs for itself (with QEMU 10.0.13 and 1 MiB, it overwrote the kernel 16.7 MiB below the top)
_LOW_END = 0x80000000  # up to here every machine has RAM, if it has as much
_BIOS = range(0xA0000, _MIB)
_LOADED = Clause(
    PVH_PANDOC, "The domain builder will load the kernel into the guest memory space and jump into the entry point defined at XEN_ELFNOTE_PHYS32_ENTRY"
)  # fmt: skip
_NOTHING = "the kernel's file has no PT_LOAD: nothing of it is loaded"
_LINK_HIGHER = "it is linked where the BIOS writes: link it at 1 MiB or above"


def _entered_as_noted(boot: BootState) -> None:
    """A kernel that was moved lies elsewhere than its program headers say."""
    kernel = boot.snapshot.kernel
    if kernel is not None and kernel.relocatable and kernel.entry not in (None, boot.snapshot.entry.address):
        raise Unavailable("the kernel is relocatable and was not entered at its noted entry: its place in memory is not known")


@rule(
    "PVH-LOAD-RAM",
    "every segment of the kernel lies in RAM",
    clause=_LOADED,
    severity=MUST,
    passes=[at_entry()],
    fails=[
        at_entry(backing=(Backing(0, 0xA0000, BackingKind.RAM), Backing(0x100000, 0x700000, BackingKind.RAM))),
        at_entry(backing=(*BACKING[:2], Backing(0x100000, 0x1F00000, BackingKind.RAM))),
        at_entry(kernel=Kernel(entry=ENTRY, loads=(LoadRange(0xC8000, 0x1000),))),
    ],
)
def load_ram(boot: BootState) -> Iterator[Violation]:
    """What a loader writes where no RAM is gets lost without a word: QEMU enters such a kernel all the same, which then executes
    whatever a read of nothing gives, or runs as far as the part of it that is there."""
    loads, backing = kernel_loads(boot), boot.snapshot.backing
    if not loads:
        raise NotApplicable(_NOTHING)
    if backing is None:
        raise Unavailable(boot.snapshot.memory.hidden_by or "where the machine has RAM was not observed: no monitor answers")
    _entered_as_noted(boot)
    end = max(load.end for load in loads)
    for load in loads:
        outside = next(((start, area) for start, area in _not_ram(load, backing)), None)
        if outside is None:
            continue
        start, area = outside
        kind = None if area is None else area.kind
        if area is not None and kind is BackingKind.UNKNOWN:
            raise Unavailable(f"what the machine has at {start:#x} was not observed{f': {area.name}' if area.name else ''}")
        found = f"{'ROM' if kind is BackingKind.ROM else 'no RAM'} from {start:#x} on"
        yield Violation(f"kernel {load.start:#x} - {load.end:#x}", "RAM of this machine", found, fix=_room(load, end))


def _room(load: LoadRange, end: int) -> str:
    if load.start < _BIOS.stop and load.end > _BIOS.start:
        return _LINK_HIGHER
    if end > _LOW_END:
        return f"the kernel ends at {end:#x}: link it below {_LOW_END:#x}, where a machine has RAM without holes"
    # SeaBIOS allocates from the last 16 MiB of RAM while it starts, over a kernel that QEMU has put there before.
    return f"the kernel ends at {end:#x}: give the machine at least {-(-end // _MIB) + _FIRMWARE}M (--memory)"


def _not_ram(load: LoadRange, backing: tuple[Backing, ...]) -> Iterator[tuple[int, Backing | None]]:
    """The addresses from which on the range is not RAM, each with what is there instead; None for nothing."""
    at = load.start
    for area in sorted(backing, key=lambda area: area.start):
        if area.end <= at or at >= load.end:
            continue
        if area.start > at:
            yield at, None
        if area.start < load.end and area.kind is not BackingKind.RAM:
            yield max(at, area.start), area
        at = area.end
    if at < load.end:
        yield at, None


def _comparison(boot: BootState) -> ImageComparison:
    entry = boot.snapshot.entry
    if not entry.by_vmm:
        raise NotApplicable("this is not the VMM's own hand-off: the guest may have changed its memory before")
    found = boot.snapshot.image
    if found is None:
        raise Unavailable(boot.snapshot.memory.hidden_by or "the kernel's file was not compared with memory")
    if found.another:
        raise Unavailable("the kernel's file is not the one that lies in memory")
    _entered_as_noted(boot)
    return found


def _violation(boot: BootState, one: ImageDifference) -> Violation:
    expected = f"{one.expected:#04x}" + (", as behind all bytes of the file" if one.zeros else ", as in the file")
    fix = _LINK_HIGHER if one.address < _MIB else ""
    return Violation(f"[{one.address:#x}]", expected, f"{one.found:#04x}, in {_owner(boot, one.address)}", fix=fix)


def _owner(boot: BootState, address: int) -> str:
    """Who lies at an address: a part of the hand-off, then what the memory map says."""
    info = boot.start_info_part
    if isinstance(info, Unread):
        return "memory of which nothing is known"
    for part in parts(boot):
        if part.start <= address < part.end:
            return f"{part.name} ({part.start:#x} - {part.end:#x})"
    entries = () if info.memory_map is None or isinstance(info.memory_map, Unread) else info.memory_map
    for index, entry in enumerate(entries):
        if entry.addr <= address < entry.addr + entry.size:
            kind = MEMORY_TYPES.get(entry.type, f"type {entry.type}")
            return f"memory_map[{index}], {kind} ({entry.addr:#x} - {entry.addr + entry.size:#x})"
    return "memory that the memory map does not list" if entries else "memory, without a memory map"


@rule(
    "PVH-LOAD-BYTES",
    "memory holds the kernel's bytes",
    clause=_LOADED,
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(image=ImageComparison(0x8000, 0x2000000, 0, 0, (ImageDifference(0x1001000, 0x55, 0),)))],
)
def load_bytes(boot: BootState) -> Iterator[Violation]:
    """Firmware that runs between the loading and the entry uses memory of its own: SeaBIOS that below 1 MiB. What it leaves
    behind is then executed. Compared are the page of the entry, both ends of each segment, and of a large one pages between."""
    found = _comparison(boot)
    if not found.size:
        raise NotApplicable(_NOTHING)
    if not found.compared:
        raise Unavailable("none of the kernel's bytes could be read at the entry")
    yield from (_violation(boot, one) for one in found.differences if not one.zeros)


@rule(
    "PVH-LOAD-BSS",
    "memory behind a segment's bytes is zero",
    clause=Clause(
        GABI,
        "If the segment's memory size is larger than the file size, the “extra” bytes are defined to hold the value 0 and to follow the "
        "segment's initialized area",
        "program header",
    ),
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(image=ImageComparison(0x8000, 0x2000000, 0x1000, 0x2000, (ImageDifference(0x2FFF000, 0, 0x41, True),)))],
)
def load_bss(boot: BootState) -> Iterator[Violation]:
    """C code takes its .bss for zero. Linux clears its own; a small kernel seldom does, and reads what firmware or an earlier
    boot has left there."""
    found = _comparison(boot)
    if not found.zero_size:
        raise NotApplicable("no segment is larger in memory than in the file")
    if not found.zeros:
        raise Unavailable("none of the memory that must be zero could be read at the entry")
    yield from (_violation(boot, one) for one in found.differences if one.zeros)


CHAPTER: tuple[MachineRule, ...] = (load_ram, load_bytes, load_bss)
