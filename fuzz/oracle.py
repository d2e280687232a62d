"""What is a failure of any target: a foreign exception, a control character, malformed output, too much time or memory."""

from __future__ import annotations

import json
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

from fuzz.target import BOUND, Form, Output, Target
from pvhdbg.errors import PvhdbgError

SECONDS = 1.0  # of CPU time, for an input of BOUND bytes or less
MEGABYTES = 500
_KEPT = frozenset("\n")  # control characters that text may hold


class Failure(Enum):
    """The kinds of failure."""

    EXCEPTION = "exception"
    CONTROL = "control character"
    MALFORMED = "malformed output"
    TIME = "time"
    MEMORY = "memory"


@dataclass(frozen=True)
class Finding:
    """A failure. `where` is the same for all inputs that fail for the same reason."""

    kind: Failure
    where: str
    what: str


class _OverTime(BaseException):
    """Raised inside a reader that has used its time. Not an Exception: the reader must not catch it."""


class Oracle:
    """Judges inputs of one target. `slower` is by how much instrumentation slows the readers."""

    def __init__(self, target: Target, slower: float = 1.0) -> None:
        self._target = target
        self._refusals: tuple[type[Exception], ...] = (PvhdbgError, *target.refusals)
        self._seconds = SECONDS * slower * (2 if target.sockets else 1)
        self._clock: Callable[[], float] = time.process_time
        self._memory = memory()
        signal.signal(signal.SIGVTALRM, _over)

    def check(self, data: bytes) -> Finding | None:
        """Give `data` to the reader; None if it and its output are as they have to be."""
        data = data[:BOUND]
        begun = self._clock()
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * self._seconds)
        try:
            try:
                found = self._outputs(data)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except _OverTime as error:
            return Finding(Failure.TIME, _place(error), f"more than {2 * self._seconds:g} s of CPU time")
        taken = self._clock() - begun
        if found is None and taken > self._seconds:
            return Finding(Failure.TIME, "whole", f"{taken:.2f} s of CPU time for {len(data)} bytes")
        if found is None and memory() - self._memory > MEGABYTES:
            self._memory = memory()
            return Finding(Failure.MEMORY, "whole", f"more than {MEGABYTES} MB")
        return found

    def _outputs(self, data: bytes) -> Finding | None:
        try:
            for output in self._target.run(data):
                wrong = _wrong(output)
                if wrong is not None:
                    return wrong
        except self._refusals:
            return None
        except Exception as error:
            return Finding(Failure.EXCEPTION, f"{type(error).__name__} {_place(error)}", "".join(traceback.format_exception(error)))
        return None


def memory() -> float:
    """Peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _over(_number: int, _frame: FrameType | None) -> None:
    raise _OverTime


def _place(error: BaseException) -> str:
    """The innermost line of pvhdbg, or of whatever was called."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pvhdbg/" in frame.filename] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"


def _wrong(output: Output) -> Finding | None:
    form, text = output
    if not isinstance(text, str):
        return Finding(Failure.MALFORMED, f"{form.value} is {type(text).__name__}", "not text")
    if form is Form.XML:
        try:
            ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            return Finding(Failure.MALFORMED, "XML", f"{error}: {text[:400]!r}")
    elif form is not Form.TEXT:
        for line in text.splitlines() if form is Form.LINES else (text,):
            try:
                json.loads(line)
            except ValueError as error:
                return Finding(Failure.MALFORMED, form.value, f"{error}: {line[:400]!r}")
    if text.isascii() and text.replace("\n", "").isprintable():
        return None
    bad = next((letter for letter in text if not letter.isprintable() and letter not in _KEPT), None)
    if bad is None:
        return None
    at = text.index(bad)
    return Finding(Failure.CONTROL, f"{form.value} {bad!r}", f"{bad!r} in {text[max(at - 80, 0) : at + 40]!r}")
