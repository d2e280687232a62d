"""The parts of a verdict that all formats share: its shape, its sentences, its level, and its effect on the exit code.

The shape is a protocol, so that the formats also render verdicts on something other than a boot, such as a kernel file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol, TypeVar

from pvhdbg.decode.text import printable, safe
from pvhdbg.rules.declare import Outcome, Severity, Violation
from pvhdbg.spec.deviations import Deviation
from pvhdbg.spec.documents import Clause


class RuleFacts(Protocol):
    """The part of a rule's declaration that reports print."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def clause(self) -> Clause: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def why(self) -> str: ...


class Finding(Protocol):
    """A verdict, such as `rules.declare.Verdict`."""

    @property
    def rule(self) -> RuleFacts: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def violations(self) -> Sequence[Violation]: ...
    @property
    def reason(self) -> str: ...
    @property
    def deviation(self) -> Deviation | None: ...


class FindingLevel(Enum):
    """The level at which CI systems show a finding; the values are SARIF's, and GitHub's except for `notice`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Standing(Enum):
    """The effect of a finding. The exit code, and the result of each rule in a test format, follow from it."""

    PASSED = "passed"
    ADVICE = "advice"  # a remark, or a recommendation that is not followed; not a failure
    EXCUSED = "excused"  # a recorded deviation
    OPEN = "open"  # undecided
    ABSENT = "absent"  # the rule does not apply: its subject is absent
    FAILED = "failed"
    UNDECIDED = "undecided"  # undecided, and --strict requires a decision


CONFORMS, VIOLATED, UNDECIDED = 0, 1, 4

_LEVELS = {Severity.MUST: FindingLevel.ERROR, Severity.SHOULD: FindingLevel.WARNING, Severity.INFO: FindingLevel.NOTE}
WORDS = {outcome: outcome.name.replace("NOT_APPLICABLE", "N/A") for outcome in Outcome}
MEANINGS = {  # the kinds of text that the terminal and the HTML page colour
    Outcome.PASS: "good",
    Outcome.FAIL: "bad",
    Outcome.KNOWN: "warn",
    Outcome.UNKNOWN: "warn",
    Outcome.REMARK: "note",
    Outcome.NOT_APPLICABLE: "dim",
}


def level(severity: Severity) -> FindingLevel:
    """MUST is an error, SHOULD a warning, INFO a note."""
    return _LEVELS[severity]


def standing(finding: Finding, strict: bool = False) -> Standing:
    """The effect of the finding; under `strict` a violated recommendation, a deviation and an undecided rule fail too."""
    outcome, weighs = finding.outcome, finding.severity is not Severity.INFO
    if outcome is Outcome.FAIL:
        return Standing.FAILED if strict or finding.severity is Severity.MUST else Standing.ADVICE
    if outcome is Outcome.KNOWN:
        return Standing.FAILED if strict and weighs else Standing.EXCUSED
    if outcome is Outcome.UNKNOWN:
        return Standing.UNDECIDED if strict and weighs else Standing.OPEN
    return {Outcome.PASS: Standing.PASSED, Outcome.REMARK: Standing.ADVICE}.get(outcome, Standing.ABSENT)


def violates(finding: Finding, strict: bool) -> bool:
    """Whether the finding makes a check fail: a MUST rule, and under --strict a SHOULD rule or a known deviation too."""
    return standing(finding, strict) is Standing.FAILED


def summary(findings: Iterable[Finding]) -> dict[Outcome, int]:
    """The number of findings of each outcome, for all outcomes."""
    outcomes = [finding.outcome for finding in findings]
    return {outcome: outcomes.count(outcome) for outcome in Outcome}


def count(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


F = TypeVar("F", bound=Finding)
OWN_CHAPTER = "Expectations"
Chapters = Iterable[tuple[str, Iterable[RuleFacts]]]


def by_chapter(findings: Iterable[F], chapters: Chapters) -> list[tuple[str, list[F]]]:
    """The findings under the titles of their rules' chapters, in the chapters' order, without empty chapters.

    Findings outside of all chapters are the user's own expectations, and come last.
    """
    left = {finding.rule.id: finding for finding in findings}
    found = [(title, [left.pop(rule.id) for rule in rules if rule.id in left]) for title, rules in chapters]
    return [(title, inside) for title, inside in (*found, (OWN_CHAPTER, list(left.values()))) if inside]


def tally(findings: Iterable[Finding]) -> list[tuple[Outcome, int]]:
    """The number of findings of each outcome that occurs."""
    outcomes = [finding.outcome for finding in findings]
    return [(outcome, outcomes.count(outcome)) for outcome in Outcome if outcome in outcomes]


_SEVERITIES = tuple(Severity)
_FIRST = (Outcome.FAIL, Outcome.KNOWN, Outcome.REMARK, Outcome.UNKNOWN, Outcome.PASS, Outcome.NOT_APPLICABLE)


def worst_first(findings: Iterable[F]) -> list[F]:
    """What failed comes first, a MUST before a SHOULD; equals stay in their order."""
    return sorted(findings, key=_rank)


def _rank(finding: Finding) -> tuple[int, int]:
    return _FIRST.index(finding.outcome), _SEVERITIES.index(finding.severity)


def by_reason(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """The ids of the undecided rules by reason: one missing observation often leaves many rules undecided."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.outcome is Outcome.UNKNOWN:
            reasons.setdefault(finding.reason, []).append(finding.rule.id)
    return reasons


def sentence(violation: Violation) -> str:
    """One violation on one line of safe text."""
    return f"{safe(violation.at)}: expected {printable(violation.expected)}, found {printable(violation.found)}"


def sentences(finding: Finding) -> list[str]:
    """The sentences of a verdict: its violations, then fixes, then why it is excused or undecided."""
    said = [sentence(one) for one in finding.violations]
    said += [f"fix: {printable(fix)}" for fix in dict.fromkeys(one.fix for one in finding.violations if one.fix)]
    if finding.deviation is not None:
        said.append(f"on record as {finding.deviation.key}: {printable(finding.deviation.why)}")
    elif finding.reason:
        said.append(printable(finding.reason))
    return said
