"""The records of QEMU's `exec` log as columns of numbers: the pcs, and the CPU's hidden flags (see `qemu_log`).

Consecutive records mostly have one shape: they differ in digits only, or in the function's name at the end. Then a field is read by
column: one strided slice reads a digit of all records, which costs a tenth of a regular expression for each line.
"""

from __future__ import annotations

import re
import struct
from binascii import unhexlify
from collections.abc import Sequence
from typing import NamedTuple

from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import ProtocolError

HEAD = rb"(\d+): (?:0x)?[0-9a-f]+ \[[0-9a-f]+/([0-9a-f]{8,16})/([0-9a-f]{8})/[0-9a-f]{8}\]"
RECORD = re.compile(rb"Trace " + HEAD + rb"[^\n]*\n")
_DIGITS = b"0123456789abcdef"
_SHAPE = bytes(_DIGITS[0] if byte in _DIGITS else byte for byte in range(256))  # any digit as 0
_WORTH = 1600  # bytes; fewer are read faster line by line


class Columns(NamedTuple):
    """Consecutive records of one CPU."""

    pcs: Sequence[int]
    flags: Sequence[int]


def columns(text: bytes, cpu: bytes) -> Columns:
    """The records of `cpu` in whole lines that are all records. Raises ProtocolError for a line that is not a record."""
    if len(text) >= _WORTH:
        found = by_column(_without_names(text), cpu)
        if found is not None:
            return found
    return by_line(text, cpu)


def by_line(text: bytes, cpu: bytes) -> Columns:
    """The same for records of any shape."""
    found = RECORD.findall(text)
    if len(found) != text.count(b"\n"):
        raise foreign(next(line for line in text.split(b"\n") if not RECORD.match(line + b"\n")))
    ours = [(int(pc, 16), int(flags, 16)) for number, pc, flags in found if number == cpu]
    return Columns(*zip(*ours, strict=True)) if ours else Columns((), ())


def by_column(text: bytes, cpu: bytes) -> Columns | None:
    """The records of `cpu` in whole lines that are all records of one length, shape and CPU; None where they are not."""
    first = RECORD.match(text)
    if first is None:
        return None
    size = first.end()
    count, more = divmod(len(text), size)
    if more or text[size - 1 :: size] != b"\n" * count or not _alike(text, size, count, first.end(1)):
        return None
    pcs = struct.unpack(f">{count}Q", _field(text, size, count, *first.span(2), 16))
    start, end = first.span(3)
    if all(text[at::size] == text[at : at + 1] * count for at in range(start, end)):
        flags: Sequence[int] = [int(first[3], 16)] * count
    else:
        flags = struct.unpack(f">{count}I", _field(text, size, count, start, end, 8))
    return Columns(pcs, flags) if first[1] == cpu else Columns((), ())


def _without_names(text: bytes) -> bytes:
    """The lines without the names of functions, as far as they have the shape of the first line."""
    first = RECORD.match(text)
    if first is None:
        return text
    size = first.end(3) + len("/00000000]")
    return b"\n".join([line[:size] for line in text.split(b"\n")])


def _alike(text: bytes, size: int, count: int, constant: int) -> bool:
    """Whether `count` pieces of `size` bytes differ in hexadecimal digits only, and not before `constant`."""
    shapes = text.translate(_SHAPE)
    return shapes == shapes[:size] * count and all(
        text[at::size] == text[at : at + 1] * count for at in range(constant) if text[at] in _DIGITS
    )


def _field(text: bytes, size: int, count: int, start: int, end: int, width: int) -> bytes:
    """The binary values, big-endian, of a field of at most `width` digits that stands in each piece."""
    digits = bytearray(b"0" * (width * count))
    for at in range(start, end):
        digits[width - end + at :: width] = text[at::size]
    return unhexlify(digits)


def foreign(line: bytes) -> ProtocolError:
    """The error for a line in an unknown format."""
    return ProtocolError(
        f"QEMU's log has a line that pvhdbg cannot read: {shorten(safe(line), 160)!r}",
        "this QEMU writes another format: trace with --engine step, and report the line",
    )
