"""Match a user's regular expression against a guest's output in bounded time: catastrophic backtracking can take years on one line.

Python's `re` checks for signals while it matches, so a timer ends it. That works in the main thread, where commands run.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 0.25  # seconds for one search; a line takes microseconds
SIMPLER = "write it without a repetition of a repetition, as in (a+)+"


class TooSlow(Exception):
    """The match took longer than PATIENCE."""


def search(wanted: re.Pattern[str], text: str) -> bool:
    """Whether the expression is found. Raises TooSlow."""
    with bounded(PATIENCE):
        return wanted.search(text) is not None


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises TooSlow inside after PATIENCE. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    done = False

    def expired(_signal: int, _frame: object) -> None:
        if not done:
            raise TooSlow

    begun = time.monotonic()
    left, again = signal.setitimer(signal.ITIMER_REAL, 0)  # first: an outer timer must not ring at ours
    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
        done = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # an outer timer keeps its deadline, however often we search
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-6), again)
