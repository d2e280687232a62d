"""A minimal client of QEMU's machine protocol: one command and its reply, and the event that says why the guest ended.

Enough to read the version, to know that QEMU is up and how the guest ended, and to end QEMU. Lines and waits are bounded.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import ProtocolError, TargetError, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.model import GuestEnd

_BY_REASON = {one.value: one for one in (GuestEnd.SHUTDOWN, GuestEnd.RESET, GuestEnd.PANIC)}
_ENDING_ACTIONS = ("reset", "shutdown", "poweroff", "pause")  # of a watchdog that expired (qapi/run-state.json, WatchdogAction)
LONGEST_LINE = 1 << 20  # bytes; the longest reply in use is under 1 kB


class Qmp:
    """A connection in command mode. `version` is QEMU's, from its greeting: "7.2.22 (Debian 1:7.2+dfsg-7)"."""

    def __init__(self, path: str, timeout: float = 5.0) -> None:
        """Connect to the unix socket `path`. Raises OSError if nothing listens there, TargetErrors from then on."""
        self.version = ""
        self.ended: GuestEnd | None = None  # None: QEMU reported no end
        self._timeout = timeout
        self._received = b""
        self._next_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            greeting = self._message(time.monotonic() + timeout)
            self.version = version_text(greeting)
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns for `command`. Raises VmmFailed if QEMU refuses it, TargetLost if QEMU is gone."""
        self._next_id += 1
        request = {"execute": command, "arguments": arguments, "id": self._next_id}
        deadline = time.monotonic() + self._timeout
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise TargetTimeout(f"QEMU did not take {command} within {self._timeout:g} s") from None
        except OSError as exc:
            raise TargetLost(f"QEMU closed its control socket: {exc.strerror}") from exc
        while True:
            reply = self._message(deadline)
            if reply.get("id") != self._next_id:
                self._event(reply)
                continue
            if "return" in reply:
                return reply["return"]
            error = reply.get("error")
            why = error.get("desc", "") if isinstance(error, dict) else error
            raise VmmFailed(f"QEMU refused {command}: {shorten(safe(str(why)), 300)}")

    def registers(self) -> str:
        """What `info registers` of the monitor shows of the first CPU, also while it runs; "" where QEMU does not answer."""
        with suppress(TargetError):
            return str(self.execute("human-monitor-command", **{"command-line": "info registers"})).replace("\r", "")
        return ""

    def why_ended(self) -> GuestEnd | None:
        """`ended`, after reading the pending events."""
        with suppress(TargetError):  # it may be gone, with unread events
            self.execute("query-status")
        return self.ended

    def _event(self, message: dict[str, Any]) -> None:
        data = message.get("data")
        reason = data.get("reason") if isinstance(data, dict) else None
        if message.get("event") == "GUEST_PANICKED":
            self.ended = GuestEnd.PANIC
        elif message.get("event") == "WATCHDOG" and isinstance(data, dict) and data.get("action") in _ENDING_ACTIONS:
            self.ended = GuestEnd.WATCHDOG
        elif message.get("event") == "SHUTDOWN" and self.ended is None and isinstance(reason, str):
            self.ended = _BY_REASON.get(reason, GuestEnd.OTHER)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            if len(self._received) > LONGEST_LINE:
                raise ProtocolError(f"QEMU sent a line of over {LONGEST_LINE} bytes on its control socket")
            self._received += self._receive(deadline)
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ProtocolError(f"QEMU sent on its control socket: {shorten(safe(line), 80)}")
        return message

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
        except TimeoutError:
            raise TargetTimeout(f"QEMU did not answer on its control socket within {self._timeout:g} s") from None
        except OSError as exc:
            raise TargetLost(f"QEMU closed its control socket: {exc.strerror}") from exc
        if not data:
            raise TargetLost("QEMU closed its control socket")
        return data


def version_text(greeting: dict[str, Any]) -> str:
    """The version in a QMP greeting: "7.2.22", with the package in brackets where there is one. Raises ProtocolError."""
    try:
        version = greeting["QMP"]["version"]
        numbers = version["qemu"]
        text = ".".join(str(int(numbers[part])) for part in ("major", "minor", "micro"))
        package = shorten(safe(str(version.get("package") or "")), 100)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ProtocolError("QEMU's control socket did not greet with a version") from None
    return f"{text} ({package})" if package else text
