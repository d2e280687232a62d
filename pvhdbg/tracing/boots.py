"""The milestones of consecutive boots, in a trace that continues through resets. Firmware between them has no milestones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pvhdbg.decode.text import SafeText
from pvhdbg.tracing.event import Batch
from pvhdbg.tracing.milestones import Finder, Milestone


class Boots:
    """See `Finder`: `fresh` makes one for each boot. `entry` is the address where the next boot begins; None: unknown."""

    def __init__(self, fresh: Callable[[], Finder], entry: int | None) -> None:
        self._fresh = fresh
        self._entry = entry
        self._finder = fresh()
        self._boot = 1
        self._entered = True

    @property
    def complete(self) -> bool:
        """See `Finder.complete`, for this boot."""
        return self._entered and self._finder.complete

    @property
    def settled(self) -> bool:
        """See `Finder.settled`, for this boot."""
        return self._entered and self._finder.settled

    @property
    def left(self) -> Mapping[int, str]:
        """See `Finder.left`."""
        return self._finder.left

    def feed(self, batch: Batch) -> list[Milestone]:
        """The milestones in a batch, in order; an entry that is reached again says which boot begins there."""
        if batch.reset is not None:
            self._entered = False
            return []
        if self._entered:
            return self._finder.feed(batch)
        if self._entry is None or self._entry not in batch.pcs:
            return []
        self._entered = True
        self._finder = self._fresh()
        self._boot += 1
        found = self._finder.feed(batch.since(batch.pcs.index(self._entry)))
        return [replace(one, detail=SafeText(f"boot {self._boot}")) if one.name == "entry" else one for one in found]
