"""Signals while things are put back: they wait until that is done.

The first SIGINT, SIGTERM or SIGHUP becomes an exception, so that every `finally` on the way puts the machine back. From then on, and
inside `putting_back`, a signal is noted only: an exception in the middle of a clean-up would leave the rest of it undone.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn

TERMINATED = 143
_IMPATIENT = 2  # signals that had to wait, from which on it is said what they wait for

_leaving = False  # an exception of ours is on its way, or the program has ended
_waiting: list[int] = []  # signals that came since they have to wait
_things: list[str] = []  # what is being put back, the outermost first


class putting_back:
    """A context manager around a clean-up: a signal that comes inside it is obeyed when the outermost one is left."""

    def __init__(self, thing: str) -> None:
        """`thing` is what would be left behind: "the breakpoints in the machine at :1234"."""
        self._thing = thing
        self._counts = False

    def __enter__(self) -> None:
        self._counts = threading.current_thread() is threading.main_thread()  # no other thread is interrupted by a signal
        if self._counts:
            _things.append(self._thing)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._counts:
            return
        _things.pop()
        if _waiting and not _things and not _leaving:
            number = _waiting[0]
            _waiting.clear()
            _leave(number)


def catch() -> None:
    """Install the handlers, where the signals are not ignored already (nohup)."""
    stay()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signalled)


def stay() -> None:
    """Whoever caught the exception goes on: the next signal counts again as the first."""
    global _leaving
    _leaving = False
    _waiting.clear()


def ended() -> None:
    """The program is at its end: no signal does anything any more, also while Python takes itself apart."""
    global _leaving
    _leaving = True
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _signalled:
            signal.signal(number, signal.SIG_IGN)


def interrupt() -> None:
    """Raise KeyboardInterrupt for a Ctrl-C that does not end the program; while something is put back, when that is done."""
    if _leaving or _things:
        _note(signal.SIGINT)
        return
    raise KeyboardInterrupt


def _signalled(number: int, _frame: FrameType | None) -> None:
    if _leaving or _things:
        _note(number)
        return
    _leave(number)


def _note(number: int) -> None:
    _waiting.append(number)
    if len(_waiting) >= _IMPATIENT:
        what = ", ".join(_things) or "what was begun"
        try:  # not by sys.stderr: the signal may have come while that was being written to
            os.write(2, f"pvhdbg: putting back {what}; if it were killed now, that would be left behind\n".encode())
        except OSError:
            pass


def _leave(number: int) -> NoReturn:
    global _leaving
    _leaving = True
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)
