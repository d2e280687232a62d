"""Signals during a clean-up: they are deferred until it is done.

The first SIGINT, SIGTERM or SIGHUP becomes an exception, so that every `finally` restores the machine. From then on, and
inside `putting_back`, a signal is only noted: an exception in the middle of a clean-up would leave the rest of it undone.

Python drops an exception that is raised inside a destructor or a callback of a weak reference, where a signal may arrive like
anywhere else. The signal is then sent again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

TERMINATED = 143
_MOMENT = 0.001  # seconds after which a signal is sent again
_IMPATIENT = 2  # from this deferred signal on, a message says what is being put back

_leaving = False  # an exception of ours is on its way, or the program has ended
_raised: BaseException | None = None  # that exception
_dropping = False  # Python drops that exception
_report = sys.unraisablehook  # what reports other exceptions that Python drops
_waiting: list[int] = []  # the deferred signals
_things: list[str] = []  # what is being put back, the outermost first


@contextmanager
def blocked(signals: Iterable[int] | None = None) -> Iterator[None]:
    """This thread handles none of these signals meanwhile, and a thread that it starts never does; all of them by default.

    A debugger whose handlers are for its own thread misses Ctrl-C where a thread of ours handles it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() if signals is None else signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class putting_back:
    """A context manager around a clean-up: a signal inside it takes effect when the outermost one ends."""

    def __init__(self, thing: str) -> None:
        """`thing` names what an interrupted clean-up would leave behind: "the breakpoints in the machine at :1234"."""
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
    global _report
    stay()
    if threading.current_thread() is not threading.main_thread():
        return
    if sys.unraisablehook is not _dropped:
        _report, sys.unraisablehook = sys.unraisablehook, _dropped
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signalled)


def stay() -> None:
    """The exception was caught and the program goes on: the next signal counts as the first again."""
    global _leaving
    _leaving = False
    _waiting.clear()


def ended() -> None:
    """The program ends: signals have no effect any more, not even while the interpreter shuts down."""
    global _leaving
    _leaving = True
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _signalled:
            signal.signal(number, signal.SIG_IGN)


def interrupt() -> None:
    """Raise KeyboardInterrupt for a Ctrl-C that does not end the program; during a clean-up, after it."""
    if _leaving or _things:
        _note(signal.SIGINT)
        return
    raise KeyboardInterrupt


def _signalled(number: int, _frame: FrameType | None) -> None:
    if _dropping:
        _later(number)
        return
    if _leaving or _things:
        _note(number)
        return
    _leave(number)


def _note(number: int) -> None:
    _waiting.append(number)
    if len(_waiting) >= _IMPATIENT:
        what = ", ".join(_things) or "the machine"
        try:  # not through sys.stderr: the signal may have interrupted a write to it
            os.write(2, f"pvhdbg: putting back {what}; killing pvhdbg now would leave that behind\n".encode())
        except OSError:
            pass


def _leave(number: int) -> NoReturn:
    global _leaving, _raised
    _leaving = True
    _raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED)
    raise _raised


def _dropped(dropped: UnraisableHookArgs) -> None:
    """Python drops an exception. If it is ours, its signal has had no effect: it is sent again, when this function has ended."""
    global _leaving, _dropping
    if dropped.exc_value is None or dropped.exc_value is not _raised:
        _report(dropped)
        return
    _dropping = True  # an exception in here would be dropped as well
    _leaving = False
    _later(signal.SIGINT if isinstance(_raised, KeyboardInterrupt) else signal.SIGTERM)
    _dropping = False


def _later(number: int) -> None:
    def send() -> None:
        time.sleep(_MOMENT)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())
