"""Framing: `$data#checksum`, acknowledgements, escapes and run lengths (GDB manual, "Overview").

The reader is fed the received bytes in pieces of any size, and yields whole packets. The peer is not trusted: bytes that
cannot be this protocol raise a ProtocolError that names the likely protocol, and the size of a packet is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.errors import ProtocolError
from pvhdbg.record import NamedTuple

PACKET_BOUND = 1 << 20  # bytes of one packet's data, as sent
DATA_BOUND = 1 << 22  # bytes after run lengths are expanded
_NOISE_BOUND = 4096  # bytes outside of any packet, after which the peer is not a stub
_HEAD = 16
_SPECIAL = frozenset(b"#$}*")
INTERRUPT = b"\x03"

_OTHER_PROTOCOLS = (
    (b"HTTP/", "an HTTP server"),
    (b"<!DOCTYPE", "an HTTP server"),  # an HTTP/0.9 answer has no status line
    (b"<html", "an HTTP server"),
    (b"SSH-", "an SSH server"),
    (b'{"QMP"', "a QMP monitor"),
    (b"QEMU ", "QEMU's human monitor"),
    (b"RFB ", "a VNC server"),
    (b"220 ", "a mail or FTP server"),
)


class Packet(NamedTuple):
    """One packet's data, unescaped and expanded. `sound` is False if its checksum was wrong."""

    data: bytes
    sound: bool = True


class Acknowledgement(NamedTuple):
    """`+` or, with `accepted` False, `-`: a request to send the packet again."""

    accepted: bool


def frame(data: bytes) -> bytes:
    """`data` as a packet to send."""
    if _SPECIAL.isdisjoint(data):
        return b"$%s#%02x" % (data, sum(data) & 0xFF)
    escaped = bytearray()
    for byte in data:
        if byte in b"#$}*":
            escaped += bytes((0x7D, byte ^ 0x20))
        else:
            escaped.append(byte)
    return b"$%s#%02x" % (bytes(escaped), sum(escaped) & 0xFF)


class PacketReader:
    """Collects bytes and yields packets and acknowledgements, in order. Notifications (`%…`) are ignored."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""  # the very first bytes, which reveal a server of another protocol
        self._noise = 0

    def feed(self, data: bytes) -> Iterator[Packet | Acknowledgement]:
        """Add bytes, and yield what they complete. Raises ProtocolError if the peer cannot be a gdbstub."""
        self._buffer += data
        if len(self._head) < _HEAD:
            self._head += data[:_HEAD]
            self._refuse_others()
        while self._buffer:
            first = self._buffer[0]
            if first in b"+-":
                del self._buffer[0]
                yield Acknowledgement(first == 0x2B)
            elif first in b"$%":
                whole = self._packet()
                if whole is None:
                    return
                if first == 0x24:
                    yield whole
            else:
                self._skip()

    @property
    def idle(self) -> bool:
        """Whether the peer is known to be a gdbstub and no part of a packet has arrived."""
        return not self._buffer and len(self._head) >= _HEAD

    def only(self, data: bytes) -> bytes | None:
        """The packet's data if `data` is exactly one sound packet (the usual case); otherwise None, and `data` must be fed."""
        if not self.idle or data[-3:-2] != b"#":
            return None
        start = 2 if data[:2] == b"+$" else 1 if data[:1] == b"$" else 0
        body = data[start:-3]
        if not start or b"#" in body or b"}" in body or b"*" in body:
            return None
        return body if b"%02x" % (sum(body) & 0xFF) == data[-2:] else None

    def _packet(self) -> Packet | None:
        end = self._buffer.find(b"#", 1)
        if end < 0 or len(self._buffer) < end + 3:
            if len(self._buffer) > PACKET_BOUND:
                raise ProtocolError(f"the peer sent a packet of more than {PACKET_BOUND} bytes", _ADVICE)
            return None
        body, digits = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
        del self._buffer[: end + 3]
        try:
            sound = int(digits, 16) == sum(body) & 0xFF
        except ValueError:
            sound = False
        return Packet(_expanded(body) if sound else body, sound)

    def _skip(self) -> None:
        following = [at for at in (self._buffer.find(mark) for mark in (b"$", b"%", b"+", b"-")) if at >= 0]
        at = min(following, default=len(self._buffer))
        self._noise += at
        del self._buffer[:at]
        if self._noise > _NOISE_BOUND:
            raise ProtocolError(f"the peer is not a gdbstub: it began with {self._head[:16]!r}", _ADVICE)

    def _refuse_others(self) -> None:
        for prefix, name in _OTHER_PROTOCOLS:
            if self._head.startswith(prefix):
                raise ProtocolError(f"the peer is {name}, not a gdbstub", _ADVICE)


_ADVICE = "give the address of a gdbstub, such as QEMU's -gdb tcp::1234"


def _expanded(body: bytes) -> bytes:
    """Undo `}` escapes and `*` run lengths: `0*"` is 0 and '"' - 29 more of it."""
    if b"}" not in body and b"*" not in body:
        return body
    data = bytearray()
    index = 0
    while index < len(body):
        byte = body[index]
        index += 1
        if byte == 0x7D and index < len(body):
            data.append(body[index] ^ 0x20)
            index += 1
        elif byte == 0x2A and index < len(body) and data:
            data += data[-1:] * max(body[index] - 29, 0)
            index += 1
        else:
            data.append(byte)
        if len(data) > DATA_BOUND:
            raise ProtocolError(f"the peer sent a packet that expands to more than {DATA_BOUND} bytes", _ADVICE)
    return bytes(data)
