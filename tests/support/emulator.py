"""A program at a true terminal: keys go in, and a terminal emulator says what somebody would see."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import pyte

from tests.support.pseudo_terminal import openpty

PROMPT = "(pvh) "
ROWS, COLUMNS = 300, 130  # so many rows that nothing scrolls away


class _Screen(pyte.Screen):
    """Answers what a program asks its terminal, as terminals do."""

    def __init__(self, columns: int, rows: int, answer: Callable[[bytes], None]) -> None:
        super().__init__(columns, rows)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data.encode())


class Terminal:
    """A context manager around one program."""

    def __init__(self, words: Sequence[str], env: dict[str, str], cwd: str, *, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self._ours, its = openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # setsid makes it the controlling terminal, whose Ctrl-C is a signal; a fork of our own would be one beside threads.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *words], stdin=its, stdout=its, stderr=its, env={**env, "TERM": "xterm-256color"}, cwd=cwd
        )
        os.close(its)
        self._screen = _Screen(columns, rows, self._answer)
        self._stream = pyte.ByteStream(self._screen)
        self._row = 0  # from here on it was not looked at

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.close(self._ours)

    def press(self, keys: str) -> None:
        self._answer(keys.encode())

    def _answer(self, data: bytes) -> None:
        os.write(self._ours, data)

    def rows(self) -> list[str]:
        """The screen."""
        return [str(row).rstrip() for row in self._screen.display]

    def text(self) -> str:
        """The screen without its empty end and the toolbar."""
        return "\n".join(self.rows()[: self._screen.cursor.y + 1])

    @property
    def toolbar(self) -> str:
        """What is below the line that is being edited."""
        return "\n".join(row for row in self.rows()[self._screen.cursor.y + 1 :] if row)

    def wait(self, true: Callable[[], object], what: str, within: float = 20.0) -> None:
        """Take in what is printed until `true()`."""
        deadline = time.monotonic() + within
        while not true():
            assert time.monotonic() < deadline, f"{what} does not come:\n{self.text()}\n[{self.toolbar}]"
            if self._closed_within(0.05):  # it is about to end
                self.process.wait(5)
                assert true(), f"it ended, and {what} did not come:\n{self.text()}"

    def _closed_within(self, seconds: float) -> bool:
        """Take in what is printed within that time. Returns whether nobody is at the other end any more."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:
            return True
        self._stream.feed(data)
        return not data

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as before a program changed its mode."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ECHO)

    def until(self, text: str, within: float = 20.0) -> None:
        """Wait until `text` stands on the screen, at the last prompt or below it."""
        self.wait(lambda: text in "\n".join(self.rows()[max(self._row - 1, 0) :]), repr(text), within)

    def prompt(self, within: float = 20.0) -> str:
        """Wait for the next prompt; returns what stands between the last one and it."""
        self.wait(self._at_prompt, "the prompt", within)
        found = "\n".join(self.rows()[self._row : self._screen.cursor.y])
        self._row = self._screen.cursor.y + 1
        return found

    def _at_prompt(self) -> bool:
        cursor = self._screen.cursor
        return bool(cursor.y >= self._row and cursor.x == len(PROMPT) and self.rows()[cursor.y] == PROMPT.rstrip())

    def enter(self, line: str, within: float = 20.0) -> str:
        """Type a line; returns what it printed, once there is a prompt again."""
        self.press(f"{line}\r")
        return self.prompt(within)

    def ended(self, within: float = 10.0) -> int:
        """Wait for its end, and take in the rest of what it printed; returns the exit code."""
        self.wait(lambda: self.process.poll() is not None, "the end", within)
        while select.select([self._ours], [], [], 0)[0] and not self._closed_within(0):
            pass
        return self.process.wait()
