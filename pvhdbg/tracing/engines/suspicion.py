"""Whether a running machine is worth a look, by what the flight recorder writes: a stop costs the guest its translated code.

A guest that dies by a fault stops by itself. Here are the signs of the other deaths: no CPU runs, the same few blocks and nothing else
run, the CPU slides through code that it never ran before, or runs where there is no RAM. Each may be harmless: the stopped machine tells.
A CPU whose interrupts are on is not stopped for the first two: an interrupt may end them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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

    def __init__(
        self, recording: Recording, said: Callable[[], bool] = lambda: False, awaits: Callable[[], bool] = lambda: False
    ) -> None:
        """`said` says whether the guest itself reports its death, `awaits` whether the CPU is seen to have its interrupts on while it runs."""
        self._recording, self._said, self._awaits = recording, said, awaits
        self._silence = Silence(recording)
        self._pause = _FIRST_PAUSE
        self._next = 0.0
        self._loop = frozenset[int]()  # the blocks that the CPU was seen in

    def arises(self) -> bool:
        """Whether the machine should be stopped and examined."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _EVERY
        if self._said():
            return True
        if self._silence.lasts():
            return self._unless_it_awaits()
        cpu = self._recording.header.entry_cpu
        if not self._recording.entered or cpu >= self._recording.cpus:
            return False
        last = self._recording.last_indexes(cpu, _LAST)
        return (self._only_a_loop(last) and self._unless_it_awaits()) or self._slides(cpu, last[-_SLIDE:])

    def _unless_it_awaits(self) -> bool:
        if not self._awaits():
            return True
        self.was_unfounded()
        return False

    def was_unfounded(self) -> None:
        """The machine was looked at, and lives."""
        self._silence.is_no_end()
        self._loop = frozenset()
        self._next = time.monotonic() + self._pause
        self._pause *= 2

    def _only_a_loop(self, last: list[int]) -> bool:
        """Whether the CPU is in the same few blocks as at the last look."""
        before, self._loop = self._loop, frozenset(last)
        return len(last) == _LAST and len(self._loop) <= _FEW and self._loop == before

    def _slides(self, cpu: int, last: list[int]) -> bool:
        """Whether the CPU runs through code in a row that it never ran before, or that is not in RAM."""
        if len(last) < _SLIDE or not all(other == one + 1 for one, other in pairwise(last)):
            return False  # a block that was never executed before is the next one in the table, mostly
        executed = self._recording.last(cpu, _SLIDE)
        blocks = [one.block for one in executed]
        if all(one.physical is None for one in blocks):
            return True
        # QEMU 7: the end of a page cuts an instruction off a block whose size still counts a part of it.
        following = all(one.linear < other.linear <= one.linear + one.size for one, other in pairwise(blocks))
        return following and all(one.block.first == one.number for one in executed)
