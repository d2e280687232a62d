"""A program at a true terminal, for tests that type."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from types import TracebackType

from tests.support.pseudo_terminal import openpty

# What a terminal does not show: colours, cursor movements, titles.
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>()][A-Z0-9]?|\r")


class Terminal:
    """Types into `words` and reads what they print, without what steers a terminal."""

    def __init__(self, *words: str, env: dict[str, str] | None = None) -> None:
        self._terminal, its = openpty()
        # setsid makes it the controlling terminal, whose Ctrl-C is a signal; a fork of our own would be one beside threads.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200", "LINES": "50", **(env or {})},
        )
        os.close(its)
        self._seen = ""

    def until(self, text: str, within: float = 20.0) -> str:
        """What is printed until `text` is, with it."""
        deadline = time.monotonic() + within
        while text not in self._seen:
            assert time.monotonic() < deadline, f"{text!r} does not come after:\n{self._seen}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    data = os.read(self._terminal, 1 << 16)
                except OSError:
                    data = b""
                assert data, f"it ended, and {text!r} did not come after:\n{self._seen}"
                self._seen = _STEERING.sub("", self._seen + data.decode(errors="replace"))
        found, _, self._seen = self._seen.partition(text)
        return found + text

    def enter(self, keys: str, until: str) -> str:
        self.press(keys)
        return self.until(until)

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def leave(self, key: str, within: float = 10.0) -> int:
        """The exit code, after pressing `key` until it ends: at a prompt that is not quite ready, the terminal takes the first."""
        deadline = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self._seen}"
            self.press(key)
            while select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    self._seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
                except OSError:  # its other end is closed
                    break
        return self.process.wait()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)
