"""What came of a cell: its outcome, the verdicts, the milestones and the reports, as a process hands it over."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any

from pvhdbg.report.document import Passed
from pvhdbg.rules.declare import Outcome, Verdict

LARGEST_BLOB = 64 << 20  # bytes of a report, unpacked
_MOST_ROWS = 10_000


class CellOutcome(Enum):
    """What came of a cell. The values are those of the file, of JSON and of the matrix."""

    CONFORMS = "conforms"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    NOT_OBSERVED = "not observed"
    NOT_TRIED = "not tried"  # a mutation that this machine cannot have
    KILLED = "killed"  # the cell's process ended
    LATE = "late"  # the cell's process was ended, because the cell took too long

    @property
    def good(self) -> bool:
        """Whether a sweep of such cells exits with 0."""
        return self in (CellOutcome.CONFORMS, CellOutcome.UNDECIDED, CellOutcome.NOT_TRIED)

    @property
    def judged(self) -> bool:
        """Whether the machine was seen."""
        return self in (CellOutcome.CONFORMS, CellOutcome.VIOLATED, CellOutcome.UNDECIDED)


@dataclass(frozen=True)
class CellVerdict:
    """One rule's verdict. `found` are the violations: where, what is expected there, and what was found. `about_file` marks
    a rule of the kernel file."""

    rule: str
    title: str
    severity: str
    outcome: Outcome
    deviation: str = ""
    reason: str = ""
    found: tuple[tuple[str, str, str], ...] = ()
    about_file: bool = False

    @classmethod
    def of(cls, verdict: Verdict, about_file: bool) -> CellVerdict:
        return cls(
            verdict.rule.id,
            verdict.rule.title,
            verdict.severity.value,
            verdict.outcome,
            "" if verdict.deviation is None else verdict.deviation.key,
            verdict.reason,
            tuple((one.at, one.expected, one.found) for one in verdict.violations),
            about_file,
        )

    def row(self) -> list[Any]:
        """Its values, as JSON has them."""
        return [
            self.rule, self.title, self.severity, self.outcome.value, self.deviation, self.reason,
            [list(one) for one in self.found], self.about_file,
        ]  # fmt: skip

    @classmethod
    def from_row(cls, row: list[Any]) -> CellVerdict:
        """The inverse of `row`. Raises ValueError, TypeError for another list."""
        rule, title, severity, outcome, deviation, reason, found, about_file = row
        three = tuple((str(at), str(expected), str(seen)) for at, expected, seen in found)
        return cls(str(rule), str(title), str(severity), Outcome(outcome), str(deviation), str(reason), three, bool(about_file))


@dataclass(frozen=True)
class Packed:
    """A text by its content: `key` is the SHA-256, `data` is compressed by zlib, `size` the text's size in bytes."""

    key: bytes
    data: bytes
    size: int

    @classmethod
    def of(cls, text: str) -> Packed:
        data = text.encode("utf-8", "backslashreplace")
        return cls(sha256(data).digest(), zlib.compress(data, 6), len(data))

    def text(self) -> str:
        """The text. Raises ValueError where it is too large or not what the key says."""
        return unpacked(self.data, self.key)

    def document(self) -> list[Any]:
        return [self.key.hex(), b64encode(self.data).decode(), self.size]

    @classmethod
    def from_document(cls, value: list[Any]) -> Packed:
        key, data, size = value
        return cls(bytes.fromhex(key), b64decode(data), int(size))


def unpacked(data: bytes, key: bytes) -> str:
    """A compressed text, bounded and compared with its key. Raises ValueError."""
    engine = zlib.decompressobj()
    try:
        found = engine.decompress(data, LARGEST_BLOB)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if engine.unconsumed_tail or not engine.eof or sha256(found).digest() != key:
        raise ValueError("it is not what its key says")
    return found.decode("utf-8", "replace")


def verdicts_in(text: str) -> tuple[CellVerdict, ...]:
    """The verdicts of a packed text. Raises ValueError, TypeError."""
    rows = json.loads(text)
    if not isinstance(rows, list) or len(rows) > _MOST_ROWS:
        raise ValueError("these are not verdicts")
    return tuple(CellVerdict.from_row(one) for one in rows)


def packed_verdicts(verdicts: Iterable[CellVerdict]) -> Packed:
    """The verdicts as one text."""
    return Packed.of(json.dumps([one.row() for one in verdicts], separators=(",", ":")))


@dataclass(frozen=True)
class CellResult:
    """What came of one cell. `vmm`, `version` and `firmware` are what was observed; `place` is the computer that booted it.

    `verdicts` is None where nothing was judged. `reports` are by their format.
    """

    outcome: CellOutcome
    conclusion: str
    exit_code: int
    seconds: float = 0.0
    vmm: str = ""
    version: str = ""
    firmware: str = ""
    protocol: str = ""
    next: str = ""
    place: str = ""
    verdicts: Packed | None = None
    milestones: tuple[Passed, ...] = ()
    reports: Mapping[str, Packed] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            **vars(self),
            "outcome": self.outcome.value,
            "verdicts": None if self.verdicts is None else self.verdicts.document(),
            "milestones": [[one.name, one.seconds, one.missed, one.instructions] for one in self.milestones],
            "reports": {name: one.document() for name, one in self.reports.items()},
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> CellResult:
        """The inverse of `document`. Raises ValueError, TypeError, KeyError for another document."""
        verdicts = document["verdicts"]
        parts = {
            "outcome": CellOutcome(document["outcome"]),
            "verdicts": None if verdicts is None else Packed.from_document(verdicts),
            "milestones": tuple(Passed(*one) for one in document["milestones"]),
            "reports": {name: Packed.from_document(one) for name, one in document["reports"].items()},
        }
        return cls(**{**document, **parts})
