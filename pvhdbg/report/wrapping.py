"""Lines for a terminal of some width: long ones are continued on the next line, between words.

A word is never divided: an address or a path that is longer than the terminal stays whole. What a line continues with is indented to its
second column, where the line has two columns, and else a little further than the line.
"""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(r"(\s*)(\S+)")
_COLUMN = re.compile(r"\s*\S+(?: \S+)*\s{2,}(?=\S)")
_FURTHER = 2  # columns


def wrapped(text: str, width: int, hang: int | None = None) -> str:
    """The text with no line longer than `width` columns, as far as its words allow. Colours take no columns.

    `hang` is how far continued lines are indented; None follows each line.
    """
    return "".join(_wrapped(line, width, hang) if len(line) > width else line for line in text.splitlines(keepends=True))


def _wrapped(line: str, width: int, indent: int | None) -> str:
    body = line.rstrip("\n")
    if columns(body) <= width:
        return line
    hang = " " * (_hang(body, width) if indent is None else indent)
    rows, row, used = [], "", 0
    for match in _WORD.finditer(body):
        gap, word = match[1], match[2]
        size = columns(word)
        if row.strip() and used + len(gap) + size > width:
            rows.append(row)
            row, used = hang + word, len(hang) + size
        else:
            row, used = row + gap + word, used + len(gap) + size
    return "\n".join([*rows, row]) + line[len(body) :]


def _hang(body: str, width: int) -> int:
    """How far the lines behind the first are indented."""
    plain = _COLOUR.sub("", body)
    column = _COLUMN.match(plain)
    if column is not None and column.end() <= width // 3:
        return column.end()
    return min(len(plain) - len(plain.lstrip()) + _FURTHER, width // 3)


def columns(text: str) -> int:
    """How many columns a text takes."""
    return len(_COLOUR.sub("", text)) if "\x1b" in text else len(text)
