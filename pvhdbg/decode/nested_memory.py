"""What a hypervisor's guest has at its physical addresses: by the nested page tables, and by the memory of the machine below. Pure.

A page that the tables give to the guest for writing, and that is RAM of the machine, is RAM of the guest. Nothing else follows from
the tables: a hypervisor fills a page in at the first access, or answers for it, and a page that is only read may be RAM or ROM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pvhdbg.decode.page_map import MappedRange, PageMap
from pvhdbg.model import Backing, BackingKind
from pvhdbg.record import replace

MOST_TABLES = 1 << 10  # that many map 2 GiB in pages of 4 KiB
NOT_MAPPED = "the nested page tables map nothing there, and the hypervisor may fill it in when the guest accesses it"
_NOT_READ = "the nested page tables could not be read whole"
_READ_ONLY = "the nested page tables do not let the guest write there: RAM or ROM"
_NO_LAYOUT = "the nested page tables map it, but what the machine below has there was not observed"
_END = 1 << 64


def backing(tables: PageMap, machine: Iterable[Backing]) -> tuple[Backing, ...]:
    """The guest's whole physical address space, by a contiguous page map. `machine` is that of the machine below, empty if not known."""
    areas = sorted(machine, key=lambda area: area.start)
    gap = _NOT_READ if tables.cut or tables.unread else NOT_MAPPED
    found: list[Backing] = []
    for one in _covered(tables, areas, gap):
        last = found[-1] if found else None
        if last is not None and (last.end, last.kind, last.name) == (one.start, one.kind, one.name):
            found[-1] = replace(last, size=last.size + one.size)
        else:
            found.append(one)
    return tuple(found)


def _covered(tables: PageMap, machine: list[Backing], gap: str) -> Iterator[Backing]:
    end = 0
    for one in tables.ranges:
        if one.start > end:
            yield Backing(end, one.start - end, BackingKind.UNKNOWN, gap)
        yield from _behind(one, machine, gap)
        end = one.end
    if end < _END:
        yield Backing(end, _END - end, BackingKind.UNKNOWN, gap)


def _behind(one: MappedRange, machine: list[Backing], gap: str) -> Iterator[Backing]:
    """What lies behind mapped addresses; nothing where the machine below has nothing."""
    if not one.rights.user or one.physical is None or not machine:  # a guest's accesses are those of a user
        yield Backing(one.start, one.size, BackingKind.UNKNOWN, _NO_LAYOUT if one.rights.user else gap)
        return
    for area in machine:
        start, end = max(area.start, one.physical), min(area.end, one.physical + one.size)
        if start < end:
            read_only = area.kind is BackingKind.RAM and not one.rights.writable
            kind, name = (BackingKind.UNKNOWN, _READ_ONLY) if read_only else (area.kind, area.name)
            yield Backing(one.start + start - one.physical, end - start, kind, name)
