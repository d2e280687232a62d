"""Saved traces: read, and shown like a live trace."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator

from pvhdbg.decode.text import SafeText
from pvhdbg.driver.goal import TraceGoal
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.result import SHOWN, TraceResult, document, render
from pvhdbg.errors import BadInput
from pvhdbg.report.answers.traces import TracedAnswer
from pvhdbg.report.style import Style
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import EndReason, Event, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Encoder, Ending, Head, Record, decode, is_trace, lines


def is_saved(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_trace(file.read(64))
    except OSError:
        return False


def show(path: str, options: TraceOptions) -> tuple[Callable[[Style], str], TracedAnswer]:
    """A saved trace as text and for JSON, by the same options. Raises BadInput."""
    if options != TraceOptions(what=options.what, tail=options.tail, on_reset=options.on_reset):
        raise BadInput(f"{path} is a saved trace, which is only shown", "leave out all options except --what and --tail")
    names: dict[int, str] = {}
    result = TraceResult(Head("?", "?"), names.get, last=deque(maxlen=options.tail or SHOWN), end=TraceEnd(EndReason.CUT))
    reached: deque[ReachedFunction] = deque(maxlen=options.tail)
    cut = True
    for record in saved(path, names):
        if isinstance(record, Head):
            result.head = record
        elif isinstance(record, Milestone):
            result.milestones.append(record)
        elif isinstance(record, Ending):
            result.end, cut = TraceEnd(record.why), False
            result.events = record.events
        elif isinstance(record, ReachedFunction):
            reached.append(record)
        elif isinstance(record, Reset):
            result.resets.append(record)
            if record.goes_on:
                result.last.append(record)
        else:
            result.events += isinstance(record, Event)
            result.last.append(record)
    what: str = options.what
    if what == "milestones" and not result.milestones:
        what = result.head.what
    result.warnings += [SafeText("the trace is cut: its end is missing")] if cut else []
    if result.head.of_functions:
        from pvhdbg.report import trace_text

        rows: tuple[Record, ...] = (result.head, *reached, Ending(result.end.why, result.events))
        notes = "".join(f"note: {one}\n" for one in result.warnings)
        return (
            lambda style: trace_text.functions(reached, style) + notes,
            TracedAnswer(tuple(map(Encoder(names.get).row, rows)), tuple(result.warnings), None),
        )
    return lambda style: render(result, what, False, TraceGoal(), False, style), document(result, what, False, None)


def saved(path: str, names: dict[int, str] | None = None) -> Generator[Record, None, None]:
    """The records of a saved trace; `names` is filled with its symbols. Raises BadInput."""
    if not is_saved(path):
        raise BadInput(f"{path} is not a saved trace", "give a file that `pvhdbg trace -o` wrote")
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        yield from decode(lines(file), names)
