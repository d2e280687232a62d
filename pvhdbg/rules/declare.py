"""What a rule is: one declaration from which tests, `explain`, the catalogue page and every report format are read.

A rule's body yields a `Violation` for each thing that is wrong and knows nothing of outcomes. Reading a value that was not
observed raises `Unavailable` inside the body, and asking about a structure that is absent raises `NotApplicable`; `judge`
alone turns all of it into a `Verdict`. Bodies therefore stay straight lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from inspect import cleandoc

from pvhdbg.decode.boot_state import BootState
from pvhdbg.model import Unavailable
from pvhdbg.rules.examples import Example
from pvhdbg.spec.deviations import DEVIATIONS, Deviation
from pvhdbg.spec.documents import Clause


class Severity(Enum):
    """How much a violation weighs."""

    MUST = "MUST"  # the text binds
    SHOULD = "SHOULD"  # convention, or a known reader breaks: exit 1 only under --strict
    INFO = "INFO"  # worth a remark, never a failure


class Outcome(Enum):
    """What became of a rule on one machine; the value is the key in summaries and JSON."""

    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known"
    UNKNOWN = "unknown"
    REMARK = "remark"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True)
class Violation:
    """One departure: where, what the clause wants there, what was found. `severity` only where it is lower than the rule's."""

    at: str
    expected: str
    found: str
    severity: Severity | None = None


class NotApplicable(Exception):
    """Raised in a rule's body: the thing that it speaks of does not exist on this machine; the message says why."""


@dataclass(frozen=True)
class Verdict:
    """What `judge` decided. `reason` explains UNKNOWN, NOT_APPLICABLE, and a recorded deviation that did not occur."""

    rule: Rule
    outcome: Outcome
    severity: Severity
    violations: tuple[Violation, ...] = ()
    reason: str = ""
    deviation: Deviation | None = None


Check = Callable[[BootState], Iterator[Violation]]


@dataclass(frozen=True)
class Rule:
    """A rule of the ABI. `names_protocol` marks the rules that are judged whatever protocol the machine was entered by."""

    id: str
    title: str
    clause: Clause
    severity: Severity
    revisions: frozenset[str]
    check: Check
    passes: tuple[Example, ...]
    fails: tuple[Example, ...]
    why: str
    names_protocol: bool = field(default=False)

    def judge(self, boot: BootState) -> Verdict:
        """The verdict on one machine. Raises nothing: what could not be observed is UNKNOWN."""
        if boot.revision.name not in self.revisions:
            return self._verdict(Outcome.NOT_APPLICABLE, reason=f"{boot.revision} has no such clause")
        if boot.other_protocol is not None and not self.names_protocol:
            return self._verdict(Outcome.NOT_APPLICABLE, reason=f"entered by {boot.other_protocol.title}")
        violations: list[Violation] = []
        gap = ""
        try:
            violations.extend(_bounded(self.check(boot)))
        except NotApplicable as absent:
            return self._verdict(Outcome.NOT_APPLICABLE, reason=str(absent))
        except Unavailable as unavailable:
            gap = unavailable.reason
        if gap and not violations:
            return self._verdict(Outcome.UNKNOWN, reason=gap)
        recorded = self._recorded(boot)
        if not violations:
            return self._verdict(Outcome.PASS, reason=_absent(recorded))
        severity = _heaviest(violation.severity or self.severity for violation in violations)
        deviation = _matching(recorded, violations)
        if deviation is not None:
            return Verdict(self, Outcome.KNOWN, severity, tuple(violations), deviation.why, deviation)
        outcome = Outcome.REMARK if severity is Severity.INFO else Outcome.FAIL
        return Verdict(self, outcome, severity, tuple(violations), gap)

    def _verdict(self, outcome: Outcome, reason: str = "") -> Verdict:
        return Verdict(self, outcome, self.severity, reason=reason)

    def _recorded(self, boot: BootState) -> list[Deviation]:
        if not boot.snapshot.entry.by_vmm:
            return []  # a guest made this entry: the VMM's habits excuse nothing
        vmm, firmware = boot.snapshot.vmm, boot.firmware.name if boot.firmware else None
        return [d for d in DEVIATIONS if d.rule == self.id and d.covers(vmm.name, vmm.release(), firmware)]


_MOST_VIOLATIONS = 64  # of one rule: a table of thousands of wrong entries is one finding


def _bounded(violations: Iterator[Violation]) -> Iterator[Violation]:
    for count, violation in enumerate(violations):
        if count == _MOST_VIOLATIONS:
            yield Violation("…", violation.expected, "more of the same, not listed", violation.severity)
            return
        yield violation


def _heaviest(severities: Iterable[Severity]) -> Severity:
    order = list(Severity)
    return min(severities, key=order.index)


def _matching(recorded: list[Deviation], violations: list[Violation]) -> Deviation | None:
    for deviation in recorded:
        if all(violation.found in deviation.found for violation in violations):
            return deviation
    return None


def _absent(recorded: list[Deviation]) -> str:
    return "".join(f"the recorded deviation {d.key} does not occur here" for d in recorded if d.always)


def rule(
    id: str,
    title: str,
    *,
    clause: Clause,
    severity: Severity,
    revisions: frozenset[str],
    passes: Iterable[Example],
    fails: Iterable[Example],
    names_protocol: bool = False,
) -> Callable[[Check], Rule]:
    """Make a rule of the function below; its docstring is what `explain` prints. Registers nothing."""

    def declare(check: Check) -> Rule:
        why = cleandoc(check.__doc__ or "")
        return Rule(id, title, clause, severity, revisions, check, tuple(passes), tuple(fails), why, names_protocol)

    return declare


def collect(*chapters: Iterable[Rule]) -> tuple[Rule, ...]:
    """All rules of the chapters in order. Raises ValueError for an id that is there twice."""
    rules = tuple(one for chapter in chapters for one in chapter)
    ids = [one.id for one in rules]
    twice = {id for id in ids if ids.count(id) > 1}
    if twice:
        raise ValueError(f"rule ids declared twice: {sorted(twice)}")
    return rules
