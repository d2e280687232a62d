"""What lies around a death, and what kind of address an address is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pvhdbg.decode.paging import Walk, translate
from pvhdbg.model import Backing, LoadRange, Registers, Unavailable

_PAGE = 0x1000
# Where kernels are linked to run: 3 GiB (32-bit kernels), and the top 2 GiB (64-bit ones).
_LINK_BASES = (0xC0000000, 0xFFFFFFFF80000000)


@dataclass(frozen=True)
class View:
    """A PT_LOAD at its link-time address and at its physical one."""

    virtual: int
    physical: int
    size: int


@dataclass(frozen=True)
class Surroundings:
    """What is known of the machine besides its registers. `backing` is None when the memory layout was not observed.

    `handed` are the parts of the hand-off by name, address and size; `complaints` what was wrong with it, in words. `start` is
    the register state at the entry, `entry` its address; None when the watch began elsewhere. `read` gives physical memory and raises MemoryUnreadable.
    """

    read: Callable[[int, int], bytes]
    name: Callable[[int], str | None] = lambda _: None
    entry: int | None = None
    views: tuple[View, ...] = ()
    backing: tuple[Backing, ...] | None = None
    handed: tuple[tuple[str, int, int], ...] = ()
    complaints: tuple[str, ...] = ()
    start: Mapping[str, int] = field(default_factory=dict)
    serial: tuple[str, ...] = ()

    @property
    def loads(self) -> tuple[LoadRange, ...]:
        return tuple(LoadRange(view.physical, view.size) for view in self.views)

    def backed(self, physical: int) -> Backing | None:
        """What answers at a physical address; None where nothing does, or the layout is not known."""
        return next((one for one in self.backing or () if one.start <= physical < one.end), None)

    def named(self, address: int) -> str:
        """The address, with its symbol where it has one."""
        name = self.name(address)
        return f"{address:#x}" if name is None else f"{address:#x} ({name})"


@dataclass(frozen=True)
class Place:
    """What an address is. `kind` is one of: "not canonical", "null", "linked", "not mapped", "start_info" (any part of the
    hand-off), "kernel", "no memory", "rom", "device", "ram", "unknown"."""

    address: int
    kind: str
    words: str
    walk: Walk | None = None


def place(address: int, state: Mapping[str, int], around: Surroundings) -> Place:
    """Classify a linear address in the paging of `state` (names of `model.Registers`)."""
    try:
        walk = translate(Registers(state), address, around.read)
    except Unavailable:
        return Place(address, "unknown", "how addresses were translated was not observed")
    if "not canonical" in walk.problem:
        return Place(address, "not canonical", walk.problem, walk)
    linked = _linked(address, walk, around)
    if linked:
        return Place(address, "linked", linked, walk)
    if address < _PAGE:
        return Place(address, "null", "in the first page: a null pointer, or a small offset from one", walk)
    if walk.physical is None:
        return Place(address, "not mapped", f"not mapped: {walk.problem}{_if_identity(address, around)}", walk)
    return _physical(address, walk.physical, walk, around)


def _physical(address: int, physical: int, walk: Walk, around: Surroundings) -> Place:
    for name, start, size in around.handed:
        if start <= physical < start + size:
            return Place(address, "start_info", f"in {name}, which the loader handed over", walk)
    if any(load.start <= physical < load.end for load in around.loads):
        return Place(address, "kernel", "inside the kernel's own image", walk)
    if around.backing is None:
        return Place(address, "unknown", "the machine's memory layout was not observed", walk)
    backing = around.backed(physical)
    if backing is None:
        return Place(address, "no memory", "outside all memory and devices: reads give nothing, writes are lost", walk)
    kinds = {"ram": ("ram", "in RAM, outside the kernel's image"), "rom": ("rom", f"in ROM ({backing.name})")}
    kind, words = kinds.get(backing.kind, ("device", f"a device's registers ({backing.name})"))
    return Place(address, kind, words, walk)


def _linked(address: int, walk: Walk, around: Surroundings) -> str:
    """Whether this is where the kernel was linked to be, while nothing maps it there."""
    if walk.physical is not None and around.backing is not None and around.backed(walk.physical) is not None:
        return ""
    why = "paging is still off" if walk.scheme is None else "the page tables do not map it"
    for view in around.views:
        if view.virtual != view.physical and view.virtual <= address < view.virtual + view.size:
            physical = address - view.virtual + view.physical
            return f"a link-time virtual address of the kernel's, and {why}: the same byte lies at {around.named(physical)} now"
    for base in _LINK_BASES:
        physical = address - base
        if any(load.start <= physical < load.end for load in around.loads):
            return f"{base:#x} above {around.named(physical)} in the kernel: a virtual address by its looks, and {why}"
    return ""


def _if_identity(address: int, around: Surroundings) -> str:
    if around.backing is None:
        return ""
    backing = around.backed(address)
    if backing is None:
        return "; one to one, there would be no memory behind it"
    return f"; one to one, it would be {'RAM' if backing.kind == 'ram' else backing.name}"
