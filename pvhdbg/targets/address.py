"""The address of a gdbstub as a user writes it: `:1234`, `host:1234`, `[::1]:1234`, `unix:PATH`, a socket's path."""

from __future__ import annotations

import os
import re
import stat

from pvhdbg.errors import BadInput
from pvhdbg.record import dataclass

_TCP = re.compile(r"(?:tcp:)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]*):(?P<port>\d{1,6})", re.ASCII)
_HELP = "give :1234, host:1234, unix:PATH, the path of a socket, or a kernel file"


@dataclass(frozen=True)
class StubAddress:
    """A TCP host and port, or the path of a unix socket."""

    host: str | None = None
    port: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        return f"{'' if host in (None, 'localhost') else host}:{self.port}"

    def for_gdb(self) -> str:
        """The rest of a line of GDB's that begins `target remote`, where nothing can be quoted. Raises BadInput.

        GDB takes what begins with "|" for a shell command, and what has a colon for a host (gdb/serial.c, serial_open): so a path is
        absolute, and one with a colon cannot be given. It cuts blanks off at the end.
        """
        if self.path is None:
            host = f"[{self.host}]" if self.host and ":" in self.host else self.host
            return f"{host or 'localhost'}:{self.port}"
        try:
            path = os.path.abspath(self.path)
        except OSError as error:
            raise BadInput(f"the working directory cannot be read: {error.strerror}", "change to a folder that exists") from error
        if not path.isprintable() or ":" in path or path != path.strip():
            raise BadInput(
                f"GDB cannot take the socket {path!r}", "use a path of printable characters without a colon, or leave GDB out"
            )
        return path


def parse_address(text: str) -> StubAddress:
    """Parse an address. Raises BadInput."""
    if text.startswith("unix:"):
        return _socket(text[5:].split(",", 1)[0])
    match = _TCP.fullmatch(text)
    if match is not None:
        port = int(match["port"])
        if not 1 <= port <= 65535:
            raise BadInput(f"{port} is not a TCP port", "ports are 1 to 65535; QEMU's -s is :1234")
        return StubAddress(match["host"].strip("[]") or "localhost", port)
    if _is_socket(text):
        return StubAddress(path=text)
    if os.path.isdir(text):
        raise BadInput(f"{text} is a directory", _HELP)
    if os.path.exists(text):
        raise BadInput(f"{text} is a file, not the address of a gdbstub", "start it with pvhdbg run, or judge it with pvhdbg check")
    raise BadInput(f"{text} is neither a file nor an address", _HELP)


def _socket(path: str) -> StubAddress:
    if not path:
        raise BadInput("unix: names no socket", _HELP)
    if os.path.exists(path) and not _is_socket(path):
        raise BadInput(f"{path} is not a socket", _HELP)
    return StubAddress(path=path)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
