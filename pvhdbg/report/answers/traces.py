"""The answers about traces."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import TraceLine, answer


@answer("traced")
class TracedAnswer(NamedTuple):
    """A trace as far as it is shown: lines of the saved trace, its head first and its end last. `reached`: the goal was, if there was one."""

    records: tuple[TraceLine, ...]
    warnings: tuple[str, ...]
    reached: bool | None


class RegisterChange(NamedTuple):
    """A change of a register by an instruction; `old` is null where it had not been seen before."""

    old: Hex | None
    new: Hex
    instruction: str
    event: TraceLine


@answer("trace-query")
class TraceQueryAnswer(NamedTuple):
    """What a saved trace says of a register (`changes`) or of the instructions around a sequence number (`events`)."""

    asked: str
    changes: tuple[RegisterChange, ...]
    events: tuple[TraceLine, ...]
    cut: bool


@answer("trace-diff")
class TraceDiffAnswer(NamedTuple):
    """Where two saved traces part. `at` is a sequence number, or the place in the order of functions; null where they are the same."""

    same: bool
    at: int | None
    why: str | None
    shared: tuple[TraceLine, ...]
    a: TraceLine | None
    b: TraceLine | None
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


class ModeSpan(NamedTuple):
    """Instructions in one mode: the first one, and the one after the last."""

    mode: str
    first: int
    behind: int


@answer("timeline")
class TimelineAnswer(NamedTuple):
    """How long a boot stayed in each mode, and its milestones."""

    modes: tuple[ModeSpan, ...]
    milestones: tuple[TraceLine, ...]
    instructions: int
    ended: str
