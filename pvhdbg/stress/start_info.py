"""Mutations of start_info, of its place, and of the memory around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pvhdbg.spec.start_info import RAM, MemoryMapEntry
from pvhdbg.stress.handover import PAGE, ModulePart, NotTried, Place
from pvhdbg.stress.mutation import Aspect, ChangedHandover, Mutation

FILL = 0xA5A5A5A5
_MANY = 300
_LONG = 4000  # bytes; Linux keeps 2048, QEMU's pvh.bin has a buffer of 4096
_HOLES = 0x40_0000_0000  # addresses from 256 GiB up, where no machine of ours has anything
_HIGH_BYTES = bytes(range(0x80, 0x100))
_MODULES = 16


# --- the place ----------------------------------------------------------------------------------------------------


def _placed(place: Place) -> Callable[[ChangedHandover], None]:
    def change(draft: ChangedHandover) -> None:
        draft.place = place

    return change


def _fill(draft: ChangedHandover) -> None:
    draft.fill = FILL


# --- the command line ---------------------------------------------------------------------------------------------


def _absent(draft: ChangedHandover) -> None:
    if draft.info.command_line is None:
        raise NotTried("there is none already")
    if draft.info.command_line and not draft.asked:
        raise NotTried("your own command line would be lost; name the mutation to do it all the same")
    draft.info = replace(draft.info, command_line=None)


def _empty(draft: ChangedHandover) -> None:
    if draft.info.command_line == b"":
        raise NotTried("it is empty already")
    if draft.info.command_line and not draft.asked:
        raise NotTried("your own command line would be lost; name the mutation to do it all the same")
    draft.info = replace(draft.info, command_line=b"")


def _longer(draft: ChangedHandover, word: bytes) -> None:
    line = draft.info.command_line or b""
    draft.info = replace(draft.info, command_line=line + (b" " if line else b"") + word)


def _long(draft: ChangedHandover) -> None:
    _longer(draft, b"pvhdbg.pad=" + b"x" * _LONG)


def _high(draft: ChangedHandover) -> None:
    _longer(draft, b"pvhdbg.bytes=" + _HIGH_BYTES)


# --- the modules --------------------------------------------------------------------------------------------------


def _more(draft: ChangedHandover, more: Iterable[ModulePart]) -> None:
    draft.info = replace(draft.info, modules=(*draft.info.modules, *more))


def _many_modules(draft: ChangedHandover) -> None:
    _more(draft, (ModulePart(PAGE, data=bytes([number]) * PAGE) for number in range(1, _MODULES + 1)))


def _byte_module(draft: ChangedHandover) -> None:
    _more(draft, (ModulePart(1, data=b"x"),))


def _empty_module(draft: ChangedHandover) -> None:
    _more(draft, (ModulePart(0, data=b""),))


def _module_line(draft: ChangedHandover) -> None:
    _changed_modules(draft, lambda one: replace(one, command_line=one.command_line or b"pvhdbg=1"), "each has one already")


def _no_module_line(draft: ChangedHandover) -> None:
    _changed_modules(draft, lambda one: replace(one, command_line=None, line_at=0), "no module has one already")


def _module_reserved(draft: ChangedHandover) -> None:
    _changed_modules(draft, lambda one: replace(one, reserved=0xA5A5A5A5A5A5A5A5), "it is that already")


def _changed_modules(draft: ChangedHandover, change: Callable[[ModulePart], ModulePart], same: str) -> None:
    if not draft.info.modules:
        raise NotTried("there is no module; give one with --initrd")
    changed = tuple(change(one) for one in draft.info.modules)
    if changed == draft.info.modules:
        raise NotTried(same)
    draft.info = replace(draft.info, modules=changed)


# --- the memory map -----------------------------------------------------------------------------------------------


def _map(draft: ChangedHandover) -> tuple[MemoryMapEntry, ...]:
    if not draft.info.memory_map:
        raise NotTried("there is no memory map")
    return draft.info.memory_map


def _unsorted(draft: ChangedHandover) -> None:
    entries = _map(draft)
    if len(entries) < 2:
        raise NotTried("the map has one entry only")
    draft.info = replace(draft.info, memory_map=tuple(reversed(entries)))


def _split(draft: ChangedHandover) -> None:
    parts = [part for one in _map(draft) for part in _in_parts(one, 2)]
    draft.info = replace(draft.info, memory_map=tuple(parts))


def _many_entries(draft: ChangedHandover) -> None:
    entries = _map(draft)
    largest = max((one for one in entries if one.type == RAM), key=lambda one: one.size, default=None)
    if largest is None:
        raise NotTried("the map has no RAM")
    parts = [part for one in entries for part in (_in_parts(one, _MANY - len(entries) + 1) if one is largest else [one])]
    draft.info = replace(draft.info, memory_map=tuple(parts))


def _in_parts(entry: MemoryMapEntry, count: int) -> list[MemoryMapEntry]:
    """The same range as `count` adjacent entries of whole pages; unchanged where it is not RAM or too small."""
    step = entry.size // count // PAGE * PAGE
    if entry.type != RAM or not step:
        return [entry]
    starts = [entry.addr + step * number for number in range(count)]
    ends = [*starts[1:], entry.addr + entry.size]
    return [entry.replace(addr=start, size=end - start) for start, end in zip(starts, ends, strict=True)]


def _more_entries(draft: ChangedHandover, types: Iterable[int]) -> None:
    """Add an entry of each type, where it belongs by its address: a PC's map ends above our holes."""
    entries = list(_map(draft))
    for number, kind in enumerate(types):
        one = MemoryMapEntry(_HOLES + number * (1 << 30), 1 << 20, kind, 0)
        at = next((index for index, other in enumerate(entries) if other.addr > one.addr), len(entries))
        entries.insert(at, one)
    draft.info = replace(draft.info, memory_map=tuple(entries))


def _other_types(draft: ChangedHandover) -> None:
    _more_entries(draft, range(2, 8))


def _future_types(draft: ChangedHandover) -> None:
    _more_entries(draft, (8, 12, 0x7FFFFFFF, 0xF0000000))


# --- start_info itself --------------------------------------------------------------------------------------------


def _version_0(draft: ChangedHandover) -> None:
    draft.info = replace(draft.info, version=0)


def _version_0_module(draft: ChangedHandover) -> None:
    _version_0(draft)
    _more(draft, (ModulePart(PAGE, data=b"x" * PAGE),))


def _version_2(draft: ChangedHandover) -> None:
    if draft.info.version == 0:
        raise NotTried("this VMM hands over version 0")
    draft.info = replace(draft.info, version=2, tail=b"\xa5" * 64)


def _no_rsdp(draft: ChangedHandover) -> None:
    if not draft.info.rsdp:
        raise NotTried("it is 0 already")
    draft.info = replace(draft.info, rsdp=0)


def _future_flags(draft: ChangedHandover) -> None:
    draft.info = replace(draft.info, flags=draft.info.flags | 1 << 31 | 1 << 20)


MUTATIONS = (
    Mutation("ram-pattern", "all RAM outside of the kernel and the hand-off holds 0xa5a5a5a5", Aspect.MEMORY, "PVH-ESP", _fill),
    Mutation("place-high", "the hand-off lies at the end of RAM below 4 GiB", Aspect.PLACE, "SI-4G", _placed(Place.HIGH)),
    Mutation("place-low", "the hand-off lies at the beginning of RAM", Aspect.PLACE, "SI-4G", _placed(Place.LOW)),
    Mutation("place-odd", "every part of the hand-off has an odd address", Aspect.PLACE, "SI-ALIGN", _placed(Place.ODD)),
    Mutation("place-page-end", "every part of the hand-off ends with its page", Aspect.PLACE, "SI-ALIGN", _placed(Place.PAGE_END)),
    Mutation("place-apart", "the parts of the hand-off are far from each other", Aspect.PLACE, "SI-4G", _placed(Place.APART)),
    Mutation("cmdline-absent", "there is no command line", Aspect.COMMAND_LINE, "SI-CMDLINE-NUL", _absent),
    Mutation("cmdline-empty", "the command line is empty", Aspect.COMMAND_LINE, "SI-CMDLINE-NUL", _empty),
    Mutation("cmdline-long", f"the command line is {_LONG} bytes longer", Aspect.COMMAND_LINE, "SI-CMDLINE-NUL", _long),
    Mutation("cmdline-high-bytes", "the command line ends with the bytes 0x80 to 0xff", Aspect.COMMAND_LINE, "SI-CMDLINE-ASCII", _high,
             "QEMU passes on whatever bytes --append has"),
    Mutation("modules-many", f"there are {_MODULES} more modules", Aspect.MODULES, "SI-MOD-PAIR", _many_modules),
    Mutation("module-byte", "there is one more module, of 1 byte", Aspect.MODULES, "SI-MOD-SIZE", _byte_module),
    Mutation("module-empty", "there is one more module, of 0 bytes", Aspect.MODULES, "SI-MOD-SIZE", _empty_module),
    Mutation("module-cmdline", "each module has a command line", Aspect.MODULES, "SI-MOD-CMDLINE", _module_line, "Xen"),
    Mutation("module-cmdline-absent", "no module has a command line", Aspect.MODULES, "SI-MOD-CMDLINE", _no_module_line,
             "QEMU with pvh.bin, Firecracker, libkrun; qboot leaves garbage there"),
    Mutation("module-reserved", "the reserved word of each module is not 0", Aspect.MODULES, "SI-MOD-RESERVED", _module_reserved),
    Mutation("map-unsorted", "the memory map is in reverse order", Aspect.MEMORY_MAP, "SI-MM-SORTED", _unsorted,
             "Xen (domU) and Firecracker hand over unsorted maps"),
    Mutation("map-split", "each RAM entry is two adjacent ones", Aspect.MEMORY_MAP, "SI-MM-OVERLAP", _split),
    Mutation("map-many", f"the memory map has {_MANY} entries", Aspect.MEMORY_MAP, "SI-MM-PRESENT", _many_entries),
    Mutation("map-other-types", "the memory map has entries of the types 2 to 7", Aspect.MEMORY_MAP, "SI-MM-TYPE", _other_types),
    Mutation("map-future-types", "the memory map has entries of types that do not exist yet", Aspect.MEMORY_MAP, "SI-MM-TYPE", _future_types),
    Mutation("version-0", "start_info is of version 0, without a memory map", Aspect.VERSION, "SI-VERSION-0", _version_0,
             "Xen's dom0 builder", spec="v0"),
    Mutation("version-0-module", "start_info is of version 0, and there is one more module", Aspect.VERSION, "SI-VERSION-0",
             _version_0_module, "Xen's dom0 builder", spec="v0"),
    Mutation("version-2", "start_info is of version 2, with more fields behind", Aspect.VERSION, "SI-VERSION-KNOWN", _version_2),
    Mutation("rsdp-zero", "rsdp_paddr is 0", Aspect.RSDP, "SI-RSDP-ZERO", _no_rsdp, "Firecracker, libkrun; QEMU with acpi=off"),
    Mutation("flags-future", "flags has bits that do not exist yet", Aspect.INFO_FLAGS, "SI-FLAGS-KNOWN", _future_flags),
)  # fmt: skip
