"""Whether a running machine is worth a look, by what the flight recorder writes: a stop costs the guest its translated code.

A guest that dies by a fault stops by itself. Here are the signs of the other deaths: no CPU runs, the same few blocks and nothing else
run, the CPU slides through code that it never ran before, or runs where there is no RAM. Each may be harmless: the stopped machine tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise

from pvhdbg.tracing.engines.recorded import Silence
from pvhdbg.tracing.recording import Recording

_EVERY = 0.1  # seconds between two looks at the recording
_LAST = 256  # blocks that are looked at
_FEW = 16  # different blocks of a loop at most
_SLIDE = 64  # blocks in a row
_FIRST_PAUSE = 0.2  # seconds after a look at the machine that found nothing; doubled each time


class Suspicion:
    """Ask `arises` again and again while the machine runs; `was_unfounded` after a look at it that found nothing."""

    def __init__(self, recording: Recording, said: Callable[[], bool] = lambda: False) -> None:
        """`said` says whether the guest itself reports its death."""
        self._recording, self._said = recording, said
        self._silence = Silence(recording)
        self._pause = _FIRST_PAUSE
        self._next = 0.0
        self._loop: tuple[frozenset[int], int, int] | None = (
            None  # blocks of a loop, the CPU's head then, and how often they had run
        )

    def arises(self) -> bool:
        """Whether the machine should be stopped and examined."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _EVERY
        if self._silence.lasts() or self._said():
            return True
        cpu = self._recording.header.entry_cpu
        if not self._recording.entered or cpu >= self._recording.cpus:
            return False
        last = self._recording.last_indexes(cpu, _LAST)
        return self._only_a_loop(cpu, last) or self._slides(cpu, last[-_SLIDE:])

    def was_unfounded(self) -> None:
        """The machine was looked at, and lives."""
        self._silence.is_no_end()
        self._loop = None
        self._next = time.monotonic() + self._pause
        self._pause *= 2

    def _only_a_loop(self, cpu: int, last: list[int]) -> bool:
        """Whether nothing but the same few blocks ran since the last look, no interrupt's handler either."""
        blocks = frozenset(last)
        if len(last) < _LAST or len(blocks) > _FEW:
            self._loop = None
            return False
        # Counts are read behind the head now, and before it the next time: a loop's own blocks are at least as many as the head moved.
        before, head = self._loop, self._recording.cpu(cpu).head
        same = before is not None and before[0] == blocks
        found = same and before is not None and self._runs(cpu, blocks) - before[2] >= head - before[1]
        if not same:
            runs = self._runs(cpu, blocks)
            self._loop = blocks, self._recording.cpu(cpu).head, runs
        return found

    def _runs(self, cpu: int, blocks: Iterable[int]) -> int:
        return sum(self._recording.counts(cpu, one, 1)[0] for one in blocks)

    def _slides(self, cpu: int, last: list[int]) -> bool:
        """Whether the CPU runs through code in a row that it never ran before, or that is not in RAM."""
        if len(last) < _SLIDE or not all(other == one + 1 for one, other in pairwise(last)):
            return False  # a block that was never executed before is the next one in the table, mostly
        blocks = [one.block for one in self._recording.last(cpu, _SLIDE)]
        if all(one.physical is None for one in blocks):
            return True
        # QEMU 7: the end of a page cuts an instruction off a block whose size still counts a part of it.
        following = all(one.linear < other.linear <= one.linear + one.size for one, other in pairwise(blocks))
        return following and all(one.runs <= 1 for one in blocks)
