"""A row of a call frame table: how the caller's frame follows from a function's (DWARF 5, 6.4)."""

from __future__ import annotations

from collections.abc import Mapping

from pvhdbg.record import dataclass


@dataclass(frozen=True)
class FrameRule:
    """The canonical frame address is register `cfa` plus `offset` bytes; the return address lies `back` bytes from it.

    `saved` holds the callee-saved registers that lie in the frame, by 64-bit names, and their distance from the canonical frame address.
    """

    cfa: str
    offset: int
    back: int
    saved: Mapping[str, int]
