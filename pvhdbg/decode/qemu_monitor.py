"""Decode the output of QEMU's human monitor: `info registers`, `mtree -f`, `roms`, `version`, `kvm`.

The text is not trusted: unknown lines are ignored, patterns bound the numbers, and what no line shows stays unobserved.
Formats as printed by target/i386/cpu-dump.c, softmmu/memory.c and hw/core/loader.c.
"""

from __future__ import annotations

import re
from itertools import islice

from pvhdbg.model import Backing, BackingKind, DescriptorTable, LoadRange, Segment, Segments
from pvhdbg.record import NamedTuple, dataclass

_SEGMENT = re.compile(r"^(ES|CS|SS|DS|FS|GS|LDT|TR) ?= ?([0-9a-f]{4}) ([0-9a-f]{8,16}) ([0-9a-f]{8}) ([0-9a-f]{8})", re.MULTILINE)
_TABLE = re.compile(r"^(GDT|IDT)= +([0-9a-f]{8,16}) ([0-9a-f]{8})", re.MULTILINE)
_A20 = re.compile(r"\bA20=([01])\b")
_FLAT_RANGE = re.compile(  # a gdbstub's lines end with \r\n
    r"^ {1,40}([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d{1,10}, ([^)\n]{1,80})\): ([^\n]{0,400}?)(?: @[0-9a-f]{16})?(?: KVM)?\r?$",
    re.MULTILINE,
)
_ROM = re.compile(r'^addr=([0-9a-f]{8,16}) size=0x([0-9a-f]{1,16}) mem=(\w{1,20}) name="([^"\n]{0,5000})"', re.MULTILINE)
_ROM_SEGMENT = re.compile(r"^(.*) ELF program header segment \d+$")
_VERSION = re.compile(r"^(\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)", re.ASCII)
_MOST = 4096  # ranges or ROMs that are accepted in one listing


@dataclass(frozen=True)
class CpuState:
    """The hidden state in `info registers`: segments and tables, and the A20 gate."""

    segments: Segments
    a20: bool | None


def cpu_state(text: str) -> CpuState:
    """Decode `info registers`. Lines that are missing leave their values unobserved."""
    segments = {}
    for name, selector, base, limit, flags in _SEGMENT.findall(text):
        # The limit column is already scaled; not every accelerator keeps the limit's nibble in the flags.
        segments[name.lower()] = Segment(int(selector, 16), int(base, 16), int(limit, 16), int(flags, 16))
    tables = {name: DescriptorTable(int(base, 16), int(limit, 16)) for name, base, limit in _TABLE.findall(text)}
    a20 = _A20.search(text)
    return CpuState(
        Segments(segments, tables.get("GDT"), tables.get("IDT"), "the monitor's `info registers` did not show it"),
        None if a20 is None else a20[1] == "1",
    )


def physical_ranges(text: str) -> tuple[Backing, ...]:
    """Decode `info mtree -f`: what is mapped where in the CPU's view of physical memory (`AS "memory"`).

    Empty if the listing does not contain that view.
    """
    for view in text.split("FlatView #"):
        if 'AS "memory"' not in view:
            continue
        ranges = []
        for start, end, kind, name in (found.groups() for found in islice(_FLAT_RANGE.finditer(view), _MOST)):
            first = int(start, 16)
            ranges.append(
                Backing(first, int(end, 16) - first + 1, BackingKind.named(kind), name.strip())
            )  # its lines end with \r\n
        return tuple(ranges)
    return ()


class LoadedKernel(NamedTuple):
    """The kernel as `info roms` lists it: the path on QEMU's command line, and the addresses of its segments."""

    path: str
    loads: tuple[LoadRange, ...]


def loaded_kernel(text: str) -> LoadedKernel | None:
    """The ELF that QEMU loaded, or None when `info roms` lists none."""
    by_path: dict[str, list[LoadRange]] = {}
    for address, size, _, name in (found.groups() for found in islice(_ROM.finditer(text), _MOST)):
        match = _ROM_SEGMENT.match(name)
        if match:
            by_path.setdefault(match[1], []).append(LoadRange(int(address, 16), int(size, 16)))
    if len(by_path) != 1:  # with several ELFs it is not known which one is the kernel
        return None
    path, loads = by_path.popitem()
    return LoadedKernel(path, tuple(loads))


def version(text: str) -> str | None:
    """The version number that `info version` begins with."""
    match = _VERSION.match(text.strip())
    return match[1] if match else None


def tells_stops(text: str) -> bool:
    """Whether the QEMU of this `info version` sends a stop reply to a client whose connection stopped the machine: up to 8.0."""
    numbers = (version(text) or "").split(".")
    return len(numbers) >= 2 and (int(numbers[0]), int(numbers[1])) <= (8, 0)


def accelerator(text: str) -> str | None:
    """ "kvm" or "tcg" from `info kvm`; None when it says neither."""
    if "kvm support: enabled" in text:
        return "kvm"
    return "tcg" if "kvm support:" in text else None


def is_shut_down(text: str) -> bool:
    """Whether `info status` shows that the guest shut down or triple-faulted while QEMU keeps running."""
    return "(shutdown)" in text
