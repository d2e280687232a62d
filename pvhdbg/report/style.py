"""Colour on a terminal, chosen by the meaning of a word. When off, it adds nothing."""

from __future__ import annotations

from pvhdbg.record import dataclass

_CODES = {"good": "32", "bad": "1;31", "warn": "33", "note": "36", "dim": "2", "head": "1"}


@dataclass(frozen=True)
class Style:
    """`Style(colour=True)` wraps words in ANSI colours; `width` is the terminal's width in columns; `brief` leaves only the result."""

    colour: bool = False
    width: int = 100
    brief: bool = False

    def __call__(self, meaning: str, text: str) -> str:
        return f"\x1b[{_CODES[meaning]}m{text}\x1b[0m" if self.colour and text else text


PLAIN = Style()
