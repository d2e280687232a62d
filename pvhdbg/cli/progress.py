"""Shows what the program waits for, once that takes longer than a second: a live line on a terminal, one plain line elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TextIO

from pvhdbg.decode.text import printable

_PATIENCE = 1.0  # seconds before a wait is reported
_TICK = 0.5


class ProgressLine:
    """A context manager that is also the `progress` function: call it with what the program waits for, and how far it is after a colon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._text = ""
        self._since = time.monotonic()
        self._shown = ""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ProgressLine:
        return self

    def __call__(self, text: str) -> None:
        if _stage(text) != _stage(self._text):
            self._since = time.monotonic()
        self._text = text
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._live and self._shown:
            self._write("\r\x1b[K")

    def _watch(self) -> None:
        while not self._done.wait(_TICK):
            waited = time.monotonic() - self._since
            if waited < _PATIENCE:
                continue
            text = printable(self._text)
            if self._live:
                self._write(f"\r\x1b[K{text} … {waited:.0f} s")
            elif _stage(self._shown) != _stage(text):
                self._write(f"pvhdbg: {text}\n")
            self._shown = text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # standard error was closed
            self._done.set()


def _stage(text: str) -> str:
    return text.partition(":")[0]
