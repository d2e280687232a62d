"""Saved traces: read, asked, compared with themselves, shown, and exported to every format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from zlib import crc32

from fuzz.target import Form, Output, Target
from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import SafeText, printable
from pvhdbg.disassembly import instruction_text
from pvhdbg.report import timeline_text, trace_text
from pvhdbg.report.exports.catalogue import FORMATS, export
from pvhdbg.tracing import queries
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Changes, EndReason, Event, Fault, FaultKind, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Ending, Head, Load, Record, decode, encode

_KNOWN = {"perfetto": Form.JSON}
_BINARY = ("drcov",)


def _run(data: bytes) -> Iterator[Output]:
    names: dict[int, str] = {}
    records = list(islice(decode(data.decode("utf-8", "replace").splitlines(True), names), 4000))
    yield Output(
        Form.TEXT,
        trace_text.events(
            [one for one in records if isinstance(one, Event | Fault | Reset)][:50], trace_text.escaped(names.get), instruction_text
        ),
    )
    found = [one for one in records if isinstance(one, Milestone)]
    yield Output(Form.TEXT, timeline_text.render(found, 10, trace_text.escaped(names.get), "the end"))
    for reached in records:
        if isinstance(reached, ReachedFunction):
            yield Output(Form.TEXT, printable(reached.name))
    for write in islice(queries.writes(records, "rsp"), 20):
        yield Output(Form.TEXT, f"{write.old} {write.new:#x}")
    parted = queries.divergence(records, records[1:])
    yield Output(Form.TEXT, "" if parted is None else parted.why)
    format = sorted(FORMATS)[crc32(data) % len(FORMATS)]
    whole = b"".join(export(format, iter(records), names.get))
    if format not in _BINARY:
        yield Output(_KNOWN.get(format, Form.TEXT), whole.decode("utf-8").replace("\r\n", "\n"))


def _seeds() -> Iterator[bytes]:
    loads = (Load(0xFFFFFFFF81000000, 0x1000000, 0x1826634, True), Load(0, 0x301A000, 0x34000, False))
    records: list[Record] = [
        Head("log", "state", 0x100000, "QEMU 7.2.22", "/boot/vmlinux", 64, loads),
        Event(0, 0x100000, Mode.PROTECTED, b"\xfc", Changes({"rsp": (1 << 64) - 1}, {"rsp": 0x6EDC, "cs_flags": 0xC09B00})),
        Milestone("cr0.pg", 1, 0x100001, SafeText("cr0 0x80000011"), Mode.PAGED),
        Event(1, 0x100001, Mode.PAGED),
        Milestone("serial:crash", 1, None, SafeText("crash: hlt"), None, 2),
        Fault(2, FaultKind.EXCEPTION, 14, 2, 0x1000FE, 0xCFFFFFFC, {"rax": 1}),
        Fault(2, FaultKind.TRIPLE_FAULT),
        Reset(2, 1, 0x100001, Mode.PAGED, SafeText("a triple fault"), True),
        Ending(EndReason.SHUTDOWN, 2),
    ]
    yield "".join(encode(record, "main+0x4", state=True) for record in records).encode()
    calls: list[Record] = [
        Head("blocks", "calls", 0x100000),
        ReachedFunction(0, "main", 0x100000, 0),
        Ending(EndReason.SHUTDOWN, 2),
    ]
    yield "".join(encode(record) for record in calls).encode()


TARGET = Target(
    _run,
    _seeds,
    (b'"changes":{"rsp":"0x1"}', b'"symbol":"\\u001b[2J"', b'{"end":"x","events":1}\n', b"null", b'"0x0"', b'"what":"calls"'),
)
