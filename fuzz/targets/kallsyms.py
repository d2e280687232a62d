"""The symbol table that a stripped Linux carries for itself: found without a pointer to it, and decoded lazily."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fuzz.target import Form, Output, Target
from pvhdbg.decode import kallsyms
from pvhdbg.decode.text import printable

_BASE = 0xFFFFFFFF81000000


def _run(data: bytes) -> Iterator[Output]:
    for bits in (64, 32):
        table = kallsyms.find(data, bits, lambda offset: _BASE + offset)
        if table is None:
            continue
        shown = [f"{len(table)}"]
        for row in {0, len(table) // 2, len(table) - 1}:
            address = table.addresses[row]
            shown += [printable(table.name(row)), printable(str(table.nearest(address + 1))), printable(str(table.exact(address)))]
        shown += [printable(name) for name, _ in zip(table.names(b"T"), range(4), strict=False)]
        shown.append(printable(str(table.values({b"f1", b"none"}))))
        yield Output(Form.TEXT, "\n".join(shown))


def _table(count: int, newest: bool) -> bytes:
    """A table of `count` names of one or two tokens, with offsets in front of the names or, in the newest layout, at the end."""
    tokens = [bytes([code]) if 32 < code < 127 else b"f%d" % code for code in range(256)]
    packed, markers = b"", []
    for row in range(count):
        if row % 256 == 0:
            markers.append(len(packed))
        name = b"T" + bytes([row % 256, ord("0") + row % 10])
        packed += bytes([len(name)]) + name
    text = b"".join(token + b"\0" for token in tokens)
    starts = [sum(len(token) + 1 for token in tokens[:index]) for index in range(256)]
    parts = [struct.pack("<Q", count), packed, struct.pack(f"<{len(markers)}I", *markers), text, struct.pack("<256H", *starts)]
    if newest:
        parts.append(
            struct.pack(f"<{count}i", *(16 * row for row in range(count))) + bytes(-4 * count % 8) + struct.pack("<Q", _BASE)
        )
    else:
        parts.insert(
            0,
            struct.pack(f"<{count}i", *(-1 - 16 * row for row in range(count))) + bytes(-4 * count % 8) + struct.pack("<Q", _BASE),
        )
    return b"".join(part + bytes(-len(part) % 8) for part in parts)


def _seeds() -> Iterator[bytes]:
    for count in (257, 600):
        yield _table(count, False)
        yield _table(count, True)


TARGET = Target(_run, _seeds, (b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00",))
