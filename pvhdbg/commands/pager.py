"""A pager for an answer that is longer than the terminal: $PAGER, or `less -FRX`.

It is used at a terminal only. Ctrl-C is the pager's while it runs. One that ends early, or is not installed, changes nothing but what is
shown, and the terminal is left as it was also where the pager is killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_USUAL = "less"
_LESS = "FRX"  # end at once where all fits, keep colours, leave the text on the screen
_OFF = ("", "cat")
_PARTING = 1.0  # seconds that a pager gets to end


def paged(text: str) -> bool:
    """Show the text in the pager; False where there is none, and the caller shows it by itself."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        words = shlex.split(os.environ.get("PAGER", _USUAL))
    except ValueError:  # an open quotation mark
        return False
    if not words or words[0] in _OFF or shutil.which(words[0]) is None:
        return False
    if threading.current_thread() is not threading.main_thread() or not sys.stdin.isatty():
        return False
    with _terminal_kept(), _without_interrupts():
        return _shown(words, text)


def _shown(words: list[str], text: str) -> bool:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        pager = subprocess.Popen(words, stdin=subprocess.PIPE, env={**os.environ, "LESS": os.environ.get("LESS", _LESS)})
    except OSError:
        return False
    assert pager.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it ended before it had read all
            pager.stdin.write(text.encode(encoding, "replace"))
        with suppress(BrokenPipeError):
            pager.stdin.close()
        pager.wait()
    finally:
        if pager.poll() is None:  # we are told to end
            pager.terminate()
            with suppress(subprocess.TimeoutExpired):
                pager.wait(_PARTING)
            pager.kill()
            pager.wait()
    return True


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C goes to every program at the terminal: here it does nothing. A program that is started gets the usual handler."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the terminal's mode back: a pager that is killed leaves it without echo."""
    mode: list[Any] | None = None
    with suppress(termios.error, OSError):
        mode = termios.tcgetattr(0)
    try:
        yield
    finally:
        if mode is not None:
            with suppress(termios.error, OSError):
                termios.tcsetattr(0, termios.TCSADRAIN, mode)
