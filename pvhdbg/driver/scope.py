"""The part of a trace that is kept: `--from` says where it begins, `--filter` selects code."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.errors import BadInput
from pvhdbg.machine.names import Names
from pvhdbg.tracing.event import Batch, Event
from pvhdbg.tracing.mode_words import first_in
from pvhdbg.tracing.symbol_text import base

_RANGE = re.compile(r"(0x[0-9a-fA-F]{1,16})-(0x[0-9a-fA-F]{1,16})")


@dataclass
class Scope:
    """Feed it batches in order. Instructions that it leaves out are traced too: numbers count from the beginning of the trace."""

    seq: int = 0
    modes: frozenset[Mode] = frozenset()
    inside: Callable[[int], bool] | None = None
    most: int | None = None  # events that are kept

    def __post_init__(self) -> None:
        self._kept = 0

    @property
    def everything(self) -> bool:
        return not self.seq and not self.modes and self.inside is None

    @property
    def full(self) -> bool:
        """Whether it keeps no further events."""
        return self.most is not None and self._kept >= self.most

    def rows(self, batch: Batch) -> list[Event]:
        """The events of a batch that belong to it."""
        start = max(self.seq - batch.seq, 0)
        if self.modes:
            met = first_in(batch.modes[start:], self.modes)
            if met is None:
                return []
            start, self.modes = start + met, frozenset()
        inside = self.inside
        rows = [batch.event(index) for index in range(start, len(batch)) if inside is None or inside(batch.pcs[index])]
        rows = rows if self.most is None else rows[: self.most - self._kept]
        self._kept += len(rows)
        return rows


def code_of(text: str, names: Names) -> Callable[[int], bool]:
    """Parse `--filter`: linear addresses 0xFROM-0xTO (the last excluded), or a function. Raises BadInput."""
    bounds = _RANGE.fullmatch(text)
    if bounds is not None:
        low, high = int(bounds[1], 16), int(bounds[2], 16)
        if low >= high:
            raise BadInput(f"--filter {text} holds no address", "give 0xFROM-0xTO, with the smaller one first")
        return lambda pc: low <= pc < high
    names.addresses(text)  # raises BadInput for an unknown symbol
    return lambda pc: base(names(pc) or "") == text
