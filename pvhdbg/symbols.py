"""Names and addresses of a kernel's symbols, in both views: virtual, and physical by its segments' p_paddr - p_vaddr.

A question about one symbol is answered from single columns of .symtab, read in bulk; only `nearest` and the like sort them,
once. Local symbols count: `pvh_start_xen` is one. However hostile the table, a question costs one pass over it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right

from pvhdbg.decode.elf import Buffer, ElfFile, symbol_table
from pvhdbg.errors import BadInput

_SUGGESTIONS = 3
_SUGGEST_AMONG = 4096  # names of about the same length that are compared with a misspelt one
_NAMED = frozenset({0, 1, 2, 10})  # STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_GNU_IFUNC: not sections, not files
_SHN_UNDEF = 0
_NAME_BOUND = 4096  # bytes of one name that are shown


class Symbols:
    """The symbol table of one ELF, which may be missing."""

    def __init__(self, data: Buffer, elf: ElfFile) -> None:
        self._elf = elf
        self._wide = elf.bits == 64
        self._sorted: tuple[array[int], array[int]] | None = None
        self._values: array[int] | None = None
        table = symbol_table(data, elf)
        size = 0 if table is None else table.size - table.size % table.entry_size
        self._table = b"" if table is None else bytes(data[table.offset : table.offset + size])
        self._strings = b"" if table is None else bytes(data[table.strings : table.strings + table.strings_size])

    def __bool__(self) -> bool:
        return bool(self._table)

    def __len__(self) -> int:
        """The number of entries of .symtab, with those that name nothing."""
        return len(self._table) // (24 if self._wide else 16)

    def virtual_address(self, name: str) -> int:
        """st_value of the symbol; of several with the name, the first. Raises BadInput, with the nearest names, for none."""
        if not self._table:
            raise BadInput("the kernel has no symbol table", "use the vmlinux with symbols, or give the address as a number")
        row = self._row(name.encode("utf-8", "surrogateescape"))
        if row is not None:
            return self._value_column()[row]
        near = self.like(name)
        raise BadInput(f"the kernel has no symbol {name}", f"did you mean {', '.join(near)}?" if near else "check its spelling")

    def physical_address(self, name: str) -> int:
        """Where the symbol lies in physical memory. Raises BadInput as `virtual_address`."""
        return self.to_physical(self.virtual_address(name))

    def to_physical(self, address: int) -> int:
        """A link-time address as a physical one; unchanged where no PT_LOAD holds it."""
        for load in self._elf.loads:
            if load.p_vaddr <= address < load.p_vaddr + max(load.p_memsz, 1):
                return address - load.p_vaddr + load.p_paddr
        return address

    def to_virtual(self, physical: int) -> tuple[int, ...]:
        """The link-time addresses that go to a physical one: one for each PT_LOAD that covers it."""
        found = [
            physical - load.p_paddr + load.p_vaddr
            for load in self._elf.loads
            if load.p_paddr <= physical < load.p_paddr + load.p_memsz
        ]
        return tuple(address for address in found if address < 1 << self._elf.bits)

    def name_at(self, physical: int) -> str | None:
        """The symbol exactly at a physical address, or None."""
        if not self._table:
            return None
        values = self._value_column()
        for address in self.to_virtual(physical):
            at = -1
            while (at := _index(values, address, at + 1)) >= 0:
                if self._is_named(at):
                    return self._name(at)
        return None

    def nearest(self, physical: int) -> tuple[str, int] | None:
        """The symbol at or below a physical address, and how far above it the address is; None outside the kernel."""
        return next((found for address in self.to_virtual(physical) if (found := self.nearest_virtual(address))), None)

    def nearest_virtual(self, address: int) -> tuple[str, int] | None:
        """The same for a link-time address: the symbol is one of the segment that holds it. Of several, the first in .symtab."""
        for load in self._elf.loads:
            if not load.p_vaddr <= address < load.p_vaddr + max(load.p_memsz, 1):
                continue
            values, rows = self._by_value()
            index = bisect_right(values, address) - 1
            if index < 0 or values[index] < load.p_vaddr:
                continue
            name = self._name(rows[bisect_left(values, values[index])])
            return None if name is None else (name, address - values[index])
        return None

    def like(self, name: str) -> list[str]:
        """The names that are most like `name`, best first."""
        import difflib

        near = [one for one in self.names() if abs(len(one) - len(name)) <= 2 and (one[:1] == name[:1] or one[-2:] == name[-2:])]
        return difflib.get_close_matches(name, near[:_SUGGEST_AMONG], _SUGGESTIONS)

    def names(self, prefix: str = "") -> list[str]:
        """The names of all symbols that begin so, in the table's order, each once."""
        found: dict[str, None] = {}
        for row in self._named_rows():
            name = self._name(row)
            if name is not None and name.startswith(prefix):
                found[name] = None
        return list(found)

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
        places = set()
        at = -1
        while (at := self._strings.find(name + b"\0", at + 1)) >= 0:
            places.add(at)
        if not places:
            return None
        column = self._column("I", 0)
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
        return self._strings[offset:end].decode("utf-8", "backslashreplace") if 0 < offset < end else None

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
