"""Findings as JUnit XML, which Jenkins, GitLab, Azure and most other CI systems read: a suite for each boot, a case for each rule.

A case fails if it makes the exit code 1. It is an error if --strict requires a decision that could not be made. It is skipped
if the rule does not apply or is undecided, or if its violation is on record. A boot that could not be judged is one error.
The document is valid by both of Jenkins' schemas: the reason of a skipped case is therefore its text and not an attribute.
"""

from __future__ import annotations

from pvhdbg.report.findings import VIOLATED, Finding, RuleFacts, Standing, by_chapter, sentences, standing
from pvhdbg.report.listing import Listing
from pvhdbg.report.markup import Markup, tag
from pvhdbg.rules.catalogue import CHAPTERS

_SKIPPED = (Standing.EXCUSED, Standing.OPEN, Standing.ABSENT)


def render(listing: Listing) -> str:
    """The document of one suite."""
    chapters = by_chapter(listing.findings, CHAPTERS)
    found = [(title, finding, standing(finding, listing.strict)) for title, inside in chapters for finding in inside]
    standings = [one for _, _, one in found]
    failures, errors = standings.count(Standing.FAILED), standings.count(Standing.UNDECIDED)
    cases = [_verdict(title, finding, one) for title, finding, one in found]
    if listing.unexplained is not None:
        violated = listing.exit_code == VIOLATED
        cases.append(_case("conclusion", "pvh", tag("failure" if violated else "error", listing.unexplained)))
        failures, errors = failures + violated, errors + (not violated)
    whole = tag(
        "testsuite",
        tag("properties", *(tag("property", name=name, value=value) for name, value in listing.facts.items())),
        Markup("\n"),
        *(Markup(f"{case}\n") for case in cases),
        tag("system-out", listing.output),
        tag("system-err", "\n".join(listing.warnings)),
        name=listing.name,
        tests=len(cases),
        failures=failures,
        errors=errors,
        skipped=sum(1 for one in standings if one in _SKIPPED),
        timestamp=listing.timestamp,
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>{whole}</testsuites>\n'


def _verdict(chapter: str, finding: Finding, one: Standing) -> Markup:
    said, rule = sentences(finding), finding.rule
    inside: Markup | None = None
    if one is Standing.FAILED:
        told = "\n".join([*said, str(rule.clause), "", rule.why])
        inside = tag("failure", told, type=finding.severity.value, message=said[0] if said else rule.title)
    elif one is Standing.UNDECIDED:
        inside = tag("error", "\n".join(said), type="undecided", message=said[0] if said else "undecided")
    elif one in _SKIPPED:
        word = {Standing.EXCUSED: "known deviation", Standing.OPEN: "undecided"}.get(one, "does not apply")
        inside = tag("skipped", f"{word}: {'; '.join(said)}" if said else word)
    elif said:
        inside = tag("system-out", "\n".join(said))
    return _case(_name(rule), f"pvh.{chapter.lower().replace(' ', '_')}", inside)


def _name(rule: RuleFacts) -> str:
    return f"{rule.id}: {rule.title}"


def _case(name: str, chapter: str, inside: Markup | None) -> Markup:
    return tag("testcase", inside, classname=chapter, name=name)
