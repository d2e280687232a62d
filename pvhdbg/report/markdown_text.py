"""Text from outside in Markdown (CommonMark, and GitHub's tables): it is shown unchanged and does not format anything."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pvhdbg.decode.text import printable

_ALWAYS = frozenset("\\`*_[]<>&!|~#@$:")  # emphasis, code, links, entities, tables; GitHub's mentions, math and :emoji:
_FIRST = frozenset("-+=")  # a list, a rule or the underline of a heading, when a line begins with it
_NUMBERED = re.compile(r"\d+(?=[.)])", re.ASCII)
_WWW = re.compile(r"www(?=\.)", re.IGNORECASE)  # GitHub turns it into a link


def escaped(text: str) -> str:
    """`text` as one paragraph's inline Markdown: every character that could format is escaped (CommonMark 2.4).

    Control characters are shown as in `printable`, except that line breaks become spaces: a rule's explanation has several lines.
    """
    flat = " ".join(text.split("\n"))
    shown = "".join(letter if letter.isprintable() else printable(letter) for letter in flat).strip()
    marked = "".join(f"\\{letter}" if letter in _ALWAYS else letter for letter in shown)
    marked = _WWW.sub(lambda found: f"{found[0]}\\", marked)
    number = _NUMBERED.match(marked)
    if number is not None:
        return f"{number[0]}\\{marked[number.end() :]}"
    return f"\\{marked}" if marked[:1] in _FIRST and marked else marked


def fenced(lines: Iterable[str]) -> str:
    """Lines of any text as a code block, with a fence that none of them can close (CommonMark 4.5)."""
    shown = ["".join(letter if letter.isprintable() else printable(letter) for letter in line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(longest + 1, 3)
    return "\n".join([f"{fence}text", *shown, fence])
