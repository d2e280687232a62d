"""What the answers of GDB's machine interface mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pvhdbg.errors import MemoryUnreadable, ProtocolError
from pvhdbg.targets.target import Stop, StopKind

_SIGNALS = {"SIGTRAP": 5, "SIGINT": 2, "SIGQUIT": 3, "SIGABRT": 6, "0": 0}


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Around the reading of an answer. Raises ProtocolError where the answer is not shaped as the interface says."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ProtocolError(f"GDB's answer holds no {what} that can be read", "start over, or leave --via gdb out") from None


def contents_of(payload: dict[str, Any], address: int, size: int) -> bytes:
    """The bytes of -data-read-memory-bytes, which may be given in part. Raises MemoryUnreadable for what is missing."""
    data = b""
    with readable("memory"):
        for block in payload.get("memory", []):
            if int(str(block["begin"]), 16) == address + len(data):
                data += bytes.fromhex(str(block["contents"]))
    if len(data) < size:
        raise MemoryUnreadable(address + len(data), size - len(data), "GDB read a part only")
    return data[:size]


def stop_of_record(payload: dict[str, Any]) -> Stop:
    """The stop that the payload of a *stopped record describes."""
    reason, signal = str(payload.get("reason", "")), str(payload.get("signal-name", ""))
    if reason.startswith("exited"):
        return Stop(StopKind.EXITED, 0, "the VMM exited")
    if reason == "signal-received":
        number = _SIGNALS.get(signal, 0)
        kinds = {2: StopKind.INTERRUPT, 0: StopKind.INTERRUPT, 3: StopKind.SHUTDOWN, 5: StopKind.BREAKPOINT}
        words = "the guest shut down or triple-faulted" if number == 3 else signal
        return Stop(kinds.get(number, StopKind.ERROR), number, words)
    return Stop(StopKind.BREAKPOINT, 5, reason or "stopped")
