"""A user's regular expression on a guest's words, in bounded time: some expressions take years on a line that was made for that.

Python's `re` looks for signals while it matches, so a timer ends it. That works in the main thread, where commands run.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 0.25  # seconds for one search; a line takes microseconds


class TooSlow(Exception):
    """The expression did not get done in PATIENCE."""


def search(wanted: re.Pattern[str], text: str) -> bool:
    """Whether the expression is found. Raises TooSlow."""
    with bounded(PATIENCE):
        return wanted.search(text) is not None


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises TooSlow inside when that is over. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    done = False

    def expired(_signal: int, _frame: object) -> None:
        if not done:
            raise TooSlow

    before = signal.signal(signal.SIGALRM, expired)
    begun = time.monotonic()
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
        done = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # what somebody else waits for is not put off, however often it is searched
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-6), again)
