"""A user's regular expression on a guest's words, in bounded time: some expressions take years on a line that was made for that.

Python's `re` looks for signals while it matches, so a timer ends it. That works in the main thread, where commands run.
"""

from __future__ import annotations

import re
import signal
import threading

PATIENCE = 0.25  # seconds for one search; a line takes microseconds


class TooSlow(Exception):
    """The expression did not get done in PATIENCE."""


def search(wanted: re.Pattern[str], text: str) -> bool:
    """Whether the expression is found. Raises TooSlow."""
    if threading.current_thread() is not threading.main_thread():
        return wanted.search(text) is not None

    def expired(_signal: int, _frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, expired)
    left, again = signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        return wanted.search(text) is not None
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, again)
        signal.signal(signal.SIGALRM, before)
