"""Decode a stub's replies: stop replies, supported features, errors, hexadecimal data."""

from __future__ import annotations

import re
from functools import lru_cache

from pvhdbg.errors import ProtocolError
from pvhdbg.record import NamedTuple

_THREAD = re.compile(rb"thread:(p?[0-9a-fA-F.]{1,32}|p?-1);")
_WATCH = re.compile(rb"(r|a)?watch:([0-9a-fA-F]{1,16});")
_STOP = re.compile(rb"(?:T[0-9a-f]{2}|S[0-9a-f]{2}$|[WX][0-9a-f]{2}(?:;process:[0-9a-f]+)?$)")
_SIGNALS = {2: "interrupted", 3: "shut down", 5: "trap", 6: "internal error of the VMM"}


class StopReply(NamedTuple):
    """A stop reply. `kind` is T or S (stopped by `number`, a GDB signal), W (exited with status), X (killed by signal)."""

    kind: str
    number: int
    thread: str | None = None
    watch: int | None = None
    watched_for: str = ""  # "r" a load, "a" any access, "" a store

    @property
    def words(self) -> str:
        if self.kind == "W":
            return f"the VMM exited with status {self.number}"
        if self.kind == "X":
            return f"the VMM was killed by signal {self.number}"
        return _SIGNALS.get(self.number, f"signal {self.number}")


def is_stop(data: bytes) -> bool:
    """Whether the packet is a stop reply, which a stub may also send without a request."""
    return _STOP.match(data) is not None


@lru_cache(maxsize=8)  # each step gets the same reply
def stop_reply(data: bytes) -> StopReply:
    """Decode a stop reply. Raises ProtocolError for anything else."""
    if not is_stop(data):
        raise ProtocolError(f"the stub answered {data[:40]!r} instead of a stop reply", "start the VMM again")
    thread, watch = _THREAD.search(data), _WATCH.search(data)
    return StopReply(
        chr(data[0]),
        int(data[1:3], 16),
        thread[1].decode() if thread else None,
        int(watch[2], 16) if watch else None,
        (watch[1] or b"").decode() if watch else "",
    )


def error_code(data: bytes) -> int | None:
    """N of an `ENN` reply; None for any other."""
    return int(data[1:], 16) if re.fullmatch(rb"E[0-9a-fA-F]{2}", data) else None


def features(data: bytes) -> dict[str, str]:
    """The answer to qSupported: feature names with their values, "+" for a supported feature without a value."""
    found = {}
    for word in data.split(b";")[:256]:
        text = word.decode("ascii", "replace")
        if "=" in text:
            name, value = text.split("=", 1)
            found[name] = value
        elif text.endswith("+"):
            found[text[:-1]] = "+"
    return found


def unhex(data: bytes, expected: int | None = None) -> bytes:
    """Hexadecimal digits as bytes. Raises ProtocolError for other characters, or if there are not `expected` bytes."""
    try:
        value = bytes.fromhex(data.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        raise ProtocolError(f"the stub answered {data[:40]!r} instead of hexadecimal data", "start the VMM again") from None
    if expected is not None and len(value) != expected:
        raise ProtocolError(f"the stub answered {len(value)} bytes instead of {expected}", "start the VMM again")
    return value
