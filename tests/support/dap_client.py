"""A client of the Debug Adapter Protocol, as an editor has one: requests and their answers, and the events between them."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

_SECONDS = 40.0  # for one message


class DapClient:
    """A debug adapter as a process. It ends with the context."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._arrived: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.messages: list[dict[str, Any]] = []
        self._sent = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> DapClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while head := stream.readline():
            if head.lower().startswith(b"content-length:"):
                stream.readline()
                self._arrived.put(json.loads(stream.read(int(head.split(b":")[1]))))
        self._arrived.put(None)

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request; returns its number."""
        self._sent += 1
        text = json.dumps({"seq": self._sent, "type": "request", "command": command, "arguments": arguments}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        self._process.stdin.flush()
        return self._sent

    def wait(self, **wanted: Any) -> dict[str, Any]:
        """The first message, of those that were not taken yet, that has these fields. Fails when none comes in time."""
        while True:
            for message in self.messages:
                if all(message.get(name) == value for name, value in wanted.items()):
                    self.messages.remove(message)
                    return message
            arrived = self._arrived.get(timeout=_SECONDS)
            assert arrived is not None, f"the adapter ended before {wanted}: {self.messages}"
            self.messages.append(arrived)

    def answer(self, number: int) -> dict[str, Any]:
        """The body of the answer to a request; the test fails where that was refused."""
        found = self.wait(type="response", request_seq=number)
        assert found["success"], found
        body: dict[str, Any] = found.get("body") or {}
        return body

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return self.answer(self.send(command, **arguments))
