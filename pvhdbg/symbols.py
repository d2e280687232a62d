"""Names and addresses of a kernel's symbols, in both views: virtual, and physical by its segments' p_paddr - p_vaddr.

A question about one symbol is answered by searching the tables as bytes; only `nearest` builds an index, and only once.
Local symbols count: `pvh_start_xen` is one.
"""

from __future__ import annotations

import difflib
import struct
from bisect import bisect_right

from pvhdbg.decode.elf import Buffer, ElfFile, symbol_table
from pvhdbg.errors import BadInput

_SUGGESTIONS = 3
_NAMED = (0, 1, 2, 10)  # STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_GNU_IFUNC: not sections, not files


class Symbols:
    """The symbol table of one ELF, which may be missing."""

    def __init__(self, data: Buffer, elf: ElfFile) -> None:
        self._elf = elf
        self._index: tuple[list[int], list[int]] | None = None
        table = symbol_table(data, elf)
        self._table = b"" if table is None else bytes(data[table.offset : table.offset + table.size])
        self._strings = b"" if table is None else bytes(data[table.strings : table.strings + table.strings_size])
        wide = elf.bits == 64
        self._entry = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
        self._value_at = 8 if wide else 4
        self._value = struct.Struct("<Q" if wide else "<I")

    def __bool__(self) -> bool:
        return bool(self._table)

    def virtual_address(self, name: str) -> int:
        """st_value of the symbol. Raises BadInput, with the nearest names, when there is none."""
        if not self._table:
            raise BadInput("the kernel has no symbol table", "use the vmlinux with symbols, or give the address as a number")
        wanted = name.encode()
        at = -1
        while (at := self._strings.find(wanted + b"\0", at + 1)) >= 0:
            if at and self._strings[at - 1] and not self._is_tail(at):
                continue
            value = self._value_by_name(at)
            if value is not None:
                return value
        near = difflib.get_close_matches(name, self._names(), _SUGGESTIONS)
        raise BadInput(f"the kernel has no symbol {name}", f"did you mean {', '.join(near)}?" if near else "check its spelling")

    def physical_address(self, name: str) -> int:
        """Where the symbol lies in physical memory."""
        return self.to_physical(self.virtual_address(name))

    def to_physical(self, address: int) -> int:
        """A link-time address as a physical one; unchanged where no PT_LOAD holds it."""
        for load in self._elf.loads:
            if load.p_vaddr <= address < load.p_vaddr + max(load.p_memsz, 1):
                return address - load.p_vaddr + load.p_paddr
        return address

    def name_at(self, physical: int) -> str | None:
        """The symbol exactly at a physical address, or None."""
        for address in self._virtual(physical):
            packed = self._value.pack(address)
            at = -1
            while (at := self._table.find(packed, at + 1)) >= 0:
                start = at - self._value_at
                if start % self._entry.size == 0 and self._is_named(start):
                    return self._name(self._entry.unpack_from(self._table, start)[0])
        return None

    def nearest(self, physical: int) -> tuple[str, int] | None:
        """The symbol at or below a physical address, and how far above it the address is."""
        addresses, starts = self._sorted()
        index = bisect_right(addresses, physical) - 1
        if index < 0:
            return None
        name = self._name(self._entry.unpack_from(self._table, starts[index])[0])
        return None if name is None else (name, physical - addresses[index])

    # --- the tables as bytes --------------------------------------------------------------------------------------

    def _virtual(self, physical: int) -> list[int]:
        found = [
            physical - load.p_paddr + load.p_vaddr
            for load in self._elf.loads
            if load.p_paddr <= physical < load.p_paddr + load.p_memsz
        ]
        return [address for address in found if address < 1 << 8 * self._value.size]

    def _is_tail(self, at: int) -> bool:
        """Whether a symbol's name begins inside another's: linkers share tails."""
        return self._value_by_name(at) is not None

    def _value_by_name(self, offset: int) -> int | None:
        packed = struct.pack("<I", offset)
        at = -1
        while (at := self._table.find(packed, at + 1)) >= 0:
            if at % self._entry.size == 0 and self._is_named(at):
                value: int = self._value.unpack_from(self._table, at + self._value_at)[0]
                return value
        return None

    def _is_named(self, start: int) -> bool:
        if start < 0 or start + self._entry.size > len(self._table):
            return False
        fields = self._entry.unpack_from(self._table, start)
        info, section = (fields[1], fields[3]) if self._elf.bits == 64 else (fields[3], fields[5])
        return bool(fields[0]) and info & 0xF in _NAMED and section != 0

    def _name(self, offset: int) -> str | None:
        end = self._strings.find(b"\0", offset)
        return self._strings[offset:end].decode("utf-8", "backslashreplace") if 0 <= offset < end else None

    def _names(self) -> list[str]:
        return [name.decode("utf-8", "replace") for name in self._strings.split(b"\0")[1:] if name]

    def _sorted(self) -> tuple[list[int], list[int]]:
        if self._index is None:
            rows = []
            for start in range(0, len(self._table) - self._entry.size + 1, self._entry.size):
                if self._is_named(start):
                    value = self._value.unpack_from(self._table, start + self._value_at)[0]
                    rows.append((self.to_physical(value), start))
            rows.sort()
            self._index = [row[0] for row in rows], [row[1] for row in rows]
        return self._index
