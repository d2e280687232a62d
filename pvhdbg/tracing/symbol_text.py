"""Names of places, "function+0x10", taken apart; and as other tools' formats take them: one line of bounded, printable text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from pvhdbg.decode.text import safe, shorten

Name = Callable[[int], "str | None"]
_LONGEST = 256
_OFFSET = re.compile(r"\+0x[0-9a-f]+\Z")


@lru_cache(maxsize=1 << 14)
def label(text: str) -> str:
    """A name on one line: what is not printable is escaped, and what is too long is cut."""
    return shorten(safe(text), _LONGEST)


def base(symbol: str) -> str:
    """The function of a place: "main" of "main+0x10"."""
    return _OFFSET.sub("", symbol)


@lru_cache(maxsize=1 << 14)
def function(symbol: str | None) -> str:
    """The function of a place as a label; "?" where there is none."""
    return (symbol and label(base(symbol))) or "?"
