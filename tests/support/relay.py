"""Sits between a client and a real stub on unix sockets, and does something at the moment when the client sends certain bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class Relay:
    """A context manager. `when(data)` is called with each piece that the client sends, before it is passed on.

    What `when` returns is passed on in its place; `back` is the same for what the stub sends.
    """

    def __init__(
        self, stub: str, folder: Path, when: Callable[[bytes], bytes], back: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        self.address = str(folder / "relay")
        self._stub, self._when, self._back = stub, when, back
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(4)
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(self._stub)
                answers = threading.Thread(target=_copy, args=(server, client, self._back), daemon=True)
                answers.start()
                _copy(client, server, self._when)
                answers.join(2)


def _copy(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(change(data))
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
