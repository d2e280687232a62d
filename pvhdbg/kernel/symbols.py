"""Names and addresses of a kernel's symbols, in both views: virtual, and physical by its segments' p_paddr - p_vaddr.

They come from .symtab, or from the table that a stripped Linux carries for itself. Neither is read before something is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from pvhdbg.decode.elf import Buffer, ElfFile, sections, symbol_table
from pvhdbg.errors import BadInput
from pvhdbg.spec.elf import SHF_EXECINSTR
from pvhdbg.spec.linux_symbols import TOGETHER

if TYPE_CHECKING:
    from pvhdbg.decode.kallsyms import Kallsyms

_SUGGESTIONS = 3
_SUGGEST_FOR = 128  # letters of a misspelt name: comparing is quadratic in them
_SORTED_AT_ONCE = 4096  # names; more are not kept, as they may be long
_SUGGEST_AMONG = 4096  # names of about the same length that are compared with a misspelt one


class _Table(Protocol):
    """What answers: by link-time addresses, which are those that instructions use."""

    @property
    def origin(self) -> str: ...
    def __len__(self) -> int: ...
    def value(self, name: str) -> int | None: ...
    def exact(self, address: int) -> str | None: ...
    def nearest(self, address: int, lowest: int) -> tuple[str, int] | None: ...
    def object_at(self, address: int) -> str | None: ...
    def names(self, prefix: bytes = b"") -> Iterator[bytes]: ...


class _LinuxTable:
    """Kallsyms as a table. Names are unpacked as they are compared, and not kept: how long they get is the file's choice."""

    origin = "kallsyms"

    def __init__(self, kallsyms: Kallsyms) -> None:
        self._kallsyms = kallsyms
        self._values: dict[str, int | None] = {}  # those that were asked for: each look is a walk over all names

    def __len__(self) -> int:
        return len(self._kallsyms)

    def value(self, name: str) -> int | None:
        if name not in self._values:
            self.learn((name,))
        return self._values[name]

    def learn(self, names: Collection[str]) -> None:
        """Look several names up in one walk; the first one of these also looks up what is asked for most."""
        unknown = [name for name in names if name not in self._values]
        wanted = unknown if self._values or not unknown else [*unknown, *TOGETHER]
        missing = {name.encode("utf-8", "surrogateescape"): name for name in wanted}
        found = self._kallsyms.values(missing)
        self._values.update({name: found.get(packed) for packed, name in missing.items()})

    def lettered(self) -> Iterator[tuple[str, bytes, int]]:
        return self._kallsyms.lettered()

    def exact(self, address: int) -> str | None:
        return self._kallsyms.exact(address)

    def nearest(self, address: int, lowest: int) -> tuple[str, int] | None:
        found = self._kallsyms.nearest(address)
        return None if found is None or address - found[1] < lowest else found

    def object_at(self, address: int) -> str | None:
        return None  # its letters tell data from code, but not how large an object is

    def names(self, prefix: bytes = b"") -> Iterator[bytes]:
        return self._kallsyms.names(prefix)


class Symbols:
    """The symbols of one ELF, which may have none. Raises BadInput for a damaged .symtab when it is made."""

    def __init__(self, data: Buffer, elf: ElfFile) -> None:
        self._data, self._elf = data, elf
        self._symtab = symbol_table(data, elf)

    @cached_property
    def _table(self) -> _Table | None:
        if self._symtab is not None and self._symtab.size:
            from pvhdbg.kernel.symtab import Symtab

            return Symtab(self._data, self._symtab, self._elf.bits == 64)
        if not any(note.owner == b"Linux\0" for note in self._elf.notes):
            return None
        from pvhdbg.decode import kallsyms

        found = kallsyms.find(self._data, self._elf.bits, self._linked_at, self._behind_code())
        return None if found is None else _LinuxTable(found)

    def _behind_code(self) -> int:
        """The file offset where the largest section of code ends, 0 without one: behind it are the constants."""
        try:
            code = [one for one in sections(self._data, self._elf) if one.sh_flags & SHF_EXECINSTR]
        except BadInput:
            return 0
        return max(((one.sh_size, one.sh_offset + one.sh_size) for one in code), default=(0, 0))[1]

    def _linked_at(self, offset: int) -> int | None:
        """The link-time address of a byte of the file."""
        for load in self._elf.loads:
            if load.p_offset <= offset < load.p_offset + load.p_filesz:
                return offset - load.p_offset + load.p_vaddr
        return None

    def __bool__(self) -> bool:
        return self._table is not None

    def __len__(self) -> int:
        """The number of entries of the table, with those that name nothing."""
        return 0 if self._table is None else len(self._table)

    @property
    def origin(self) -> str | None:
        """Where they come from: ".symtab", "kallsyms", or None without any."""
        return None if self._table is None else self._table.origin

    def lettered(self) -> Iterator[tuple[str, bytes, int]]:
        """nm's letter, name and link-time address of each symbol in kallsyms; empty for a .symtab, which every tool can read."""
        return self._table.lettered() if isinstance(self._table, _LinuxTable) else iter(())

    def virtual_address(self, name: str) -> int:
        """The symbol's link-time address; of several with the name, the first. Raises BadInput, with the nearest names, for none."""
        if self._table is None:
            raise BadInput("the kernel has no symbol table", "use the vmlinux with symbols, or give the address as a number")
        value = self._table.value(name)
        if value is not None:
            return value
        near = self.like(name)
        raise BadInput(f"the kernel has no symbol {name}", f"did you mean {', '.join(near)}?" if near else "check its spelling")

    def values(self, names: Collection[str]) -> dict[str, int]:
        """The link-time addresses of those names that there are."""
        table = self._table
        if isinstance(table, _LinuxTable):
            table.learn(names)
        found = {} if table is None else {name: table.value(name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

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
        if self._table is None:
            return None
        return next((name for address in self.to_virtual(physical) if (name := self._table.exact(address))), None)

    def label(self, physical: int) -> str | None:
        """The name of a physical address: `symbol`, or `symbol+0x12` for one behind it; None outside the kernel."""
        found = self.name_at(physical)
        if found is not None:
            return found
        near = self.nearest(physical)
        return None if near is None else f"{near[0]}+{near[1]:#x}" if near[1] else near[0]

    def nearest(self, physical: int) -> tuple[str, int] | None:
        """The symbol at or below a physical address, and how far above it the address is; None outside the kernel."""
        return next((found for address in self.to_virtual(physical) if (found := self.nearest_virtual(address))), None)

    def nearest_virtual(self, address: int) -> tuple[str, int] | None:
        """The same for a link-time address: the symbol is one of the segment that holds it."""
        for load in self._elf.loads:
            if self._table is not None and load.p_vaddr <= address < load.p_vaddr + max(load.p_memsz, 1):
                found = self._table.nearest(address, load.p_vaddr)
                if found is not None:
                    return found
        return None

    def object_at(self, physical: int) -> str | None:
        """The data object that holds a physical address, by .symtab; None where there is none, or where types are not known."""
        table = self._table
        if table is None:
            return None
        return next((found for address in self.to_virtual(physical) if (found := table.object_at(address))), None)

    def like(self, name: str) -> list[str]:
        """The names that are most like `name`, best first."""
        import difflib

        if self._table is None or len(name) > _SUGGEST_FOR:
            return []
        near = (_text(one) for one in self._table.names() if abs(len(one) - len(name)) <= 2)
        alike = (one for one in near if one[:1] == name[:1] or one[-2:] == name[-2:])
        return difflib.get_close_matches(name, dict.fromkeys(islice(alike, _SUGGEST_AMONG)), _SUGGESTIONS)

    def names(self, prefix: str = "") -> list[str]:
        """The names of all symbols that begin so, in the table's order, each once."""
        return [_text(name) for name in dict.fromkeys(self._beginning(prefix))]

    def first(self, prefix: str, most: int) -> list[str]:
        """The first names in order that begin so, not more than `most`."""
        from heapq import nsmallest

        names, found = self._beginning(prefix), list[bytes]()
        while piece := set(islice(names, _SORTED_AT_ONCE)):
            found = nsmallest(most, piece.union(found))
        return [_text(name) for name in found]

    def _beginning(self, prefix: str) -> Iterator[bytes]:
        return iter(()) if self._table is None else self._table.names(prefix.encode("utf-8", "surrogateescape"))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
