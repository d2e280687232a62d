"""Shows what the program waits for, once that takes longer than a second: a live line on a terminal, one plain line elsewhere.

With -v each step is told when it is over, with its time; with -q nothing is.
"""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType
from typing import TextIO

from pvhdbg.commands.options import Detail
from pvhdbg.commands.output import terminal_width
from pvhdbg.decode.text import printable

_PATIENCE = 1.0  # seconds before a wait is reported
_TICK = 0.5
_SHORT = 160  # characters of a line outside of a terminal
_LONGEST = 1000  # characters of a step


class ProgressLine:
    """A context manager that is also the `progress` function: call it with what the program waits for, and how far it is after a colon.

    `working` is what a terminal shows of a wait that nothing was said about.
    """

    def __init__(self, stream: TextIO, detail: Detail = Detail.USUAL, working: str = "") -> None:
        self._stream = stream
        self._detail = detail
        self._live = stream.isatty()
        self._working = self._text = working
        self._began = self._since = time.monotonic()
        self._shown = ""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ProgressLine:
        if self._working:
            self._begin_to_watch()
        return self

    def __call__(self, text: str) -> None:
        if _stage(text) != _stage(self._text):
            self._tell_step()
            self._since = time.monotonic()
        self._text = text
        self._begin_to_watch()

    def _begin_to_watch(self) -> None:
        if self._thread is None and self._detail is not Detail.RESULT:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # GDB's handlers are for its own thread
            try:
                self._thread.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._live and self._shown:
            self._write("\r\x1b[K")
        self._tell_step()
        if self._detail is Detail.STEPS:
            self._write(f"pvhdbg: {time.monotonic() - self._began:6.2f} s  in all\n")

    def _tell_step(self) -> None:
        """With -v: the step that is over, and its time."""
        if self._detail is Detail.STEPS and self._text != self._working:
            erased = "\r\x1b[K" if self._live and self._shown else ""
            self._write(f"{erased}pvhdbg: {time.monotonic() - self._since:6.2f} s  {printable(self._text)[:_LONGEST]}\n")

    def _watch(self) -> None:
        while not self._done.wait(_TICK):
            waited = time.monotonic() - self._since
            if waited < _PATIENCE:
                continue
            text = printable(self._text)
            if self._live:
                line = f"{text} … {waited:.0f} s"
                room = terminal_width() - 1
                self._write(f"\r\x1b[K{line if len(line) <= room else f'{_stage(text)} … {waited:.0f} s'[:room]}")
            elif self._detail is Detail.USUAL and self._text != self._working and _stage(self._shown) != _stage(text):
                self._write(f"pvhdbg: {text if len(text) <= _SHORT else _stage(text)}\n")
            self._shown = text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # standard error was closed
            self._done.set()


def _stage(text: str) -> str:
    return text.partition(":")[0]
