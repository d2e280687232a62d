"""A run as JSON Lines and as JUnit XML, a piece at a time: a run may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pvhdbg.decode.text import printable
from pvhdbg.report.answers.document import plain
from pvhdbg.report.answers.sweep import SweptCellAnswer, SweptMilestoneAnswer, SweptVerdictAnswer
from pvhdbg.report.markup import Markup, tag
from pvhdbg.rules.declare import Outcome
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.result import CellOutcome, CellVerdict
from pvhdbg.sweep.store import KeptResult, SweepRun, SweepStore

_QUIET = (Outcome.PASS, Outcome.NOT_APPLICABLE)
_FAILING = (Outcome.FAIL, Outcome.KNOWN)  # a known deviation fails under `strict`
_REMEMBERED = 1000  # sets of verdicts


class CellAnswers:
    """The answers of cells; sets of verdicts that many have are read once."""

    def __init__(self, store: SweepStore, run: SweepRun) -> None:
        self._store = store
        self._run = run
        self._sets: dict[int, tuple[CellVerdict, ...]] = {}

    def verdicts(self, one: KeptResult) -> tuple[CellVerdict, ...]:
        """A cell's verdicts."""
        if one.verdicts is None:
            return ()
        if one.verdicts not in self._sets:
            if len(self._sets) >= _REMEMBERED:
                self._sets.clear()
            self._sets[one.verdicts] = self._store.verdicts(one.verdicts)
        return self._sets[one.verdicts]

    def of(self, one: KeptResult) -> SweptCellAnswer:
        """A cell's answer."""
        milestones = self._store.milestones(self._run.id, one.key) if one.cell.goal or one.cell.expect else ()
        return SweptCellAnswer(
            one.key.hex(),
            axes_of(one),
            one.outcome.value,
            one.conclusion,
            one.exit_code,
            one.seconds,
            f"{one.vmm} {one.version}".strip(),
            one.firmware,
            tuple(_verdict(verdict) for verdict in self.verdicts(one) if verdict.outcome not in _QUIET),
            tuple(SweptMilestoneAnswer(*(step.name, step.seconds, step.missed, step.instructions)) for step in milestones),
        )


def axes_of(one: KeptResult) -> dict[str, str]:
    """The axes of a cell that are not at their default, by their key."""
    return {axis.key: printable(str(value)) for axis in AXES if (value := getattr(one.cell, axis.field))}


def _verdict(one: CellVerdict) -> SweptVerdictAnswer:
    found = tuple(printable(f"{at}: {seen}") for at, _, seen in one.found)
    return SweptVerdictAnswer(printable(one.rule), one.outcome.value, printable(one.deviation), printable(one.reason), found)


def json_lines(store: SweepStore, run: SweepRun) -> Iterator[str]:
    """A line for each cell."""
    answers = CellAnswers(store, run)
    for one in store.results(run.id):
        yield json.dumps({"run": run.id, **plain(answers.of(one), SweptCellAnswer)}, ensure_ascii=False) + "\n"


def junit(store: SweepStore, run: SweepRun) -> Iterator[str]:
    """The document, with a case for each cell."""
    counts = store.counts(run.id)
    failures = counts.get(CellOutcome.VIOLATED, 0)
    errors = sum(counts.get(one, 0) for one in (CellOutcome.KILLED, CellOutcome.LATE, CellOutcome.NOT_OBSERVED))
    skipped = sum(counts.get(one, 0) for one in (CellOutcome.UNDECIDED, CellOutcome.NOT_TRIED))
    suite = tag(
        "testsuite", name=f"pvhdbg sweep, run {run.id}", tests=sum(counts.values()), failures=failures, errors=errors,
        skipped=skipped, timestamp=printable(run.began.rstrip("Z")),
    )  # fmt: skip
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>{suite.removesuffix("</testsuite>")}\n'
    answers = CellAnswers(store, run)
    for one in store.results(run.id):
        yield f"{_case(one, answers)}\n"
    yield "</testsuite></testsuites>\n"


def _case(one: KeptResult, answers: CellAnswers) -> Markup:
    axes = axes_of(one)
    kernel = axes.pop("kernels", "")
    inside: Markup | None = None
    if one.outcome is CellOutcome.VIOLATED:
        failing = [verdict for verdict in answers.verdicts(one) if verdict.outcome in _FAILING]
        inside = tag("failure", "\n".join(_sentence(verdict) for verdict in failing), message=one.conclusion, type="violated")
    elif one.outcome in (CellOutcome.UNDECIDED, CellOutcome.NOT_TRIED):
        inside = tag("skipped", f"{one.outcome.value}: {one.conclusion}")
    elif one.outcome is not CellOutcome.CONFORMS:
        inside = tag("error", f"next: {one.next}" if one.next else None, message=one.conclusion, type=one.outcome.value)
    name = ", ".join(f"{key} {value}" for key, value in axes.items()) or "default machine"
    return tag("testcase", inside, classname=kernel, name=f"{name} [{one.short}]", time=f"{one.seconds:.3f}")


def _sentence(one: CellVerdict) -> str:
    return f"{one.rule}: {one.title}: " + "; ".join(f"{at}: {seen}" for at, _, seen in one.found)
