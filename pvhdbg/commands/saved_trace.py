"""The commands about saved traces: timeline, query, diff, export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Literal

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.output import open_output
from pvhdbg.commands.trace import milestones
from pvhdbg.decode.text import printable
from pvhdbg.disassembly import instruction_text
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.saved_traces import is_saved, saved
from pvhdbg.errors import BadInput
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.record import NamedTuple
from pvhdbg.report import timeline_text, trace_text
from pvhdbg.report.answers.traces import ModeSpan, RegisterChange, TimelineAnswer, TraceDiffAnswer, TraceQueryAnswer
from pvhdbg.report.exports.catalogue import export as pieces
from pvhdbg.tracing import queries
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Encoder, Ending, Head, Record, row

_WRITES = 1000  # changes that are shown
_BLOCK = 1 << 16  # bytes that an export writes at once
_NAMES = 1 << 14  # symbols that an export keeps
_ONLY = 10  # functions that are named of those that one trace has


class QueryOptions(NamedTuple):
    """The options of `trace query`: a saved trace, a register or a sequence number, and how many instructions around it."""

    subject: str
    what: str
    around: int = 5


class TraceDiffOptions(NamedTuple):
    """The options of `trace diff`: two saved traces."""

    subject: str
    other: str


class TimelineOptions(NamedTuple):
    """The options of `timeline`, whose subject may be a saved trace."""

    about: SubjectOptions = SubjectOptions()
    until: str | None = None
    milestone: tuple[str, ...] = ()
    seconds: float | None = None


class TraceExportOptions(NamedTuple):
    """The options of `trace export`; `format_name` is `--as`."""

    subject: str
    format_name: Literal["perfetto", "tenet", "drcov", "csv", "folded"]
    output: str


@takes(QueryOptions)
def query(options: QueryOptions, context: Context) -> Answer:
    """`trace query`: the changes of a register, or the instructions around a sequence number."""
    names: dict[int, str] = {}
    records = saved(options.subject, names)
    what = options.what
    if what.isdecimal() and what.isascii():
        found = queries.around(records, int(what), options.around, options.around)
        if not any(event.seq == int(what) for event in found):
            first = next(queries.events(saved(options.subject)), None)
            todo = "trace with --what pc or state" if first is None else f"its first one is {first.seq}"
            raise BadInput(f"the trace has no instruction {what}", todo)
        document = TraceQueryAnswer(what, (), _rows(names, found), False)
        return shows(lambda style: trace_text.events(found, trace_text.escaped(names.get), instruction_text, style), document)
    writes = list(islice(queries.writes(records, what), _WRITES))
    if not writes:
        raise BadInput(
            f"the trace shows no change of {printable(what)}", "name a register as the trace does, and trace with --what state"
        )

    def shown(write: queries.RegisterWrite) -> str:
        event = write.event
        place = f"{event.pc:#x} {printable(names.get(event.pc, ''))}".rstrip()
        old = "" if write.old is None else f"{write.old:#x} → "
        return f"{event.seq:>10}  {old}{write.new:#x}  {_instruction(event)}  at {place}"

    more = f"… and maybe more: the first {_WRITES} are shown\n" if len(writes) == _WRITES else ""
    changes = tuple(RegisterChange(one.old, one.new, _instruction(one.event), _rows(names, [one.event])[0]) for one in writes)
    document = TraceQueryAnswer(what, changes, (), bool(more))
    return shows(lambda _: "\n".join(shown(write) for write in writes) + "\n" + more, document)


def _instruction(event: Event) -> str:
    return instruction_text(event.code, event.pc, event.mode.bits)


def _rows(names: dict[int, str], events: Iterable[Event]) -> tuple[dict[str, Any], ...]:
    """The events as in a saved trace."""
    return tuple(row(event, names.get(event.pc)) for event in events)


@takes(TraceDiffOptions)
def diff(options: TraceDiffOptions, context: Context) -> Answer:
    """`trace diff`: exit code 1 when the traces differ."""
    names: dict[int, str] = {}
    of_functions = {_head(path).of_functions for path in (options.subject, options.other)}
    if len(of_functions) > 1:
        raise BadInput("one trace has functions and the other instructions", "give two traces of one kind")
    if True in of_functions:
        return _functions(options)
    one, other = saved(options.subject, names), saved(options.other, names)
    parted = queries.divergence(one, other)
    if parted is None:
        if not any(True for _ in queries.events(saved(options.subject))):
            raise BadInput("the traces have no instructions to compare", "trace with --what pc or state")
        same = TraceDiffAnswer(True, None, None, (), None, None, (), ())
        return shows(lambda _: "the same instructions in both\n", same)
    at = next(event.seq for event in (parted.one, parted.other) if event is not None)
    name = trace_text.escaped(names.get)
    text = [f"they differ at {at}: {parted.why}", trace_text.events(parted.shared, name, instruction_text).rstrip()]
    for path, event in ((options.subject, parted.one), (options.other, parted.other)):
        rows: list[Event] = [] if event is None else [event]
        text.append(f"--- {printable(path)}\n{trace_text.events(rows, name, instruction_text).rstrip() or 'ends'}")
    shared = _rows(names, parted.shared)
    a, b = (None if event is None else _rows(names, [event])[0] for event in (parted.one, parted.other))
    document = TraceDiffAnswer(False, at, parted.why, shared, a, b, (), ())
    return shows(lambda _: "\n".join(part for part in text if part) + "\n", document, 1)


def _head(path: str) -> Head:
    with closing(saved(path)) as records:
        return next(record for record in records if isinstance(record, Head))


def _functions(options: TraceDiffOptions) -> Answer:
    """`trace diff` of two traces of functions: where their order differs, and which functions only one of them has."""
    paths = (options.subject, options.other)
    reached = [[record for record in saved(path) if isinstance(record, ReachedFunction)] for path in paths]
    one, other = ([record.name for record in records] for records in reached)
    at = queries.parting(one, other)
    if at is None:
        same = TraceDiffAnswer(True, None, None, (), None, None, (), ())
        return shows(lambda _: f"the same {len(one):,} functions in both, in the same order\n", same)
    text = [f"they differ at function {at}", *(f"            {printable(name)}" for name in one[max(at - 3, 0) : at])]
    for path, mine, theirs in ((paths[0], one, other), (paths[1], other, one)):
        only = _only(mine, theirs)
        shown = ", ".join(printable(name) for name in only[:_ONLY]) + (", …" if len(only) > _ONLY else "")
        text += [f"--- {printable(path)}", f"            {printable(mine[at]) if at < len(mine) else 'ends'}"]
        text.append(f"            {len(only):,} functions of {len(mine):,} only here{': ' if only else ''}{shown}")
    shared = tuple(map(row, reached[0][max(at - 3, 0) : at]))
    a, b = (row(records[at]) if at < len(records) else None for records in reached)
    only_a, only_b = _only(one, other), _only(other, one)
    document = TraceDiffAnswer(False, at, "another function", shared, a, b, only_a, only_b)
    return shows(lambda _: "\n".join(text) + "\n", document, 1)


@takes(TimelineOptions)
def timeline(options: TimelineOptions, context: Context) -> Answer:
    """`timeline`: of a saved trace, or of a boot that is traced for it now."""
    path = options.about.subject
    if not is_saved(path):
        wanted = TraceOptions(until=options.until, milestone=options.milestone, seconds=options.seconds)
        seen = milestones(options.about, wanted, context.progress)
        return _timeline(seen.milestones, seen.events, seen.names, seen.end.words)
    if _head(path).of_functions:
        raise BadInput("a timeline shows modes, and this trace has functions only", "trace with --what milestones, pc or state")
    names: dict[int, str] = {}
    found: list[Milestone] = []
    count, why = 0, "the trace is cut"
    for record in saved(path, names):
        if isinstance(record, Milestone):
            found.append(record)
        elif isinstance(record, Event):
            count = record.seq + 1
        elif isinstance(record, Ending):
            count, why = record.events, TraceEnd(record.why).words
    return _timeline(found, count, names.get, why)


def _only(mine: list[str], theirs: list[str]) -> tuple[str, ...]:
    """The functions that only the first trace has."""
    known = set(theirs)
    return tuple(name for name in mine if name not in known)


def _timeline(found: list[Milestone], count: int, names: Callable[[int], str | None], why: str) -> Answer:
    total = max(count, *(one.seq + 1 for one in found)) if found else count
    spans = tuple(ModeSpan(*one) for one in timeline_text.spans(found, total))
    document = TimelineAnswer(spans, tuple(map(Encoder(names).row, found)), total, why)
    return shows(lambda style: timeline_text.render(found, count, trace_text.escaped(names), why, style), document)


class _LastNames(dict[int, str]):
    """The symbols of the last addresses only: an export writes while it reads, and a trace may have a million addresses."""

    def __setitem__(self, address: int, symbol: str) -> None:
        if len(self) >= _NAMES:
            self.clear()
        super().__setitem__(address, symbol)


@takes(TraceExportOptions)
def export(options: TraceExportOptions, context: Context) -> Answer:
    """`trace export`: the file appears only when complete; `-` is standard output, for the next program."""
    names = _LastNames()
    output, size, cut = options.output, 0, True
    if os.path.exists(output) and os.path.samefile(output, options.subject):
        raise BadInput(f"{output} is the trace itself", "choose another -o")

    def looked_at(records: Iterable[Record]) -> Iterator[Record]:
        nonlocal cut
        for record in records:
            cut = not isinstance(record, Ending)
            yield record

    with open_output(output) as file, closing(saved(options.subject, names)) as records:
        for block in _blocks(pieces(options.format_name, looked_at(records), names.get)):
            file.write_bytes(block)
            size += len(block)
            if file.unread:
                return Answer(lambda _: "")
    note = "note: the trace is cut: its end is missing\n" if cut else ""
    if _is_stdout(output):
        context.progress(note.rstrip())
        return Answer(lambda _: "")
    return Answer(lambda _: f"{note}{printable(output)}: {size} bytes, {options.format_name}\n")


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _is_stdout(path: str) -> bool:
    """Whether the path is standard output, also by another name: /dev/stdout."""
    if path == "-":
        return True
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:
        return False
