"""Write an ELF with only a .symtab, made from the kallsyms of a stripped Linux, for debuggers that cannot read kallsyms.

It has a section without contents for each loaded range of code and of data, so that GDB can distinguish them, and can move all
of them by an offset (`add-symbol-file -o`). System V gABI, chapter 4.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from pvhdbg.errors import BadInput
from pvhdbg.record import dataclass
from pvhdbg.spec.elf import EM_386, EM_X86_64, SHT_NOBITS, SHT_STRTAB, SHT_SYMTAB, Header32, Header64, Ident, Section32, Section64

_ET_EXEC = 2
_WRITE, _ALLOC, _CODE = 1, 2, 4  # SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR
_ABSOLUTE = 0xFFF1  # SHN_ABS: outside of everything that is loaded
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_OBJECT, _FUNCTION = 1, 2
_NAMES_BOUND = 64 << 20  # bytes of all names; Debian's kernel has 4 MB
_SHOWN = bytes(byte if 0x20 < byte < 0x7F else ord("?") for byte in range(256))
_CODE_LETTERS = "tw"  # of nm's types, in any case


class NamedSymbol(NamedTuple):
    """A symbol: nm's letter for its kind (capital if it is global), its name, its link-time address."""

    letter: str
    name: bytes
    address: int

    @property
    def is_code(self) -> bool:
        return self.letter.lower() in _CODE_LETTERS

    @property
    def binding(self) -> int:
        """STB_LOCAL, STB_GLOBAL or STB_WEAK."""
        return _WEAK if self.letter in "wWvV" else _GLOBAL if self.letter.isupper() else _LOCAL


@dataclass(frozen=True)
class Stretch:
    """Addresses from `start` up to `end` that hold code, or data."""

    start: int
    end: int
    code: bool


def stretches(symbols: Sequence[NamedSymbol], loads: Iterable[tuple[int, int]]) -> list[Stretch]:
    """The loaded ranges, (address, size) each, split where code begins and ends; in rising order, without overlapping ones."""
    addresses = sorted(one.address for one in symbols if one.is_code)
    found: list[Stretch] = []
    starts = sorted({one.address for one in symbols})
    for address, size in sorted(loads):
        if size <= 0 or (found and address < found[-1].end):
            continue
        first, last = bisect_right(addresses, address - 1), bisect_right(addresses, address + size - 1)
        if first == last:
            found.append(Stretch(address, address + size, False))
            continue
        begin = addresses[first]
        behind = bisect_right(starts, addresses[last - 1])
        end = min([address + size, *starts[behind : behind + 1]])
        cuts = ((address, begin, False), (begin, end, True), (end, address + size, False))
        found += [Stretch(start, stop, code) for start, stop, code in cuts if start < stop]
    return found


def symbol_file(symbols: Iterable[NamedSymbol], loads: Iterable[tuple[int, int]], bits: int) -> bytes:
    """The file. Symbols outside of the loaded ranges become absolute. `bits` is 32 or 64. Raises BadInput for too long names.

    Debuggers print the names without escaping them: every character that is not printable ASCII becomes "?".
    """
    ordered = sorted(_bounded(symbols), key=lambda one: one.binding != _LOCAL)  # the gABI requires local symbols to come first
    parts = stretches(ordered, loads)
    starts = [one.start for one in parts]
    entry = struct.Struct("<IBBHQQ" if bits == 64 else "<IIIBBH")

    def section(address: int) -> int:
        index = bisect_right(starts, address) - 1
        return index + 1 if index >= 0 and address < parts[index].end else _ABSOLUTE

    def row(one: NamedSymbol, name: int) -> bytes:
        info, index = one.binding << 4 | (_FUNCTION if one.is_code else _OBJECT), section(one.address)
        return entry.pack(name, info, 0, index, one.address, 0) if bits == 64 else entry.pack(name, one.address, 0, info, 0, index)

    offsets = accumulate((len(one.name) + 1 for one in ordered), initial=1)
    table = bytes(entry.size) + b"".join(map(row, ordered, offsets))
    strings = b"\0" + b"".join(one.name + b"\0" for one in ordered)
    local = 1 + sum(1 for one in ordered if one.binding == _LOCAL)
    return _file(parts, table, strings, entry.size, local, bits)


def _bounded(symbols: Iterable[NamedSymbol]) -> Iterator[NamedSymbol]:
    size = 0
    for one in symbols:
        size += len(one.name)
        if size > _NAMES_BOUND:
            raise BadInput(
                f"the kernel's own symbols have more than {_NAMES_BOUND >> 20} MiB of names",
                "it may be damaged: use the vmlinux with symbols",
            )
        yield one._replace(name=one.name.translate(_SHOWN))


def _file(parts: Sequence[Stretch], table: bytes, strings: bytes, entry_size: int, local: int, bits: int) -> bytes:
    wide = bits == 64
    header_type, section_type = (Header64, Section64) if wide else (Header32, Section32)
    names = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"
    at = Ident.sizeof() + header_type.sizeof()
    align = 8 if wide else 4
    at += -at % align
    after = at + len(table) + len(strings) + len(names)
    sections_at = after + -after % align
    count = len(parts) + 4
    rows = [section_type(*[0] * 10)]
    rows += [_row(section_type, names.index(b".text" if one.code else b".data"), SHT_NOBITS, flags=_ALLOC | (_CODE if one.code else _WRITE),
                  addr=one.start, offset=at, size=one.end - one.start, align=1) for one in parts]  # fmt: skip
    rows.append(_row(section_type, names.index(b".symtab"), SHT_SYMTAB, offset=at, size=len(table), link=count - 2, info=local, align=align,
                     entsize=entry_size))  # fmt: skip
    rows.append(_row(section_type, names.index(b".strtab"), SHT_STRTAB, offset=at + len(table), size=len(strings), align=1))
    rows.append(
        _row(section_type, names.index(b".shstrtab"), SHT_STRTAB, offset=at + len(table) + len(strings), size=len(names), align=1)
    )
    ident = Ident(b"\x7fELF", 2 if wide else 1, 1, 1, 0, bytes(8))
    header = header_type(_ET_EXEC, EM_X86_64 if wide else EM_386, 1, 0, 0, sections_at, 0, Ident.sizeof() + header_type.sizeof(), 0, 0,
                         section_type.sizeof(), count, count - 1)  # fmt: skip
    front = ident.encode() + header.encode()
    return b"".join([front.ljust(at, b"\0"), table, strings, names, bytes(sections_at - after), *(one.encode() for one in rows)])


def _row(kind: type[Section32] | type[Section64], name: int, type: int, *, flags: int = 0, addr: int = 0, offset: int = 0, size: int = 0,
         link: int = 0, info: int = 0, align: int = 0, entsize: int = 0) -> Section32 | Section64:  # fmt: skip
    return kind(name, type, flags, addr, offset, size, link, info, align, entsize)
