"""A guest's output on COM1 as escaped lines, at a limited rate."""

from __future__ import annotations

import time
from pathlib import Path

from pvhdbg.decode.text import SafeText, own_line, safe, shorten

_RATE = 400  # lines a second
_WIDTH = 400  # characters of a line
_PIECE = 1 << 20  # bytes that are read at once


class Follower:
    """Follows a log that a VMM writes, from the byte `start` on. Lines beyond `rate` a second are counted, not shown."""

    def __init__(self, path: Path, rate: int = _RATE, start: int = 0) -> None:
        self._path, self._rate = path, rate
        self._offset = start
        self._partial = b""
        self._allowance = float(rate)
        self._since = time.monotonic()
        self._left_out = 0

    def on(self, path: Path) -> Follower:
        """One for the log of another machine that runs the same boot: what was shown is not shown again, nor what comes before its place."""
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        return Follower(path, self._rate, min(self._offset - len(self._partial), size))

    def lines(self, whole: bool = False) -> list[SafeText]:
        """The lines since the last call; with `whole` also a line that has not ended yet."""
        data = self._partial + self._read()
        *lines, self._partial = data.split(b"\n")
        if len(self._partial) > _PIECE or (whole and self._partial):
            lines.append(self._partial)
            self._partial = b""
        return self._limited(lines, whole)

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read(_PIECE)
        except OSError:  # the VMM is gone, and its folder with it
            return b""
        self._offset += len(data)
        return data

    def _limited(self, lines: list[bytes], whole: bool) -> list[SafeText]:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._since) * self._rate, self._rate)
        self._since = now
        shown = lines[: int(self._allowance)]
        self._allowance -= len(shown)
        self._left_out += len(lines) - len(shown)
        found = [own_line(shorten(safe(line.rstrip(b"\r").expandtabs()), _WIDTH)) for line in shown]
        if self._left_out and (found or whole):
            found.append(SafeText(f"… {self._left_out} more lines than can be shown at once"))
            self._left_out = 0
        return found
