"""A saved trace in the formats of other tools: Perfetto and Chrome (JSON), Tenet, drcov (Lighthouse), CSV, folded stacks.

Each is a function from records to pieces of text or bytes, so a trace of any length is written while it is read. Their time is the
sequence number. Names come from an untrusted file: each format escapes them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator

from pvhdbg.errors import BadInput
from pvhdbg.report.exports.chrome import chrome
from pvhdbg.report.exports.drcov import drcov
from pvhdbg.report.exports.tenet import tenet
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Event, Fault
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.stacks import folded
from pvhdbg.tracing.symbol_text import Name, label
from pvhdbg.tracing.trace_file import Head, Record

_FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet's formula begins


class _Sink(list[str]):
    """What csv writes to: a list of its lines."""

    write = list.append


def table(records: Iterable[Record], name: Name) -> Iterator[str]:
    """CSV (RFC 4180): one row for each instruction, or for each function of a trace of those."""
    sink = _Sink()
    rows = csv.writer(sink)
    functions = False
    for record in records:
        if isinstance(record, Head):
            functions = record.of_functions
            yield ("order,function,pc,block" if functions else "seq,pc,mode,symbol,code,changes") + "\r\n"
        elif isinstance(record, Event) and not functions:
            changes = " ".join(f"{key}={value:#x}" for key, value in (record.changes or {}).items())
            rows.writerow(
                (record.seq, hex(record.pc), record.mode.value, _cell(name(record.pc)), record.code.hex(), _cell(changes))
            )
            yield sink.pop()
        elif isinstance(record, ReachedFunction) and functions:
            rows.writerow((record.order, _cell(record.name), hex(record.pc), record.block))
            yield sink.pop()


def _cell(text: str | None) -> str:
    """Text that a spreadsheet shows and does not evaluate."""
    shown = label(text or "")
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


FORMATS: dict[str, Callable[[Iterable[Record], Name], Iterator[str] | Iterator[bytes]]] = {
    "perfetto": chrome, "tenet": tenet, "drcov": drcov, "csv": table, "folded": folded,
}  # fmt: skip
# Records that a format shows in addition to instructions.
_SHOWN: dict[str, tuple[type, ...]] = {"perfetto": (Milestone, Fault, ReachedFunction), "csv": (ReachedFunction,)}


def export(format: str, records: Iterable[Record], name: Name) -> Iterator[bytes]:
    """A trace in one of FORMATS, as bytes. Raises BadInput where it holds nothing that the format shows."""
    shown = False
    kinds = (Event, *_SHOWN.get(format, ()))

    def looked_at() -> Iterator[Record]:
        nonlocal shown
        for record in records:
            if isinstance(record, Head) and record.of_functions and ReachedFunction not in kinds:
                raise BadInput(f"{format} is about instructions, and this trace has functions only", "trace with --what state")
            shown = shown or isinstance(record, kinds)
            yield record

    for piece in FORMATS[format](looked_at(), name):
        yield piece if isinstance(piece, bytes) else piece.encode("utf-8", "backslashreplace")
    if not shown:
        raise BadInput(f"the trace holds nothing that {format} shows", "trace with --what pc or state, and longer")
