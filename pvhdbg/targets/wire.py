"""A connection to a gdbstub: one request, one reply; several at once only to a QEMU whose machine stands still.

A byte that arrives while the guest runs stops it (QEMU), so nothing is sent ahead then. Unsolicited stop replies
(QEMU up to 8.0 sends one whenever the machine stops) are stored and never taken for the answer to a request.
"""

from __future__ import annotations

import errno
import select
import shlex
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from pvhdbg.errors import ProtocolError, TargetLost, TargetTimeout
from pvhdbg.rsp.packets import INTERRUPT, Acknowledgement, Packet, PacketReader, frame
from pvhdbg.rsp.replies import is_stop
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.peer import peer_of

_CHUNK = 1 << 16
_RETRIES = 3
_SLICE = 1.0  # seconds that one read waits in the kernel: a longer wait repeats this one system call
_STOPS = 64  # unsolicited stop replies that are kept, the last ones
_LEFT = 64  # reads of unsolicited data, after which the peer counts as one that never ends
_PATIENCE = 1.0  # seconds for a stub's first answer, before we probe whether it is one
_SHORT = 0.3  # seconds for a peer that was silent before
_RUNS = (b"c", b"s", b"vCont;", b"k")  # requests that are answered when the machine stops, if ever


class Wire:
    """A connected socket that speaks packets. Every method raises TargetError only."""

    def __init__(self, address: StubAddress, timeout: float, progress: Callable[[str], None]) -> None:
        """Connect. Raises TargetLost when nothing listens, TargetTimeout when the connection is not established in time."""
        self.name = str(address)
        self.stops: deque[bytes] = deque(maxlen=_STOPS)  # unsolicited stop replies
        self._reader = PacketReader()
        self._packets: deque[bytes] = deque()
        self._sent = b""
        self._more = False  # the next answer is acknowledged with the next request
        self._owed = b""
        self._unanswered: list[bytes] = []  # requests whose answer may still come: the wait for it was interrupted, or timed out
        self._silent = False
        self._repeats = True  # a lost packet can be sent again
        self.heard = False  # anything
        self.blind = (
            False  # what is sent from now on is not answered for: the peer is silent, and is told how to leave all the same
        )
        progress(f"connecting to {self.name}")
        self._socket = _connected(address, timeout)

    def request(self, data: bytes, timeout: float = 10.0, *, more: bool = False) -> bytes:
        """Send one packet and return its reply. `more` promises the next request at once: that takes the acknowledgement along."""
        self.send(data)
        if self.blind:
            return b"OK"
        self._more = more
        try:
            reply = self._reply(data, self.until(timeout))
        except TargetTimeout:
            self._silent = True
            raise
        finally:
            self._more = False
        self.answered()
        return reply

    def until(self, timeout: float) -> float:
        """The deadline of a wait. It is short for a peer that was silent before, so that a clean-up does not hang."""
        return time.monotonic() + (min(timeout, _SHORT) if self._silent else timeout)

    def silent(self) -> None:
        """A wait for an answer of this peer timed out or was interrupted."""
        self._silent = True

    def answered(self) -> None:
        """The answer to the last request has arrived completely."""
        self._unanswered.clear()
        self._silent = False

    def together(self, requests: Sequence[bytes], timeout: float) -> list[bytes]:
        """The replies to some requests that are sent at once: for a machine that stands still, and a stub that reads on (QEMU).

        Nothing can be asked for again: QEMU would send its last packet, whichever was lost. So a damaged one is a ProtocolError.
        """
        self._settle()
        self._unanswered += requests
        self._sent = b"".join(map(frame, requests))
        self._repeats = False
        try:
            self._write_all()
            deadline = self.until(timeout)
            replies = [self._reply(one, deadline) for one in requests]
        except TargetTimeout:
            self._silent = True
            raise
        finally:
            self._repeats = True
        self.answered()
        return replies

    def greet(self, data: bytes, timeout: float) -> bytes:
        """The first request. A peer that stays silent is given an empty line, which makes other servers speak up."""
        self.send(data)
        try:
            reply = self._reply(data, time.monotonic() + min(timeout / 2, _PATIENCE))
        except TargetTimeout:
            self._write(b"\r\n\r\n")  # a stub ignores bytes that are not a packet
            try:
                reply = self._reply(data, time.monotonic() + max(timeout - _PATIENCE, timeout / 2))
            except TargetTimeout as error:
                error.todo += (
                    f". Its guest will be paused when that debugger leaves: pvhdbg release {shlex.quote(self.name)} lets it run on"
                )
                raise
        self._unanswered.clear()
        return reply

    def _reply(self, data: bytes, deadline: float) -> bytes:
        while True:
            reply = self.receive(deadline)
            if data.startswith((b"?", b"s", b"vCont")) or not is_stop(reply):
                return reply
            self.stops.append(reply)

    def send(self, data: bytes) -> None:
        """Send one packet, without waiting for its answer."""
        self._settle()
        if not data.startswith(_RUNS):
            self._unanswered.append(data)
        self._sent = frame(data)
        self._write_all()

    def _settle(self) -> None:
        """Read late answers to earlier requests that timed out: they are not the answer to the next one."""
        while self._unanswered and not self.blind:
            asked = self._unanswered.pop(0)
            deadline = self.until(_PATIENCE)
            try:
                reply = self._reply(asked, deadline)
                while asked.startswith(b"qRcmd") and reply.startswith(b"O") and reply != b"OK":
                    reply = self._reply(asked, deadline)
            except TargetTimeout:
                self._unanswered.clear()

    def _write_all(self) -> None:
        owed, self._owed = self._owed, b""
        self._write(owed + self._sent)

    def interrupt(self) -> None:
        """Ask a running machine to stop."""
        self._write(INTERRUPT)

    def receive(self, deadline: float) -> bytes:
        """The next packet's data. Raises TargetTimeout at `deadline` (monotonic seconds), TargetLost at the end."""
        tries = 0
        if self._owed:
            owed, self._owed = self._owed, b""
            self._write(owed)
        while not self._packets:
            data = self._read(deadline)
            if data == b"+" and self._reader.idle:
                continue
            only = self._reader.only(data)
            if only is not None:
                self._packets.append(only)
                self._answer(b"+")
                break
            answers = b""  # acknowledged together: a monitor's answer comes as hundreds of packets
            for event in self._reader.feed(data):
                if isinstance(event, Acknowledgement):
                    if not event.accepted and tries < _RETRIES and self._repeats:
                        tries += 1
                        self._write(self._sent)
                elif not event.sound:
                    tries += 1
                    if tries > _RETRIES or not self._repeats:
                        raise ProtocolError(f"{self.name} sends packets with wrong checksums", "check what listens there")
                    answers += b"-"
                else:
                    self._packets.append(event.data)
                    answers += b"+"
            if answers:
                self._answer(answers)
        return self._packets.popleft()

    def gone(self) -> bool:
        """Whether the peer has left, told without asking it anything; for when no answer is awaited."""
        try:
            for _ in range(_LEFT):
                if not select.select([self._socket], [], [], 0)[0]:
                    break
                for event in self._reader.feed(self._read(time.monotonic() + 1)):
                    if isinstance(event, Packet) and event.sound:
                        self.stops.append(event.data)
        except (TargetLost, ProtocolError, OSError, ValueError):
            return True
        return any(stop.startswith((b"W", b"X")) for stop in self.stops)

    def _answer(self, acknowledgements: bytes) -> None:
        if self._more and b"-" not in acknowledgements:
            self._owed += acknowledgements
            return
        try:
            self._write(acknowledgements)
        except TargetLost:  # a VMM that reports its exit does not wait for the acknowledgement
            pass

    def peer(self) -> int | None:
        """The process that listens at the other end of a unix socket (SO_PEERCRED); None where that cannot be learnt."""
        return peer_of(self._socket)

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._socket.close()

    def _read(self, deadline: float) -> bytes:
        data: bytes | None = None
        try:
            while data is None:
                remaining = deadline - time.monotonic()
                if remaining < _SLICE and not (remaining > 0 and select.select([self._socket], [], [], remaining)[0]):
                    raise TargetTimeout(f"{self.name} does not answer", _SILENT)
                try:
                    data = self._socket.recv(_CHUNK)
                except BlockingIOError:
                    pass  # the slice is over
        except (OSError, ValueError) as error:
            raise TargetLost(f"the connection to {self.name} was lost: {error}", _LOST) from error
        if not data:
            raise TargetLost(f"{self.name} closed the connection", _LOST)
        self.heard = True
        return data

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError as error:  # the peer sends without reading: waiting again is useless
            raise TargetTimeout(f"{self.name} does not take what is sent to it", _LOST) from error
        except (OSError, ValueError) as error:
            raise TargetLost(f"the connection to {self.name} was lost: {error}", _LOST) from error


_SILENT = "another debugger may hold the stub (QEMU serves one at a time): detach it, or give --timeout more"
_LOST = "look at the VMM's own messages, and start it again"


_LOOPBACK = ("127.0.0.1", "::1")


def _tcp(address: StubAddress, timeout: float) -> socket.socket:
    # Loopback needs no name service, which a minimal system may not even have for "localhost".
    hosts = _LOOPBACK if address.host in (None, "localhost") else (str(address.host),)
    for host in hosts[:-1]:
        try:
            return socket.create_connection((host, address.port or 0), timeout)
        except ConnectionRefusedError:
            continue
    try:
        return socket.create_connection((hosts[-1], address.port or 0), timeout)
    except OSError as error:
        if len(hosts) > 1 and not isinstance(error, TimeoutError):
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, "Connection refused"
            ) from error  # better than an error about missing IPv6
        raise


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def _connected(address: StubAddress, timeout: float) -> socket.socket:
    try:
        if address.path is not None:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.settimeout(timeout)
                link.connect(address.path)
            except BaseException:
                link.close()
                raise
        else:
            link = _tcp(address, timeout)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_SLICE))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        return link
    except TimeoutError as error:
        raise TargetTimeout(f"no connection to {address} within {timeout:g} s", _SILENT) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise TargetLost(f"nothing answers at {address}: {why}", "start the VMM with a gdbstub, e.g. QEMU with -S -s") from error
