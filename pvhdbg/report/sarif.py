"""Verdicts as SARIF 2.1.0 (OASIS), which code scanning services read.

One run, with one result for each verdict that a reader should see: a violation is of kind `fail`, a recorded deviation is a
`fail` with an accepted suppression, a remark is `informational`, an undecided rule `open`. Rules that passed or did not apply
are listed among the tool's rules and give no result: GitHub shows a result of any kind as an alert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pvhdbg.decode.text import SafeText, printable, safe
from pvhdbg.report.document import Report
from pvhdbg.report.findings import Finding, RuleFacts, level, sentences
from pvhdbg.report.json_text import written
from pvhdbg.report.markdown_text import escaped
from pvhdbg.rules.declare import Outcome
from pvhdbg.version import VERSION

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
_KINDS = {Outcome.FAIL: "fail", Outcome.KNOWN: "fail", Outcome.REMARK: "informational", Outcome.UNKNOWN: "open"}


@dataclass(frozen=True)
class Region:
    """A part of a file: by lines of a text (from 1), or by bytes of a binary. None is "not known"."""

    line: int | None = None
    offset: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Location:
    """The file that the findings are about: a URI reference, and the URI of the folder to which a relative one refers.

    `uri` is percent-encoded; code scanning matches a relative one with the repository's files.
    """

    uri: str
    base: str | None = None


@dataclass(frozen=True)
class About:
    """The properties of the whole run: its exit code, its warnings, why it failed, and facts for its property bag."""

    exit_code: int = 0
    warnings: Sequence[SafeText] = ()
    errors: Sequence[str] = ()  # why the machine was not observed
    facts: Mapping[str, Any] = field(default_factory=dict)


def render(report: Report, location: Location | None = None) -> str:
    """The SARIF log of one boot, as text."""
    vmm, kernel = report.boot.snapshot.vmm, report.boot.snapshot.kernel
    facts = {
        "conclusion": report.conclusion,
        "spec": report.boot.revision.name,
        "strict": report.strict,
        "summary": {outcome.value: count for outcome, count in report.summary.items()},
        "vmm": _printable(" ".join(part for part in (vmm.name, vmm.version) if part)),
        "buildId": _printable(kernel.build_id if kernel else None),
        "captured": _printable(report.boot.snapshot.captured),
    }
    failure = report.failure
    told = () if failure is None else tuple(part for part in (failure.what, failure.todo) if part)
    about = About(
        report.exit_code, report.warnings, errors=told, facts={name: value for name, value in facts.items() if value is not None}
    )
    return rendered(document(report.verdicts, location, about))


def rendered(log: Mapping[str, Any]) -> str:
    """A log as text."""
    return written(log)


def document(
    findings: Iterable[Finding],
    location: Location | None = None,
    about: About | None = None,
    regions: Callable[[Finding], Sequence[Region]] = lambda _: (),
) -> dict[str, Any]:
    """The log as plain values. `regions` gives the place of a finding in the file, if it is known."""
    found, about = tuple(findings), about or About()
    rules = list({finding.rule.id: finding.rule for finding in found}.values())
    index = {rule.id: number for number, rule in enumerate(rules)}
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "pvhdbg",
                "version": VERSION,
                "semanticVersion": VERSION,
                "rules": [_descriptor(rule) for rule in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not about.errors,
                "exitCode": about.exit_code,
                "toolExecutionNotifications": [
                    {"level": level, "message": _message([one])}
                    for level, words in (("note", about.warnings), ("error", about.errors))
                    for one in words
                ],
            }
        ],
        "results": [_result(one, index[one.rule.id], location, regions(one)) for one in found if one.outcome in _KINDS],
        "columnKind": "unicodeCodePoints",
    }
    if location is not None:
        run["artifacts"] = [{"location": _artifact(location), "roles": ["analysisTarget"]}]
        if location.base is not None:
            run["originalUriBaseIds"] = {_ROOT: {"uri": location.base if location.base.endswith("/") else f"{location.base}/"}}
    if about.facts:
        run["properties"] = dict(about.facts)
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _printable(text: str | None) -> str | None:
    return printable(text) if text else None


def _descriptor(rule: RuleFacts) -> dict[str, Any]:
    clause = str(rule.clause)
    return {
        "id": rule.id,
        "shortDescription": {"text": _text(rule.title)},
        "fullDescription": {"text": _text(rule.why)},
        "helpUri": rule.clause.document.url,
        "help": {
            "text": _text(f"{rule.why}\n\n{clause}\n{rule.clause.document.url}"),
            "markdown": _braced(f"{escaped(rule.why)}\n\n> {escaped(clause)}\n\n<{rule.clause.document.url}>"),
        },
        "defaultConfiguration": {"level": level(rule.severity).value},
        "properties": {"severity": rule.severity.value, "clause": clause, "tags": ["pvh", "boot-abi"]},
    }


def _result(finding: Finding, rule: int, location: Location | None, regions: Sequence[Region]) -> dict[str, Any]:
    kind = _KINDS[finding.outcome]
    shown: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "ruleIndex": rule,
        "kind": kind,
        "level": level(finding.severity).value if kind == "fail" else "none",  # 3.27.10: none, unless it failed
        "message": _message([f"{finding.rule.title}.", *sentences(finding)]),
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(finding)},
    }
    if location is not None:
        shown["locations"] = [_physical(location, region) for region in (regions or (None,))]
    if finding.deviation is not None:
        justification = _text(f"{finding.deviation.key}: {finding.deviation.why} ({finding.deviation.source})")
        shown["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
    return shown


def _physical(location: Location, region: Region | None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {**_artifact(location), "index": 0}}
    if region is not None:
        parts = {"startLine": region.line, "byteOffset": region.offset, "byteLength": region.size}
        place["region"] = {name: value for name, value in parts.items() if value is not None}
    return {"physicalLocation": place}


def _artifact(location: Location) -> dict[str, Any]:
    return {"uri": location.uri} if location.base is None else {"uri": location.uri, "uriBaseId": _ROOT}


def _fingerprint(finding: Finding) -> str:
    """Equal for the same rule at the same places, so that an alert stays the same alert from commit to commit."""
    places = "\n".join([finding.rule.id, *(one.at for one in finding.violations)])
    return f"{sha256(places.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}:1"


def _message(lines: Sequence[str]) -> dict[str, str]:
    return {"text": _text("\n".join(safe(line) for line in lines))}


def _text(text: str) -> str:
    """Plain text without any placeholder (3.11.5) or link (3.11.6), accidental or malicious."""
    return _braced(text.replace("](", "] ("))


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
