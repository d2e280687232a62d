"""Expectations as rules: each gives a verdict like a rule of the ABI, so that every report format shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import quote

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.text import printable
from pvhdbg.expect.conditions import EXISTS, words
from pvhdbg.expect.expectations import Expectation, Expectations
from pvhdbg.expect.fields import Absent
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict, Violation
from pvhdbg.spec.documents import Clause, Document
from pvhdbg.spec.revisions import REVISIONS


@dataclass(frozen=True)
class ExpectationRule(Rule):
    """One expectation, declared by the user's file. It binds: a field that differs is a FAIL."""

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


def rules(expectations: Expectations) -> tuple[ExpectationRule, ...]:
    """The rules that the file declares, in its order."""
    name = printable(expectations.name)
    document = Document(name, quote(expectations.name), "the user's own")
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


def judged(expectations: Expectations, boot: BootState, verdicts: Iterable[Verdict]) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """All verdicts: those of the ABI with what the file allows excused, then the file's own; and sentences about it."""
    reasons = {one.rule: one.reason for one in expectations.allowed}
    name = printable(expectations.name)
    found, idle = [], []
    for verdict in verdicts:
        reason = reasons.get(verdict.rule.id)
        if reason is None:
            found.append(verdict)
        elif verdict.outcome in (Outcome.PASS, Outcome.NOT_APPLICABLE):
            found.append(verdict)
            idle.append(f"{name} allows {verdict.rule.id}, which is not violated here")
        else:
            found.append(_allowed(verdict, f"allowed by {name}: {reason}"))
    return (*found, *(one.judge(boot) for one in rules(expectations))), tuple(idle)


def _allowed(verdict: Verdict, reason: str) -> Verdict:
    outcome = Outcome.UNKNOWN if verdict.outcome is Outcome.UNKNOWN else Outcome.REMARK
    words = f"{verdict.reason}; {reason}" if outcome is Outcome.UNKNOWN else reason
    return replace(verdict, outcome=outcome, severity=Severity.INFO, reason=words, deviation=None)
