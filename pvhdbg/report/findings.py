"""What every format says of a verdict, in the same words: the shape of a verdict, its sentences, how loud it is.

The shape is a protocol, so that the formats also render verdicts on something other than a boot, such as a kernel file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from pvhdbg.decode.text import printable
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
    """A verdict, as `rules.declare.Verdict` is one."""

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


class Level(Enum):
    """How loud CI systems show a finding; the values are SARIF's and GitHub's words but for `notice`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


_LEVELS = {Severity.MUST: Level.ERROR, Severity.SHOULD: Level.WARNING, Severity.INFO: Level.NOTE}
WORDS = {outcome: outcome.name.replace("NOT_APPLICABLE", "N/A") for outcome in Outcome}


def level(severity: Severity) -> Level:
    """MUST is an error, SHOULD a warning, INFO a note."""
    return _LEVELS[severity]


def sentence(violation: Violation) -> str:
    """One violation on one line of safe text."""
    return f"{violation.at}: expected {printable(violation.expected)}, found {printable(violation.found)}"


def sentences(finding: Finding) -> list[str]:
    """All that there is to say of a verdict beyond its rule: its violations, then why it is excused or undecided."""
    said = [sentence(one) for one in finding.violations]
    said += [f"fix: {printable(fix)}" for fix in dict.fromkeys(one.fix for one in finding.violations if one.fix)]
    if finding.deviation is not None:
        said.append(f"on record as {finding.deviation.key}: {printable(finding.deviation.why)}")
    elif finding.reason:
        said.append(printable(finding.reason))
    return said
