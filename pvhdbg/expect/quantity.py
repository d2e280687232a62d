"""Numbers and sizes: parsed from an expectation, and formatted for a report."""

from __future__ import annotations

import re

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_WRITTEN = re.compile(r"(0x[0-9a-f]{1,16}|[0-9]{1,20})(?:([KMGT])(?:i?B)?)?", re.IGNORECASE | re.ASCII)


def number(text: str) -> int | None:
    """`0x1f`, `31`, `400M` (binary: 400 * 2^20); None for any other text, and for a number of more than 64 bits."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        return None
    value = int(match[1], 0) if match[1].lower().startswith("0x") else int(match[1])
    value <<= _UNITS[(match[2] or "").upper()]
    return value if value < 1 << 64 else None


def size_words(value: int) -> str:
    """The value in the largest unit that divides it, `400M`; hexadecimal if none does."""
    for unit, shift in reversed(_UNITS.items()):
        if unit and value and not value & (1 << shift) - 1:
            return f"{value >> shift}{unit}"
    return f"{value:#x}" if value > 9 else str(value)
