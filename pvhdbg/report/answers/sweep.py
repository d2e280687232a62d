"""The answers of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pvhdbg.report.answers.declare import answer


@answer("sweep")
class SweepMadeAnswer(NamedTuple):
    """A run that was made, or planned only: then `run` is null. `outcomes` counts its cells; `expected` is in seconds, null where unknown."""

    run: int | None
    file: str
    cells: int
    done: int
    sizes: str
    expected: float | None
    outcomes: Mapping[str, int]
    conclusion: str


class SweptVerdictAnswer(NamedTuple):
    """A rule's verdict that is not "pass" or "not_applicable". `found` is in the words of the rule."""

    rule: str
    outcome: str
    deviation: str
    reason: str
    found: tuple[str, ...]


class SweptMilestoneAnswer(NamedTuple):
    """A goal: `missed` says why it was not reached, `instructions` how many ran from the entry, null where they were not counted."""

    name: str
    seconds: float
    missed: str
    instructions: int | None


class SweptCellAnswer(NamedTuple):
    """A cell: its identity, the axes that are not at their default, and what came of it."""

    cell: str
    axes: Mapping[str, str]
    outcome: str
    conclusion: str
    exit_code: int
    seconds: float
    vmm: str
    firmware: str
    verdicts: tuple[SweptVerdictAnswer, ...]
    milestones: tuple[SweptMilestoneAnswer, ...]


@answer("sweep-report")
class SweepReportAnswer(NamedTuple):
    """A run. `files` and `qemus` are those of its plan: SHA-256, and version; null where the program was not there."""

    run: int
    began: str
    ended: str | None
    cells: int
    outcomes: Mapping[str, int]
    files: Mapping[str, str]
    qemus: Mapping[str, str | None]
    results: tuple[SweptCellAnswer, ...]


class ChangedRuleAnswer(NamedTuple):
    """A rule whose outcome is another one in the second run; null where it was not judged."""

    rule: str
    before: str | None
    after: str | None


class ChangedCellAnswer(NamedTuple):
    """A cell that changed, and by which rules."""

    cell: str
    axes: Mapping[str, str]
    before: str
    after: str
    rules: tuple[ChangedRuleAnswer, ...]


@answer("sweep-diff")
class SweepDiffAnswer(NamedTuple):
    """Two runs. `compared` cells are in both; `only_a` and `only_b` count the others; `about` says which files and QEMUs differ."""

    a: int
    b: int
    compared: int
    only_a: int
    only_b: int
    about: tuple[str, ...]
    changed: tuple[ChangedCellAnswer, ...]
    conclusion: str


@answer("sweep-query")
class SweepQueryAnswer(NamedTuple):
    """The rows of a query, each value as text; null is null. `more` says that there were more rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    more: bool
