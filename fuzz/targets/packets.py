"""GDB's remote protocol: packets in pieces of any size, and every kind of reply."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.target import Form, Output, Target
from pvhdbg.decode.text import printable
from pvhdbg.errors import ProtocolError
from pvhdbg.rsp import registers, replies
from pvhdbg.rsp.packets import Packet, PacketReader, frame


def _run(data: bytes) -> Iterator[Output]:
    size = data[0] % 61 + 1 if data else 1
    reader = PacketReader()
    for at in range(1, len(data), size if len(data) < 4096 else 1 << 12):
        piece = data[at : at + (size if len(data) < 4096 else 1 << 12)]
        only = reader.only(piece)
        for event in [Packet(only)] if only is not None else reader.feed(piece):
            if isinstance(event, Packet):
                for text in _replies(event.data):
                    yield Output(Form.TEXT, printable(text))


def _replies(data: bytes) -> Iterator[str]:
    if replies.is_stop(data):
        yield replies.stop_reply(data).words
    yield str(replies.error_code(data))
    yield str(replies.features(data))
    try:
        yield str(replies.unhex(data, 4))
    except ProtocolError as error:
        yield error.what
    try:
        yield str(registers.layout_for(len(data) // 2).decode(data))
    except ProtocolError as error:
        yield error.what


def _seeds() -> Iterator[bytes]:
    for size in (b"\x00", b"\x10", b"\x3c"):
        yield size + b"+" + frame(b"PacketSize=1000;qXfer:features:read+;multiprocess+") + b"+" + frame(b"T05thread:p01.01;")
        yield size + frame(b"00" * 608) + frame(b"xx" * 608) + frame(b"00" * 344) + frame(b"00" * 164)
        yield size + b'+$0*"#' + b"%02x" % (sum(b'0*"') & 0xFF) + frame(b"E01") + frame(b"}*#$") + b"-+%Stop:T05#00"
        yield size + frame(b"W00;process:1") + frame(b"X09") + frame(b"T05watch:100;") + b"HTTP/1.1"


TARGET = Target(_run, _seeds, (frame(b"OK"), frame(b""), b"$#00", b"T05thread:p01.01;", b"0*~", b"HTTP/", b"%%"))
