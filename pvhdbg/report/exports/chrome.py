"""Chrome's trace events, which ui.perfetto.dev and speedscope open: functions and modes as slices, milestones, faults and resets as instants.

Format: "Trace Event Format" of the Chromium project. Its clock counts microseconds: one of them is one instruction here (one stop
with the engine `breakpoints`, one block with --what calls), in whole numbers, which no reader rounds. Slices have no arguments:
speedscope takes those for a part of the function's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.chapters import Chapter
from pvhdbg.tracing.event import Event, Fault, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.story import Started
from pvhdbg.tracing.symbol_text import Name, function, label
from pvhdbg.tracing.trace_file import Head, Record

_FUNCTIONS, _MODES = 1, 2  # the threads
_THREADS = {_FUNCTIONS: "functions", _MODES: "mode"}
_CHAPTERS = 3
_LANES = {**_THREADS, _CHAPTERS: "chapters"}  # of a recorded boot
_UNITS = {"breakpoints": "stop", "first": "block"}


def chrome(records: Iterable[Record], name: Name) -> Iterator[str]:
    """The file in pieces, one event a line."""
    yield '{"traceEvents":[\n'
    head = Head("?", "?")
    for thread, title in _THREADS.items():
        yield _json(_about("thread_name", thread, {"name": title})) + ",\n"
        yield _json(_about("thread_sort_index", thread, {"sort_index": thread})) + ",\n"
    kernel = "guest"
    for row in _Slices(name).rows(records):
        if isinstance(row, Head):
            head, kernel = row, label((row.kernel or "guest").rpartition("/")[2])
        else:
            yield _json(row) + ",\n"
    yield _json(_about("process_name", 0, {"name": kernel}))
    about = {"engine": head.engine, "what": head.what, "vmm": head.vmm, "kernel": head.kernel}
    unit = _UNITS.get(head.engine, "instruction")
    known = {key: label(value) for key, value in about.items() if value is not None}
    yield '\n],"displayTimeUnit":"ns","otherData":' + _json({**known, "unit": f"1 us is 1 {unit}"}) + "}\n"


def of_boot(
    kernel: str,
    parts: Sequence[Chapter],
    modes: Sequence[tuple[int, Mode]],
    milestones: Sequence[Milestone],
    started: Sequence[Started],
) -> Iterator[str]:
    """The file of a recorded boot: chapters and modes as slices, functions and milestones as instants. Numbers before the entry are
    negative, and the file counts from the first one."""
    first = min((part.first for part in parts), default=0)
    end = max((part.behind for part in parts), default=0)
    behind = [*(number for number, _ in modes[1:]), end]
    yield '{"traceEvents":[\n'
    for thread, title in _LANES.items():
        yield _json(_about("thread_name", thread, {"name": title})) + ",\n"
        yield _json(_about("thread_sort_index", thread, {"sort_index": thread})) + ",\n"
    for part in parts:
        yield _json(_slice(_CHAPTERS, (part.name, part.first - first), part.behind - first)) + ",\n"
    for (number, mode), last in zip(modes, behind, strict=True):
        yield _json(_slice(_MODES, (mode.value, number - first), last - first)) + ",\n"
    for one in milestones:
        place = {} if one.pc is None else {"pc": hex(one.pc)}
        yield _json({**_instant(label(one.name), one.seq - first, {**place, "detail": label(one.detail)}), "tid": _MODES}) + ",\n"
    for function_ in started:
        yield _json(_instant(label(function_.name), function_.number - first, {"pc": hex(function_.pc)})) + ",\n"
    yield _json(_about("process_name", 0, {"name": label(kernel)}))
    yield (
        '\n],"displayTimeUnit":"ns","otherData":'
        + _json({"engine": "recorder", "entry": -first, "unit": "1 us is 1 instruction"})
        + "}\n"
    )


class _Slices:
    """The open slice of each thread, and its beginning; a slice is written when it ends."""

    def __init__(self, name: Name) -> None:
        self._name = name
        self._open: dict[int, tuple[str, int]] = {}  # label, since when
        self._end = 0

    def rows(self, records: Iterable[Record]) -> Iterator[dict[str, Any] | Head]:
        for record in records:
            if isinstance(record, Head):
                yield record
            elif isinstance(record, Event):
                if record.seq != self._end:  # instructions in between were not kept
                    yield from self._close()
                here = ((_FUNCTIONS, function(self._name(record.pc))), (_MODES, record.mode.value))
                for thread, title in here:
                    was = self._open.get(thread)
                    if was is None or was[0] != title:
                        if was is not None:
                            yield _slice(thread, was, record.seq)
                        self._open[thread] = title, record.seq
                self._end = record.seq + 1
            elif isinstance(record, ReachedFunction):
                self._end = record.block
                yield from self._close()
                self._open[_FUNCTIONS] = label(record.name), record.block
                self._end = record.block + 1
            elif isinstance(record, Milestone):
                place = {"until": record.until} if record.pc is None else {"pc": hex(record.pc)}
                yield _instant(label(record.name), record.seq, {**place, "detail": label(record.detail)})
            elif isinstance(record, Reset):
                yield from self._close()
                yield _instant("reset", record.seq, {"why": label(record.why)})
            elif isinstance(record, Fault):
                yield _fault(record)
        yield from self._close()

    def _close(self) -> Iterator[dict[str, Any]]:
        for thread, was in self._open.items():
            yield _slice(thread, was, self._end)
        self._open.clear()


def _slice(thread: int, was: tuple[str, int], end: int) -> dict[str, Any]:
    title, since = was
    return {"ph": "X", "pid": 1, "tid": thread, "ts": since, "dur": max(end - since, 0), "name": title}


def _instant(title: str, seq: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "i", "pid": 1, "tid": _FUNCTIONS, "s": "p", "ts": seq, "name": title, "args": args}


def _fault(fault: Fault) -> dict[str, Any]:
    title = fault.kind.value if fault.vector is None else f"{fault.kind.value} {fault.vector:#x}"
    numbers = (("error", fault.error), ("pc", fault.pc), ("cr2", fault.cr2))
    return _instant(title, fault.seq, {key: hex(value) for key, value in numbers if value is not None})


def _about(what: str, thread: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": thread, "name": what, "args": args}


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))
