"""A time limit for reading untrusted files with a third-party parser."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pvhdbg.errors import BadInput


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises BadInput inside after `seconds`. Without effect outside the main thread, or where SIGALRM has another handler."""
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    if not free:
        yield
        return

    def over(_signal: int, _frame: object) -> NoReturn:
        raise BadInput(
            f"reading the debug info timed out after {seconds:g} s",
            "it may be damaged: strip it, or build the kernel again",
        )

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
