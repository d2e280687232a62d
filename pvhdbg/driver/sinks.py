"""Sinks for a trace's events while it runs: a file, or memory, which keeps the last of them for display."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from pvhdbg.driver.result import TraceResult
from pvhdbg.driver.scope import Scope
from pvhdbg.tracing.event import Batch, Event, Fault, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Ending, encode


class Sink(Protocol):
    """What a trace reports as it happens."""

    def events(self, batch: Batch, scope: Scope) -> None:
        """The instructions of a batch inside the scope, with the faults between them."""

    def faults(self, faults: Sequence[Fault]) -> None:
        """Only the faults, in a trace that shows no instructions."""

    def reset(self, reset: Reset) -> None:
        """The guest reset its machine."""

    def milestones(self, found: Sequence[Milestone]) -> None:
        """Milestones, in order."""


class Kept:
    """Keeps the last events, as many as `result.last` holds."""

    def __init__(self, result: TraceResult) -> None:
        self._result = result

    def events(self, batch: Batch, scope: Scope) -> None:
        last = self._result.last
        if scope.everything:
            rows = [batch.event(index) for index in range(max(len(batch) - (last.maxlen or 1), 0), len(batch))]
        else:
            rows = scope.rows(batch)
        last.extend(_in_order(rows, batch.faults))

    def faults(self, faults: Sequence[Fault]) -> None:
        pass  # only milestones are shown

    def reset(self, reset: Reset) -> None:
        if reset.goes_on:
            self._result.last.append(reset)

    def milestones(self, found: Sequence[Milestone]) -> None:
        pass  # the result keeps them


class Written:
    """Writes a saved trace as it grows, its head first."""

    def __init__(self, result: TraceResult, write: Callable[[str], None]) -> None:
        self._lines, self._write = result.lines, write
        write(encode(result.head))

    def events(self, batch: Batch, scope: Scope) -> None:
        for row in _in_order(list(batch) if scope.everything else scope.rows(batch), batch.faults):
            self._write(self._lines.line(row))

    def faults(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self._write(encode(fault))

    def reset(self, reset: Reset) -> None:
        self._write(self._lines.line(reset))

    def milestones(self, found: Sequence[Milestone]) -> None:
        for one in found:
            self._write(self._lines.line(one))


def write_kept(result: TraceResult, write: Callable[[str], None]) -> None:
    """A saved trace of the events that `--tail` kept, without its last line."""
    written = Written(result, write)
    left = [result.resets[-1]] if result.resets and not result.resets[-1].goes_on else []
    for row in chain(result.last, left):
        write(result.lines.line(row))
    written.milestones(result.milestones)


def write_ending(result: TraceResult, write: Callable[[str], None]) -> None:
    """The last line of a saved trace."""
    write(encode(Ending(result.end.why, result.events)))


def _in_order(rows: Iterable[Event], faults: Iterable[Fault]) -> Iterator[Event | Fault]:
    waiting = deque(faults)
    for row in rows:
        while waiting and waiting[0].seq <= row.seq:
            yield waiting.popleft()
        yield row
    yield from waiting
