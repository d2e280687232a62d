"""Memory at a linear address as GDB's `x` shows it: numbers, instructions, strings."""

from __future__ import annotations

import re
from typing import NamedTuple

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.machine import disassemble
from pvhdbg.machine.session import Session

_X = re.compile(r"/(\d{0,5})([xduisbhwg]{0,2})", re.ASCII)
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_MOST_BYTES = 1 << 14  # that are shown at once
_ROW = 16  # bytes of a line
_STRING = 200  # bytes of a string


class Shown(NamedTuple):
    """The lines, and the address behind what they show; None where that is not known."""

    lines: list[str]
    behind: int | None


def shown(session: Session, format: str, address: int) -> Shown:
    """What `x/FORMAT` shows at a linear address. Raises BadInput for a format that is none, MemoryUnreadable."""
    match = _X.fullmatch(format or "/")
    if match is None:
        raise BadInput(f"{format} is not a format", "write a count, one of x d u i s, and one of b h w g: /8xw")
    count, letters = int(match[1] or 1), match[2]
    unit = next((_SIZES[letter] for letter in letters if letter in _SIZES), 4)
    kind = next((letter for letter in letters if letter not in _SIZES), "x")
    if not 0 < count * (16 if kind in "is" else unit) <= _MOST_BYTES:
        raise BadInput(f"{count} cannot be shown at once", "give a smaller count")
    if kind == "i":
        mode, found = disassemble.instructions(session, address, count + 1)
        return Shown(disassemble.lines(mode, found[:count])[1:], found[count].address if len(found) > count else None)
    if kind == "s":
        return _strings(session, address, count)
    data = session.linear(address, count * unit)
    return Shown(_numbers(address, data, unit, kind), address + len(data))


def _numbers(address: int, data: bytes, unit: int, kind: str) -> list[str]:
    lines = []
    for start in range(0, len(data), _ROW):
        values = [data[at : at + unit] for at in range(start, min(start + _ROW, len(data)), unit)]
        if kind == "x":
            words = [f"0x{int.from_bytes(value, 'little'):0{2 * unit}x}" for value in values]
        else:
            words = [str(int.from_bytes(value, "little", signed=kind == "d")) for value in values]
        lines.append(f"{address + start:#x}:  {'  '.join(words)}")
    return lines


def _strings(session: Session, address: int, count: int) -> Shown:
    lines = []
    for _ in range(count):
        data = bytearray()
        while len(data) < _STRING:
            byte = session.linear(address + len(data), 1)
            if byte == b"\0":
                break
            data += byte
        lines.append(f'{address:#x}:  "{printable(bytes(data))}"' + ("…" if len(data) == _STRING else ""))
        address += len(data) + (len(data) < _STRING)
    return Shown(lines, address)
