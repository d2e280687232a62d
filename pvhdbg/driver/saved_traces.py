"""Saved traces: read, and shown as the trace itself was."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator

from pvhdbg.commands.table import Answer, Request
from pvhdbg.driver.goal import Until
from pvhdbg.driver.result import SHOWN, Seen, render
from pvhdbg.errors import BadInput
from pvhdbg.tracing.engines.engine import End
from pvhdbg.tracing.event import Event, Reset
from pvhdbg.tracing.first import Reached
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Ending, Head, Record, decode, is_trace, lines


def is_saved(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_trace(file.read(64))
    except OSError:
        return False


def show(request: Request) -> Answer:
    """Show a saved trace: what it holds, by the same options."""
    for name in ("until", "start", "filter", "output", "engine", "seconds", "milestone", "vcpu"):
        if request.values.get(name):
            raise BadInput(f"{request.subject} is a saved trace, which is only shown", "leave out all but --what and --tail")
    names: dict[int, str] = {}
    seen = Seen(Head("?", "?"), names.get, last=deque(maxlen=request.tail or SHOWN), end=End("cut"))
    reached: deque[Reached] = deque(maxlen=request.tail)
    cut = True
    for record in saved(str(request.subject), names):
        if isinstance(record, Head):
            seen.head = record
        elif isinstance(record, Milestone):
            seen.milestones.append(record)
        elif isinstance(record, Ending):
            seen.end, cut = End(record.why), False
            seen.events = record.events
        elif isinstance(record, Reached):
            reached.append(record)
        elif isinstance(record, Reset):
            seen.resets.append(record)
            if record.goes_on:
                seen.last.append(record)
        else:
            seen.events += isinstance(record, Event)
            seen.last.append(record)
    what = str(request.what)
    if what == "milestones" and not seen.milestones:
        what = seen.head.what
    seen.warnings += ["the trace is cut: its end is missing"] if cut else []
    if seen.head.what == "calls":
        from pvhdbg.report import trace_text

        return Answer(lambda style: trace_text.functions(reached, style) + "".join(f"note: {one}\n" for one in seen.warnings))
    return Answer(lambda style: render(seen, what, False, Until(), False, style))


def saved(path: str, names: dict[int, str] | None = None) -> Generator[Record, None, None]:
    """The records of a saved trace; `names` is filled with its symbols. Raises BadInput."""
    if not is_saved(path):
        raise BadInput(f"{path} is not a saved trace", "give a file that `pvhdbg trace -o` wrote")
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        yield from decode(lines(file), names)
