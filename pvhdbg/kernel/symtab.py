"""The ELF symbol table as columns that are read in bulk: a question about one symbol costs one pass, however hostile the table.

Only questions about the nearest symbol sort the values, once. Local symbols count: `pvh_start_xen` is one.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from pvhdbg.decode.elf import Buffer, SymbolTable

_NAMED = frozenset({0, 1, 2, 10})  # STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_GNU_IFUNC: not sections, not files
_STT_OBJECT = 1
_SHN_UNDEF = 0
_NAME_BOUND = 4096  # bytes of one name that are shown
_ALIASES_BOUND = 64  # symbols at one address that are looked at
_INSIDE_BOUND = 256  # symbols before an address that are looked at for one that contains it
_PLACES_BOUND = 256  # of a name among the strings: beyond, each entry is asked instead


class Symtab:
    """.symtab of an ELF of 32 or 64 bits. Addresses are link-time (virtual) ones."""

    origin = ".symtab"

    def __init__(self, data: Buffer, table: SymbolTable, wide: bool) -> None:
        self._wide = wide
        self._sorted: tuple[array[int], array[int]] | None = None
        self._values: array[int] | None = None
        size = table.size - table.size % table.entry_size
        self._table = bytes(data[table.offset : table.offset + size])
        self._strings = bytes(data[table.strings : table.strings + table.strings_size])

    def __len__(self) -> int:
        """The number of entries, with those that name nothing."""
        return len(self._table) // (24 if self._wide else 16)

    def value(self, name: str) -> int | None:
        """st_value of the symbol; of several with the name, the first."""
        row = self._row(name.encode("utf-8", "surrogateescape"))
        return None if row is None else self._value_column()[row]

    def exact(self, address: int) -> str | None:
        """The symbol exactly at the address, or None. One that has a size says what is there; a linker's mark has none."""
        values, found = self._value_column(), list[int]()
        at = -1
        while len(found) < _ALIASES_BOUND and (at := _index(values, address, at + 1)) >= 0:
            if self._is_named(at):
                found.append(at)
        return self._name(self._best(found)) if found else None

    def nearest(self, address: int, lowest: int) -> tuple[str, int] | None:
        """The symbol at or below the address, and the distance; behind the end of that one, the innermost that contains the address.

        None for one below `lowest`. Of several at one place one that has a size, and then the first in the table. A label inside a
        function has no size and no end: it says more than the function.
        """
        values, rows = self._by_value()
        index = bisect_right(values, address) - 1
        if index < 0 or values[index] < lowest:
            return None
        value = values[index]
        row = self._best_at(value)
        if 0 < self._size(row) <= address - value:
            inside = (
                place
                for place in range(index, max(index - _INSIDE_BOUND, -1), -1)
                if values[place] >= lowest and address - values[place] < self._size(rows[place])
            )
            value = values[next(inside, index)]
            row = self._best_at(value)
        name = self._name(row)
        return None if name is None else (name, address - value)

    def object_at(self, address: int) -> str | None:
        """The data object (STT_OBJECT, with a size) that holds the address; None where there is none."""
        values, rows = self._by_value()
        last = bisect_right(values, address) - 1
        for place in range(last, max(last - _INSIDE_BOUND, -1), -1):
            row = rows[place]
            if address - values[place] < self._size(row):
                return self._name(row) if self._infos()[row] & 0xF == _STT_OBJECT else None
        return None

    def _best_at(self, value: int) -> int:
        values, rows = self._by_value()
        first = bisect_left(values, value)
        return self._best(rows[first : min(bisect_right(values, value), first + _ALIASES_BOUND)])

    def _best(self, rows: Sequence[int]) -> int:
        return next((row for row in rows if self._size(row)), rows[0])

    def _size(self, row: int) -> int:
        """st_size."""
        start, length = (row * 24 + 16, 8) if self._wide else (row * 16 + 8, 4)
        return int.from_bytes(self._table[start : start + length], "little")

    def names(self, prefix: bytes = b"") -> Iterator[bytes]:
        """The names that begin with `prefix`, in the table's order. Names may share bytes: all of them may be larger than the table."""
        strings, begins, end = self._strings, self._strings.startswith, self._strings.find
        columns = zip(self._column("I", 0), self._infos(), self._sections(), strict=True)
        return (
            strings[place:stop]
            for place, info, section in columns
            if begins(prefix, place) and place and info & 0xF in _NAMED and section != _SHN_UNDEF
            if (stop := end(b"\0", place, place + _NAME_BOUND)) > place
        )

    # --- columns of the table -------------------------------------------------------------------------------------

    def _column(self, code: str, offset: int) -> array[int]:
        """One field of every entry: 'H', 'I' or 'Q' at a byte offset that is a multiple of its size."""
        whole = array(code, self._table)
        if sys.byteorder == "big":
            whole.byteswap()
        step = (24 if self._wide else 16) // whole.itemsize
        return whole[offset // whole.itemsize :: step]

    def _value_column(self) -> array[int]:
        if self._values is None:
            self._values = self._column("Q", 8) if self._wide else self._column("I", 4)
        return self._values

    def _infos(self) -> bytes:
        return self._table[4::24] if self._wide else self._table[12::16]

    def _sections(self) -> array[int]:
        return self._column("H", 6) if self._wide else self._column("H", 14)

    def _named_rows(self) -> list[int]:
        columns = zip(self._column("I", 0), self._infos(), self._sections(), strict=True)
        return [row for row, (name, info, section) in enumerate(columns) if name and info & 0xF in _NAMED and section != _SHN_UNDEF]

    def _row(self, name: bytes) -> int | None:
        """The first entry of that name. Linkers let a name share another's tail, so every place of the bytes is a candidate."""
        if not name or b"\0" in name:
            return None
        places: set[int] = set()
        at, wanted = -1, name + b"\0"
        while len(places) <= _PLACES_BOUND and (at := self._strings.find(wanted, at + 1)) >= 0:
            places.add(at)
        if not places:
            return None
        column = self._column("I", 0)
        if len(places) > _PLACES_BOUND:
            strings = self._strings
            return next(
                (row for row, place in enumerate(column) if strings.startswith(wanted, place) and self._is_named(row)), None
            )
        if len(places) == 1:
            at = -1
            while (at := _index(column, min(places), at + 1)) >= 0:
                if self._is_named(at):
                    return at
            return None
        return next((row for row, place in enumerate(column) if place in places and self._is_named(row)), None)

    def _is_named(self, row: int) -> bool:
        start = row * (24 if self._wide else 16)
        name = int.from_bytes(self._table[start : start + 4], "little")
        info, section = (start + 4, start + 6) if self._wide else (start + 12, start + 14)
        return bool(name) and self._table[info] & 0xF in _NAMED and self._table[section : section + 2] != b"\0\0"

    def _name(self, row: int) -> str | None:
        start = row * (24 if self._wide else 16)
        offset = int.from_bytes(self._table[start : start + 4], "little")
        end = self._strings.find(b"\0", offset, offset + _NAME_BOUND)
        return self._strings[offset:end].decode("utf-8", "surrogateescape") if 0 < offset < end else None

    def _by_value(self) -> tuple[array[int], array[int]]:
        """Values in rising order, and the row of each; of equal ones the first of the table comes first."""
        if self._sorted is None:
            values = self._value_column()
            rows = sorted(self._named_rows(), key=values.__getitem__)
            self._sorted = array("Q", [values[row] for row in rows]), array("L", rows)
        return self._sorted


def _index(column: array[int], value: int, start: int) -> int:
    if start >= len(column):
        return -1
    try:
        return column.index(value, start)  # the limits are of Python 3.10
    except ValueError:
        return -1
