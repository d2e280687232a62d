"""What a guest writes to COM1, line by line as it comes. The guest is a stranger: lines are cut, and so is what is read at once."""

from __future__ import annotations

from pathlib import Path

from pvhdbg.decode.text import safe

LONGEST = 400  # bytes of a line that are looked at
AT_ONCE = 1 << 18  # bytes


class SerialLines:
    """The lines that are added to a file from now on, or from its beginning, each given once."""

    def __init__(self, path: Path, *, from_now: bool = False) -> None:
        self._path = path
        self._rest = b""
        self._at = 0
        if from_now:
            self._at = path.stat().st_size if path.exists() else 0

    def read(self) -> list[str]:
        """The lines that were ended since the last call, as safe text; of a flood, as many as AT_ONCE bytes hold."""
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

    def unfinished(self) -> str:
        """What stands behind the last line's end."""
        return _text(self._rest)


def _text(line: bytes) -> str:
    return safe(line[:LONGEST].rstrip(b"\r"))
