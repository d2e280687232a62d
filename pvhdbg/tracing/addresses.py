"""The machine around a death, and the class of an address in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pvhdbg.decode.frame_rule import FrameRule
from pvhdbg.decode.paging import Walk, translate
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Backing, BackingKind, LoadRange, Registers, Unavailable

_PAGE = 0x1000
# Where kernels are linked to run: 3 GiB (32-bit kernels), and the top 2 GiB (64-bit ones).
_LINK_BASES = (0xC0000000, 0xFFFFFFFF80000000)


@dataclass(frozen=True)
class View:
    """A PT_LOAD at its link-time address and at its physical one."""

    virtual: int
    physical: int
    size: int
    executable: bool = True


@dataclass(frozen=True)
class Surroundings:
    """The machine without its registers. `backing` is None when the memory layout was not observed.

    `handed` holds the parts of the hand-off by name, address and size; `complaints` lists its violations. `start` is the register
    state at the entry, `entry` its address; None when the watch began elsewhere. `read` reads physical memory and raises
    MemoryUnreadable. `file` gives what the kernel's file has at a physical address: fewer bytes, or none, where it ends;
    `patches_itself` says that the kernel changes its own code, as Linux does. `line` gives "file:line" of a linear pc. `data_at` is the name of the data object that holds a
    linear address, `feature` says whether the machine's CPU has a feature of CPUID, by QEMU's name for it. `exit_device` says
    whether there is an isa-debug-exit. Each gives None where that is not known. `symbol` gives a symbol's link-time address, `word`
    is the size of a long in the kernel. `frame_rule` gives the row of the kernel's call frame tables for a linear pc. `vmm` is the
    VMM's name, `last_ipi` gives the low half of the boot CPU's interrupt command register (Intel SDM 3A, 11.6.1). `not_cleared`
    holds physical addresses and bytes of memory behind the bytes of a PT_LOAD that was not zero at the entry. `initrd` holds the
    first bytes of the first module, b"" where there is none; `command_line` and it are None where they were not read.
    """

    read: Callable[[int, int], bytes]
    name: Callable[[int], str | None] = lambda _: None
    line: Callable[[int], SafeText | None] = lambda _: None
    entry: int | None = None
    views: tuple[View, ...] = ()
    backing: tuple[Backing, ...] | None = None
    handed: tuple[tuple[str, int, int], ...] = ()
    complaints: tuple[str, ...] = ()
    start: Mapping[str, int] = field(default_factory=dict)
    serial: tuple[SafeText, ...] = ()
    file: Callable[[int, int], bytes] = lambda _physical, _size: b""
    patches_itself: bool = False
    data_at: Callable[[int], str | None] = lambda _: None
    feature: Callable[[str], bool | None] = lambda _: None
    exit_device: bool | None = None
    symbol: Callable[[str], int | None] = lambda _: None
    word: int = 8
    command_line: str | None = None
    initrd: bytes | None = None
    vmm: str = "the VMM"
    frame_rule: Callable[[int], FrameRule | None] = lambda _: None
    last_ipi: Callable[[], int | None] = lambda: None
    not_cleared: tuple[tuple[int, bytes], ...] = ()

    @property
    def loads(self) -> tuple[LoadRange, ...]:
        return tuple(LoadRange(view.physical, view.size) for view in self.views)

    def holds(self, physical: int) -> bool | None:
        """Whether a physical address is in a PT_LOAD that may be executed; None outside of all."""
        found = [view.executable for view in self.views if view.physical <= physical < view.physical + view.size]
        return any(found) if found else None

    def linked(self, address: int) -> int:
        """The physical address of a link-time address of the kernel; any other address unchanged."""
        view = next((one for one in self.views if one.virtual <= address < one.virtual + one.size), None)
        return address if view is None else address - view.virtual + view.physical

    def backed(self, physical: int) -> Backing | None:
        """The memory or device at a physical address; None where there is none, or where the layout was not observed."""
        return next((one for one in self.backing or () if one.start <= physical < one.end), None)

    def physical(self, address: int, state: Mapping[str, int]) -> int | None:
        """The physical address of a linear one; None where nothing is mapped, or the paging of `state` was not observed."""
        try:
            return translate(Registers(state), address, self.read).physical
        except Unavailable:
            return None

    def bytes_at(self, address: int, size: int, state: Mapping[str, int]) -> bytes:
        """The bytes at a linear address; b"" where they cannot be read."""
        physical = self.physical(address, state)
        try:
            return b"" if physical is None else self.read(physical, size)
        except (MemoryUnreadable, Unavailable):
            return b""

    def named(self, address: int) -> str:
        """The address, with its symbol where it has one."""
        name = self.name(address)
        return f"{address:#x}" if name is None else f"{address:#x} ({name})"


class AddressClass(Enum):
    """The class of an address; the values are those of JSON."""

    NOT_CANONICAL = "not canonical"
    NULL = "null"
    LINKED = "linked"  # a link-time address of the kernel, which is not mapped there
    NOT_MAPPED = "not mapped"
    START_INFO = "start_info"  # any part of the hand-off
    KERNEL = "kernel"
    NO_MEMORY = "no memory"
    ROM = "rom"
    DEVICE = "device"
    RAM = "ram"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClassifiedAddress:
    """A linear address, its class with a reason in words, and its page walk; `walk` is None where paging was not observed."""

    address: int
    kind: AddressClass
    words: str
    walk: Walk | None = None


def classify(address: int, state: Mapping[str, int], around: Surroundings) -> ClassifiedAddress:
    """Classify a linear address in the paging of `state` (names of `model.Registers`)."""
    try:
        walk = translate(Registers(state), address, around.read)
    except Unavailable:
        return ClassifiedAddress(address, AddressClass.UNKNOWN, "how addresses were translated was not observed")
    if "not canonical" in walk.problem:
        return ClassifiedAddress(address, AddressClass.NOT_CANONICAL, walk.problem, walk)
    if address < _PAGE:  # before the kernel's views: Linux' per-CPU segment has the link-time address 0
        return ClassifiedAddress(address, AddressClass.NULL, "in the first page: a null pointer, or a small offset from one", walk)
    linked = _linked(address, walk, around)
    if linked:
        return ClassifiedAddress(address, AddressClass.LINKED, linked, walk)
    if walk.physical is None:
        return ClassifiedAddress(
            address, AddressClass.NOT_MAPPED, f"not mapped: {walk.problem}{_if_identity(address, around)}", walk
        )
    return _physical(address, walk.physical, walk, around)


def _physical(address: int, physical: int, walk: Walk, around: Surroundings) -> ClassifiedAddress:
    for name, start, size in around.handed:
        if start <= physical < start + size:
            return ClassifiedAddress(address, AddressClass.START_INFO, f"in {name}, which the loader handed over", walk)
    if any(load.start <= physical < load.end for load in around.loads):
        return ClassifiedAddress(address, AddressClass.KERNEL, "inside the kernel's own image", walk)
    if around.backing is None:
        return ClassifiedAddress(address, AddressClass.UNKNOWN, "the machine's memory layout was not observed", walk)
    backing = around.backed(physical)
    if backing is None:
        return ClassifiedAddress(
            address, AddressClass.NO_MEMORY, "outside all memory and devices: reads give nothing, writes are lost", walk
        )
    if backing.kind is BackingKind.UNKNOWN:
        return ClassifiedAddress(address, AddressClass.UNKNOWN, "what the machine has there was not observed", walk)
    if backing.kind is BackingKind.RAM:
        return ClassifiedAddress(address, AddressClass.RAM, "in RAM, outside the kernel's image", walk)
    if backing.kind is BackingKind.ROM:
        return ClassifiedAddress(address, AddressClass.ROM, f"in ROM ({backing.name})", walk)
    return ClassifiedAddress(address, AddressClass.DEVICE, f"a device's registers ({backing.name})", walk)


def _linked(address: int, walk: Walk, around: Surroundings) -> str:
    """In words, that the kernel is linked to this address and nothing maps it there; "" where that is not so."""
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
    if backing.kind is BackingKind.UNKNOWN:
        return ""
    return f"; one to one, it would be {'RAM' if backing.kind is BackingKind.RAM else backing.name}"
