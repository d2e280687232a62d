"""The declaration of a rule. Tests, `explain`, the catalogue page and every report format read the same declaration.

There are two kinds of rules: one judges a machine at its entry, the other a kernel file before any machine runs it. A rule's
body yields a `Violation` for each thing that is wrong, and does not handle outcomes. Reading a value that was not observed
raises `Unavailable` inside the body, and reading a structure that is absent raises `NotApplicable`. Only `judge` turns these
into a `Verdict`, so that a body needs no error handling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

from pvhdbg.model import Unavailable
from pvhdbg.record import dataclass, field, replace
from pvhdbg.spec.documents import DRAFT_A_MAIL, Clause
from pvhdbg.spec.revisions import DRAFT_A, SHIPPED, V1, Revision

if TYPE_CHECKING:  # judging a kernel file must not import the machine's decoders
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.rules.examples import Example
    from pvhdbg.rules.file_examples import FileExample
    from pvhdbg.spec.deviations import Deviation

    MachineCheck = Callable[[BootState], Iterator["Violation"]]
    FileCheck = Callable[[KernelFile], Iterator["Violation"]]


class Severity(Enum):
    """How much a violation weighs."""

    MUST = "MUST"  # the text requires it
    SHOULD = "SHOULD"  # a convention, or a known reader breaks without it: exit 1 only under --strict
    INFO = "INFO"  # worth a remark, never a failure


class Outcome(Enum):
    """The result of a rule on one machine; the value is the key in summaries and JSON."""

    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known"
    UNKNOWN = "unknown"
    REMARK = "remark"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True)
class Violation:
    """One violation: where, what the clause requires there, and what was found. `severity` is set only where it differs from
    the rule's.

    `fix` says what to change, in the syntax of the tool that made the file; a machine's state has none. `kind` replaces `found`
    in the lookup of a deviation when `found` depends on sizes that the user chose.
    """

    at: str
    expected: str
    found: str
    severity: Severity | None = None
    fix: str = ""
    kind: str = ""


class NotApplicable(Exception):
    """Raised in a rule's body when the subject of the rule does not exist on this machine; the message says why."""


@dataclass(frozen=True)
class Verdict:
    """The decision of `judge`. `reason` explains UNKNOWN, NOT_APPLICABLE, and a recorded deviation that did not occur."""

    rule: Rule
    outcome: Outcome
    severity: Severity
    violations: tuple[Violation, ...] = ()
    reason: str = ""
    deviation: Deviation | None = None


@dataclass(frozen=True, repr=False)
class Rule:
    """What both kinds declare. `passes` and `fails` are examples; the tests run them."""

    id: str
    title: str
    clause: Clause
    severity: Severity
    revisions: frozenset[str]
    doc: str

    @property
    def why(self) -> str:
        """Why the rule is there: paragraphs, from the docstring of its check."""
        from inspect import cleandoc  # takes longer to import than most rules to judge

        return cleandoc(self.doc)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def _verdict(self, outcome: Outcome, reason: str = "") -> Verdict:
        return Verdict(self, outcome, self.severity, reason=reason)

    def _found(self, violations: list[Violation], reason: str = "") -> Verdict:
        severity = _heaviest(violation.severity or self.severity for violation in violations)
        outcome = Outcome.REMARK if severity is Severity.INFO else Outcome.FAIL
        return Verdict(self, outcome, severity, tuple(violations), reason)


@dataclass(frozen=True, repr=False)
class MachineRule(Rule):
    """A rule of the hand-off. `names_protocol` marks the rules that are judged for every protocol of entry.

    `draft` is the clause of Draft A that says the same, if `clause` quotes a later text.
    """

    check: MachineCheck
    passes: tuple[Example, ...]
    fails: tuple[Example, ...]
    names_protocol: bool = field(default=False)
    draft: Clause | None = None

    def judge(self, boot: BootState) -> Verdict:
        """The verdict on one machine. Raises nothing: what could not be observed is UNKNOWN."""
        if self.draft is not None and boot.revision is DRAFT_A:
            return replace(self, clause=self.draft, draft=None).judge(boot)
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
        deviation = _matching(recorded, violations)
        if deviation is None:
            undecided = self._perhaps_recorded(boot, violations)
            if undecided:
                return self._verdict(Outcome.UNKNOWN, undecided)
            return self._found(violations, gap or self._almost_recorded(boot, violations))
        severity = _heaviest(violation.severity or self.severity for violation in violations)
        return Verdict(self, Outcome.KNOWN, severity, tuple(violations), deviation.why, deviation)

    def _recorded(self, boot: BootState) -> list[Deviation]:
        """The deviations on record for this VMM, version and firmware."""
        vmm, firmware = boot.snapshot.vmm, boot.firmware
        return [
            one
            for one in self._on_record(boot)
            if one.vmm == vmm.name and one.of_firmware(firmware.name if firmware else None) and one.covers(vmm.release())
        ]

    def _perhaps_recorded(self, boot: BootState, violations: list[Violation]) -> str:
        """The reason if a record may cover these violations, but VMM, version or firmware was not observed; else ""."""
        from pvhdbg.decode.boot_state import Unread

        vmm, firmware = boot.snapshot.vmm, boot.firmware
        told = {"VMM": vmm.name is not None, "version": bool(vmm.release()), "firmware": not isinstance(boot.firmware_part, Unread)}
        if all(told.values()) or not (told["VMM"] or firmware):  # without VMM and firmware nothing points to any record
            return ""
        possible = [
            one
            for one in self._on_record(boot)
            if (one.vmm == vmm.name or (one.firmware and not told["VMM"]))
            and (one.covers(vmm.release()) or not told["version"])
            and (one.of_firmware(firmware.name if firmware else None) or not told["firmware"])
        ]
        deviation = _matching(possible, violations)
        if deviation is None:
            return ""
        unseen = " and ".join(name for name, seen in told.items() if not seen and (name != "firmware" or deviation.firmware))
        return f"found {violations[0].found}, which {deviation.key} has on record for some {deviation.vmm}s; not observed here: {unseen}"

    def _almost_recorded(self, boot: BootState, violations: list[Violation]) -> str:
        """A hint if exactly this is on record for other versions of the VMM, which were not measured in this one yet, or for VMMs
        without a firmware, where the machine does not name its VMM; else ""."""
        vmm, firmware = boot.snapshot.vmm, boot.firmware
        records = self._on_record(boot)
        if vmm.name is None:
            perhaps = [one for one in records if not one.firmware and _matching([one], violations)]
            names = " and ".join(f"{one.key} for {one.versions()}" for one in perhaps)
            return f"on record as {names}; the machine does not name its VMM, --vmm does" if perhaps else ""
        mine = [one for one in records if one.vmm == vmm.name and one.of_firmware(firmware.name if firmware else None)]
        deviation = _matching([one for one in mine if not one.covers(vmm.release())], violations)
        if deviation is None:
            return ""
        return f"{deviation.key} has this on record for {deviation.versions()}; {vmm.name} {vmm.version} was not measured"

    def _on_record(self, boot: BootState) -> list[Deviation]:
        if not boot.snapshot.entry.by_vmm:
            return []  # a guest made this entry: the VMM's deviations do not apply
        from pvhdbg.spec.deviations import DEVIATIONS

        return [deviation for deviation in DEVIATIONS if deviation.rule == self.id]


@dataclass(frozen=True, repr=False)
class FileRule(Rule):
    """A rule of the kernel file. It needs no machine."""

    check: FileCheck
    passes: tuple[FileExample, ...]
    fails: tuple[FileExample, ...]

    def judge(self, kernel: KernelFile, revision: Revision = V1) -> Verdict:
        """The verdict on one file. Raises nothing."""
        if revision.name not in self.revisions:
            return self._verdict(Outcome.NOT_APPLICABLE, reason=f"{revision} has no such clause")
        try:
            violations = list(_bounded(self.check(kernel)))
        except NotApplicable as absent:
            return self._verdict(Outcome.NOT_APPLICABLE, reason=str(absent))
        return self._found(violations) if violations else self._verdict(Outcome.PASS)


_MOST_VIOLATIONS = 64  # listed for one rule: thousands of wrong entries in one table are one finding


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
        if all(deviation.holds(violation.kind or violation.found) for violation in violations):
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
    revisions: frozenset[str] = SHIPPED,
    passes: Iterable[Example],
    fails: Iterable[Example],
    names_protocol: bool = False,
    draft: str = "",
) -> Callable[[MachineCheck], MachineRule]:
    """Make a rule of the decorated function, of the revisions v0 and v1 unless others are named. Registers nothing.

    `explain` prints the function's docstring; `draft` quotes Draft A.
    """

    def declare(check: MachineCheck) -> MachineRule:
        before = Clause(DRAFT_A_MAIL, draft) if draft else None
        doc = check.__doc__ or ""
        return MachineRule(id, title, clause, severity, revisions, doc, check, tuple(passes), tuple(fails), names_protocol, before)

    return declare


def file_rule(
    id: str,
    title: str,
    *,
    clause: Clause,
    severity: Severity,
    revisions: frozenset[str] = SHIPPED,
    passes: Iterable[FileExample],
    fails: Iterable[FileExample],
) -> Callable[[FileCheck], FileRule]:
    """Like `rule`, for the kernel file."""

    def declare(check: FileCheck) -> FileRule:
        return FileRule(id, title, clause, severity, revisions, check.__doc__ or "", check, tuple(passes), tuple(fails))

    return declare


def collect(*chapters: Iterable[Rule]) -> tuple[Rule, ...]:
    """All rules of the chapters in order. Raises ValueError for an id that is declared twice."""
    rules = tuple(one for chapter in chapters for one in chapter)
    ids = [one.id for one in rules]
    twice = {id for id in ids if ids.count(id) > 1}
    if twice:
        raise ValueError(f"rule ids declared twice: {sorted(twice)}")
    return rules
