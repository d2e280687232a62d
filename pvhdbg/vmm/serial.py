"""A guest's output on COM1, line by line. The guest is not trusted: the length of lines and of each read is bounded."""

from __future__ import annotations

from pathlib import Path

from pvhdbg.decode.text import SafeText, safe

LONGEST = 400  # bytes of a line that are kept
AT_ONCE = 1 << 18  # bytes


class SerialLines:
    """The lines that are added to a file from now on, or from its beginning, each returned once."""

    def __init__(self, path: Path, *, from_now: bool = False) -> None:
        self._path = path
        self._rest = b""
        self._at = 0
        if from_now:
            self._at = path.stat().st_size if path.exists() else 0

    def read(self) -> list[SafeText]:
        """The lines completed since the last call, as safe text; at most AT_ONCE bytes of them."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read(AT_ONCE)
        except OSError:
            return []
        self._at += len(data)
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LONGEST]
        return [_text(line) for line in whole]

    def unfinished(self) -> SafeText:
        """The text after the last line end."""
        return _text(self._rest)


def _text(line: bytes) -> SafeText:
    return safe(line[:LONGEST].rstrip(b"\r"))
