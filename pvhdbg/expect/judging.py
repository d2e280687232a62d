"""Expectations as rules: each gives a verdict like a rule of the ABI does, so that every report format shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import quote

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.text import SafeText, printable
from pvhdbg.expect.conditions import EXISTS, words
from pvhdbg.expect.expectations import Expectation, Expectations, ExpectedMilestone
from pvhdbg.expect.fields import Absent
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
from pvhdbg.spec.documents import Clause, Document
from pvhdbg.spec.revisions import REVISIONS


@dataclass(frozen=True)
class ExpectationRule(Rule):
    """One expectation of the user's file. It is a MUST: a field that differs is a FAIL."""

    expectation: Expectation

    def judge(self, boot: BootState) -> Verdict:
        """The verdict on one machine. Raises nothing: what was not observed is UNKNOWN."""
        field, conditions = self.expectation.field, self.expectation.conditions
        try:
            found = field.read(boot)
        except Unavailable as gap:
            return Verdict(self, Outcome.UNKNOWN, self.severity, reason=gap.reason)
        except Absent as absent:
            wrong = [one for one in conditions if one.operator.name != EXISTS or one.value]
            return self._of([Violation(field.path, str(one), f"it is absent: {absent}") for one in wrong])
        shown = words(field.kind, found)
        return self._of([Violation(field.path, str(one), shown) for one in conditions if not one.holds(found)])

    def _of(self, violations: list[Violation]) -> Verdict:
        return Verdict(self, Outcome.FAIL if violations else Outcome.PASS, self.severity, tuple(violations))


@dataclass(frozen=True)
class MilestoneResult:
    """The result of a milestone: `seconds` after the entry, or in `missed` the reason (safe text) why it was not reached.

    `instructions` is the number of instructions before it, None if they were not counted; `counted` is how many were counted.
    """

    milestone: ExpectedMilestone
    seconds: float
    missed: str = ""
    instructions: int | None = None
    counted: int = 0


def milestone_verdicts(expectations: Expectations, reached: Iterable[MilestoneResult] | None) -> tuple[Verdict, ...]:
    """A verdict for each milestone: UNKNOWN if nothing ran (`reached` is None), or if an earlier milestone was missed."""
    found = {one.milestone.place: one for one in reached or ()}
    because = "an earlier milestone was not reached" if found else "nothing was run: a recording ends at the entry"
    return tuple(_milestone(expectations, one, found.get(one.place), because) for one in expectations.milestones)


def _milestone(expectations: Expectations, milestone: ExpectedMilestone, reached: MilestoneResult | None, because: str) -> Verdict:
    name = printable(expectations.name)
    clause = Clause(_document(expectations), milestone.words, milestone.place)
    why = milestone.why or f"A milestone of {name}."
    rule = Rule(milestone.place, milestone.words, clause, Severity.MUST, frozenset(REVISIONS), why)
    if reached is None:
        return Verdict(rule, Outcome.UNKNOWN, rule.severity, reason=because)
    if reached.missed:
        return Verdict(rule, Outcome.FAIL, rule.severity, (Violation("the boot", milestone.words, reached.missed),))
    if milestone.instructions is not None:
        return _in_budget(rule, milestone.instructions, reached)
    return Verdict(rule, Outcome.PASS, rule.severity)


def _in_budget(rule: Rule, most: int, reached: MilestoneResult) -> Verdict:
    if reached.instructions is not None and reached.instructions <= most:
        return Verdict(rule, Outcome.PASS, rule.severity)
    if reached.instructions is None and reached.counted < most:
        because = (
            f"its instructions were counted only up to {reached.counted:,}"
            if reached.counted
            else "its instructions were not counted"
        )
        return Verdict(rule, Outcome.UNKNOWN, rule.severity, reason=because)
    found = f"{reached.instructions:,}" if reached.instructions is not None else f"more than {reached.counted:,}"
    return Verdict(rule, Outcome.FAIL, rule.severity, (Violation("instructions before it", f"at most {most:,}", found),))


def _document(expectations: Expectations) -> Document:
    return Document(printable(expectations.name), quote(expectations.name), "the user's own")


def rules(expectations: Expectations) -> tuple[ExpectationRule, ...]:
    """The rules that the file declares, in the file's order."""
    name = printable(expectations.name)
    document = _document(expectations)
    return tuple(
        ExpectationRule(
            one.place,
            one.words,
            Clause(document, one.words, one.place),
            Severity.MUST,
            frozenset(REVISIONS),
            one.why or f"An expectation of {name}.",
            one,
        )
        for one in expectations.expected
    )


def judged(
    expectations: Expectations, boot: BootState, verdicts: Iterable[Verdict], reached: Iterable[MilestoneResult] | None = None
) -> tuple[tuple[Verdict, ...], tuple[SafeText, ...]]:
    """All verdicts: those of the ABI, where allowed violations are excused, then the file's own; and notes about allowances.

    `reached` holds the results of the milestones, in their order; None if nothing was run.
    """
    reasons = {one.rule: one.reason for one in expectations.allowed}
    name = printable(expectations.name)
    found, idle = [], []
    for verdict in verdicts:
        reason = reasons.get(verdict.rule.id)
        if reason is None:
            found.append(verdict)
        elif verdict.outcome in (Outcome.PASS, Outcome.NOT_APPLICABLE):
            found.append(verdict)
            idle.append(SafeText(f"{name} allows {verdict.rule.id}, which is not violated here"))
        else:
            found.append(_allowed(verdict, f"allowed by {name}: {reason}"))
    own = (*(one.judge(boot) for one in rules(expectations)), *milestone_verdicts(expectations, reached))
    return (*found, *own), tuple(idle)


def _allowed(verdict: Verdict, reason: str) -> Verdict:
    outcome = Outcome.UNKNOWN if verdict.outcome is Outcome.UNKNOWN else Outcome.REMARK
    words = f"{verdict.reason}; {reason}" if outcome is Outcome.UNKNOWN else reason
    return replace(verdict, outcome=outcome, severity=Severity.INFO, reason=words, deviation=None)
