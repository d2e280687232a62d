"""Symbol tables: .symtab of both widths, every way to ask it, and the file that GDB is given of it."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.target import Form, Output, Target
from pvhdbg.decode import elf
from pvhdbg.decode.text import printable
from pvhdbg.kernel.symbols import Symbols
from tests.support.elf_writer import SymbolSpec, build_elf


def _run(data: bytes) -> Iterator[Output]:
    symbols = Symbols(data, elf.parse(data))
    if not symbols:
        return
    shown = [f"{len(symbols)} of {symbols.origin}", *map(printable, symbols.first("na", 4)), *map(printable, symbols.like("nam"))]
    for address in (0x100000, 0x100005, 0, (1 << 64) - 1):
        shown += [printable(str(symbols.label(address))), printable(str(symbols.nearest_virtual(address)))]
    for name in symbols.names()[:4]:
        shown.append(f"{symbols.virtual_address(name):#x} {symbols.physical_address(name):#x}")
    yield Output(Form.TEXT, "\n".join(shown))


def _seeds() -> Iterator[bytes]:
    rows = tuple(SymbolSpec(f"name{index}", 0x100000 + 4 * index) for index in range(12))
    yield build_elf(symbols=rows)
    yield build_elf(bits=32, machine=3, symbols=rows)
    yield build_elf(symbols=(SymbolSpec("e", 0x100000), SymbolSpec("\x1b[2J", 0x100000), SymbolSpec("", 0)))


TARGET = Target(_run, _seeds, (b"name1\0", b"\x1b]0;x\x07"))
