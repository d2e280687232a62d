"""GDB's machine interface: what a GDB that says anything makes of a command, of memory and of a stop. No GDB is started."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fuzz.target import Form, Output, Target
from pvhdbg.decode.text import printable
from pvhdbg.errors import PvhdbgError
from pvhdbg.targets.mi_answers import contents_of, stop_of_record
from pvhdbg.targets.mi_channel import MiChannel


def _run(data: bytes) -> Iterator[Output]:
    reader, writer = os.pipe()
    try:
        os.write(writer, data[: 1 << 15])  # a pipe holds 64 KiB
        os.close(writer)
        with open(os.devnull, "wb") as sink, open(reader, "rb", closefd=False) as source:
            interface = MiChannel(sink, source)
            for _ in range(3):
                record = interface.command("-x", 0.05)
                for text in (*record["console"], *record["target"], str(record.get("payload"))):
                    yield Output(Form.TEXT, printable(text))
                payload = record.get("payload")
                for event in interface.events:
                    if isinstance(event.get("payload"), dict):
                        yield Output(Form.TEXT, printable(stop_of_record(event["payload"]).text))
                if isinstance(payload, dict):
                    try:
                        yield Output(Form.TEXT, printable(contents_of(payload, 0x1000, 4)))
                    except PvhdbgError:
                        pass
    finally:
        os.close(reader)


def _seeds() -> Iterator[bytes]:
    yield b'~"GNU gdb (Debian 13.1-3) 13.1\\n"\n1^done\n(gdb) \n2^done,value="0x10"\n3^error,msg="No symbol \\"x\\" in current context."\n'
    yield b'*running,thread-id="all"\n1^running\n*stopped,reason="signal-received",signal-name="SIGTRAP",frame={addr="0x1",func="??",args=[]}\n2^done\n'
    yield b'1^done,memory=[{begin="0x0000000000001000",offset="0x0",end="0x1004",contents="00010203"}]\n2^done,register-values=[{number="0",value="0x1"}]\n'
    yield b'@"target \\033[2J\\n"\n&"log"\n=thread-created,id="1"\n1^done,changelist=[]\n2^exit\n'


TARGET = Target(
    _run,
    _seeds,
    (b"1^done,", b"2^done", b"3^done", b'memory=[{begin="', b'contents="', b"*stopped,", b"[[[[", b"={", b'\\"', b"\\033"),
)
