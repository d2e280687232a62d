"""The whole linear address space as the page tables map it: ranges of equal rights.

The tables come from the guest, and may lead to each other for ever: how many are read is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pvhdbg.decode.paging import NO_EXECUTE, PAE, USER, WRITABLE, Read, Scheme, level_of, root_of, scheme_of
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Hex, Registers, Unavailable
from pvhdbg.spec.x86 import CR4

MOST_TABLES = 1 << 14  # 64 MiB of them: Linux with 512 MiB has about 1000


@dataclass(frozen=True)
class Rights:
    """What code may do with a page, by all levels together."""

    writable: bool = True
    user: bool = True
    executable: bool = True


@dataclass(frozen=True)
class MappedRange:
    """Linear addresses of equal rights, without a gap. `physical` is None where they do not lead to one physical range."""

    start: Hex
    size: Hex
    physical: Hex | None
    rights: Rights

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class PageMap:
    """All ranges in order, and the number of tables that could not be read; `cut` says that there are more than were looked at."""

    scheme: Scheme | None  # None: paging is off
    ranges: tuple[MappedRange, ...] = ()
    unread: int = 0
    cut: bool = False


def page_map(registers: Registers, read: Read, most: int = MOST_TABLES, *, contiguous: bool = False) -> PageMap:
    """Everything that cr3 leads to, by `most` tables. `contiguous` ranges end where the physical addresses jump, too.

    Raises Unavailable if cr0, cr3, cr4 or efer was not observed.
    """
    scheme = scheme_of(registers)
    if scheme is None:
        return PageMap(None)
    walk = _Everything(scheme, bool(registers["cr4"] >> CR4["PSE"] & 1), read, most)
    ranges: list[MappedRange] = []
    for one in walk.pages(root_of(registers, scheme), 0, 0, Rights()):
        last = ranges[-1] if ranges else None
        follows = last is not None and last.physical is not None and last.physical + last.size == one.physical
        if last is None or last.end != one.start or last.rights != one.rights or (contiguous and not follows):
            ranges.append(one)
        else:
            ranges[-1] = replace(last, size=last.size + one.size, physical=last.physical if follows else None)
    return PageMap(scheme, tuple(ranges), walk.unread, walk.tables > most)


class _Everything:
    def __init__(self, scheme: Scheme, pse: bool, read: Read, most: int) -> None:
        self._scheme, self._pse, self._read, self._most = scheme, pse, read, most
        self.tables = self.unread = 0

    def pages(self, table: int, depth: int, above: int, rights: Rights) -> Iterator[MappedRange]:
        """The pages of a table and of those below it; `above` are the address bits of the levels above."""
        scheme = self._scheme
        name, low, bits = scheme.levels[depth]
        self.tables += 1
        if self.tables > self._most:
            return
        try:
            data = self._read(table, scheme.entry_size << bits)
        except (MemoryUnreadable, Unavailable):
            self.unread += 1
            return
        for index in range(1 << bits):
            at = index * scheme.entry_size
            entry = int.from_bytes(data[at : at + scheme.entry_size], "little")
            level = level_of(scheme, name, low, index, table + at, self._pse, entry)
            if not level.present:
                continue
            bare = scheme is PAE and depth == 0  # its PDPT entries hold no access rights
            here = rights if bare else Rights(
                rights.writable and bool(entry >> WRITABLE & 1),
                rights.user and bool(entry >> USER & 1),
                rights.executable and not (scheme.entry_size == 8 and entry >> NO_EXECUTE & 1),
            )  # fmt: skip
            linear = above | index << low
            if depth == 0 and scheme.width > 32 and index >> bits - 1:
                linear |= (1 << 64) - (1 << scheme.width)  # canonical
            if level.maps:
                yield MappedRange(linear, level.maps, level.points_to, here)
            else:
                yield from self.pages(level.points_to, depth + 1, linear, here)
