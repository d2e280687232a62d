"""A real QEMU behind a gdbstub with the limits of Firecracker's: what it answers is real, and what Firecracker's does not answer is left out.

It has general registers, `Z1`, `s`, `c` and `m`: no control registers (selectors read 0), no monitor, no target description. Its first stop
is the guest's entry, and the machine ends when the debugger leaves.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from select import select
from types import TracebackType

from pvhdbg.rsp.packets import INTERRUPT, Packet, PacketReader, frame
from tests.support.cli_runner import HELLO_ENTRY

_PASSED = (b"?", b"g", b"m", b"s", b"c", b"k", b"Z1,", b"z1,", b"H")
_GENERAL = 17 * 8 + 4  # bytes of QEMU's g packet before the selectors: rax to r15, rip, eflags
_REST = 6 * 4 + 8 * 10 + 8 * 4 + 16 * 16 + 4  # selectors, x87, SSE, MXCSR: zeros
_TIME = 20.0  # seconds until QEMU's firmware has come to the entry


class _Peer:
    """One end of a connection that speaks packets."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._reader = PacketReader()

    def send(self, data: bytes) -> None:
        self.socket.sendall(frame(data))

    def packets(self) -> list[bytes] | None:
        """What has arrived, acknowledged; None at the end of the connection."""
        data = self.socket.recv(1 << 16)
        if not data:
            return None
        if data.endswith(INTERRUPT):
            data = data.removesuffix(INTERRUPT)
            interrupts = [INTERRUPT]
        else:
            interrupts = []
        found = [one.data for one in self._reader.feed(data) if isinstance(one, Packet)]
        self.socket.sendall(b"+" * len(found))
        return found + interrupts

    def one(self) -> bytes:
        while True:
            found = self.packets()
            if found is None:
                raise ConnectionError("QEMU closed the connection")
            if found:
                return found[0]

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.one()


class LimitedStub:
    """A context manager: `stub` is the unix socket of a QEMU's gdbstub, `address` that of the limited one, which is at `entry` already.

    `requests` are those that were passed on.
    """

    def __init__(self, stub: str, folder: Path, entry: int = HELLO_ENTRY) -> None:
        self.address = str(folder / "limited")
        self.requests: list[bytes] = []
        self._waiting: deque[bytes] = deque()  # requests without an answer: a machine that runs has one
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(_TIME)
        end.connect(stub)
        self._machine = _Peer(end)
        self._run_to(entry)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> LimitedStub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # in case that no client came
        self._thread.join(_TIME)  # QEMU is told to end before its socket is closed
        self._listener.close()
        self._machine.socket.close()

    def _run_to(self, entry: int) -> None:
        machine = self._machine
        assert machine.ask(b"qSupported").startswith(b"PacketSize")
        assert machine.ask(b"Z1,%x,1" % entry) == b"OK"
        assert machine.ask(b"c").startswith(b"T05")
        assert machine.ask(b"z1,%x,1" % entry) == b"OK"

    def _serve(self) -> None:
        try:
            client = _Peer(self._listener.accept()[0])
            with client.socket, suppress(OSError):  # it may leave without reading all answers
                self._relay(client)
            if self._waiting:
                self._machine.socket.sendall(INTERRUPT)  # QEMU: a running machine takes a packet's first byte for that
                self._machine.one()
            self._machine.send(b"k")
            while self._machine.packets() is not None:
                pass  # a QEMU whose client closes first does not read what that sent before
        except OSError:
            pass  # the test has ended, or QEMU

    def _relay(self, client: _Peer) -> None:
        machine, waiting = self._machine, self._waiting
        while True:
            ready, _, _ = select([client.socket, machine.socket], [], [])
            if client.socket in ready:
                requests = client.packets()
                if requests is None:
                    return
                for request in requests:
                    self._take(request, client, waiting)
            if machine.socket in ready:
                replies = machine.packets()
                if replies is None:
                    return
                for reply in replies:
                    asked = waiting.popleft() if waiting else b""
                    client.send(_general(reply) if asked == b"g" else reply)

    def _take(self, request: bytes, client: _Peer, waiting: deque[bytes]) -> None:
        if request == INTERRUPT:
            self._machine.socket.sendall(request)
        elif request.startswith(b"qSupported"):
            client.send(b"PacketSize=1000")
        elif request == b"D":
            client.send(b"OK")
        elif request.startswith(_PASSED):
            self.requests.append(request)
            waiting.append(request)
            self._machine.send(request)
        else:
            client.send(b"")


def _general(packet: bytes) -> bytes:
    """QEMU's g packet as Firecracker's stub would send it."""
    return packet[: 2 * _GENERAL] + b"00" * _REST
