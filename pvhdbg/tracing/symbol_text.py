"""Names of addresses, "function+0x10": their function, and labels for the formats of other tools (one line of bounded, printable text)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from pvhdbg.decode.text import SafeText, safe, shorten

Name = Callable[[int], "str | None"]
SafeName = Callable[[int], "SafeText | None"]
_LONGEST = 256
_OFFSET = re.compile(r"\+0x[0-9a-f]+\Z")


@lru_cache(maxsize=1 << 14)
def label(text: str) -> str:
    """A name on one line: unprintable characters are escaped, and a long name is cut."""
    return shorten(safe(text), _LONGEST)


def base(symbol: str) -> str:
    """The function in the name of an address: "main" of "main+0x10"."""
    return _OFFSET.sub("", symbol)


@lru_cache(maxsize=1 << 14)
def function(symbol: str | None) -> str:
    """The function in the name of an address, as a label; "?" where there is no name."""
    return (symbol and label(base(symbol))) or "?"
