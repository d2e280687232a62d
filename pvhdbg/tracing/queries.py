"""Queries of a trace: what changed a register, what ran at sequence number N, where two traces differ. One pass each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.tracing.event import Event, Reset
from pvhdbg.tracing.trace_file import Record


@dataclass(frozen=True)
class RegisterWrite:
    """One change of a register: by which event, from what (None: not seen before) to what."""

    event: Event
    old: int | None
    new: int


def events(records: Iterable[Record]) -> Iterator[Event]:
    """The instructions among the records."""
    return (record for record in records if isinstance(record, Event))


def writes(records: Iterable[Record], register: str) -> Iterator[RegisterWrite]:
    """Every change of a register, in order."""
    old: int | None = None
    for event in records:
        if isinstance(event, Reset):
            old = None  # its effect on the register was not seen
        if not isinstance(event, Event):
            continue
        changes = event.changes or {}
        if event.delta is not None:
            old = event.delta.state().get(register, old)
        if register in changes:
            yield RegisterWrite(event, old, changes[register])
            old = changes[register]


def around(records: Iterable[Record], seq: int, before: int, after: int) -> list[Event]:
    """The events near a sequence number."""
    kept: deque[Event] = deque(maxlen=before + after + 1)
    for event in events(records):
        if event.seq > seq + after:
            break
        if event.seq >= seq - before:
            kept.append(event)
    return list(kept)


@dataclass(frozen=True)
class Divergence:
    """Where two traces differ first: the last events that they share, and the first of each that differs (None: it had ended)."""

    shared: tuple[Event, ...]
    one: Event | None
    other: Event | None
    why: SafeText


def divergence(one: Iterable[Record], other: Iterable[Record], shared: int = 3) -> Divergence | None:
    """The first difference of two traces in pc, mode, code, or in changes where both saw those; None when there is none."""
    common: deque[Event] = deque(maxlen=shared)
    for a, b in zip_longest(events(one), events(other)):
        why = _difference(a, b)
        if why:
            return Divergence(tuple(common), a, b, why)
        common.append(a)
    return None


def parting(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first index at which two lists differ; None when they are the same."""
    return next((at for at, (a, b) in enumerate(zip_longest(one, other)) if a != b), None)


def _difference(a: Event | None, b: Event | None) -> SafeText:
    if a is None or b is None:
        return SafeText("one trace ends here")
    if a.pc != b.pc:
        return SafeText("another pc")
    if a.mode is not b.mode:
        return SafeText("another mode")
    if a.code and b.code and a.code != b.code:
        return SafeText("other code at the same pc")
    if a.changes is not None and b.changes is not None and dict(a.changes) != dict(b.changes):
        names = sorted(name for name in {*a.changes, *b.changes} if a.changes.get(name) != b.changes.get(name))
        return safe(f"it changed {', '.join(names)} differently")
    return SafeText("")
