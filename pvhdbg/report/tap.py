"""Findings as TAP version 13 (testanything.org) and as KTAP version 1 (Linux, Documentation/dev-tools/ktap.rst).

TAP is flat: a point for each rule, a failure's details in a YAML block, a deviation on record as TODO. KTAP nests the rules
under their chapters, like the kernel's own suites, and gives details in `#` lines above the result.
"""

from __future__ import annotations

from pvhdbg.decode.text import printable
from pvhdbg.report.findings import Finding, Standing, by_chapter, sentences, standing
from pvhdbg.report.listing import Listing
from pvhdbg.rules.catalogue import CHAPTERS

_BAD = (Standing.FAILED, Standing.UNDECIDED)
_SKIP = {Standing.OPEN: "undecided: ", Standing.ABSENT: ""}


def render(listing: Listing) -> str:
    """TAP."""
    lines = _head("TAP version 13", len(listing.findings), listing)
    for number, finding in enumerate(listing.findings, 1):
        lines += _point(number, finding, standing(finding, listing.strict))
    if listing.unexplained is not None:
        lines.append(f"not ok {len(listing.findings) + 1} - {_escaped(listing.unexplained)}")
    return "\n".join(lines) + "\n"


def render_ktap(listing: Listing) -> str:
    """KTAP: one test for each chapter, with its rules nested."""
    chapters = by_chapter(listing.findings, CHAPTERS)
    lines = _head("KTAP version 1", len(chapters), listing)
    for number, (title, findings) in enumerate(chapters, 1):
        standings = [standing(finding, listing.strict) for finding in findings]
        lines += ["  KTAP version 1", f"  1..{len(findings)}"]
        for inner, (finding, one) in enumerate(zip(findings, standings, strict=True), 1):
            lines += [f"  # {finding.rule.id}: {_flat(said)}" for said in (sentences(finding) if _details(one) else ())]
            lines.append(f"  {_word(one)} {inner} {finding.rule.id}{_ktap_directive(finding, one)}")
        outcome = "not ok" if any(one in _BAD for one in standings) else "ok"
        absent = " # SKIP no rule of the chapter applies" if all(one is Standing.ABSENT for one in standings) else ""
        lines.append(f"{outcome} {number} {title.lower().replace(' ', '_')}{absent}")
    if listing.unexplained is not None:
        lines.append(f"not ok {len(chapters) + 1} {_flat(listing.unexplained)}")
    return "\n".join(lines) + "\n"


def _head(version: str, tests: int, listing: Listing) -> list[str]:
    facts = [*listing.rows, *listing.warnings, f"{listing.conclusion} (exit {listing.exit_code})"]
    return [version, f"1..{tests + (listing.unexplained is not None)}", *(f"# {_flat(fact)}" for fact in facts)]


def _word(one: Standing) -> str:
    return "not ok" if one in _BAD else "ok"


def _details(one: Standing) -> bool:
    return one in (*_BAD, Standing.EXCUSED, Standing.ADVICE)


def _point(number: int, finding: Finding, one: Standing) -> list[str]:
    said = sentences(finding)
    known = finding.deviation
    directive = f" # SKIP {_flat(_SKIP[one] + '; '.join(said))}" if one in _SKIP else ""
    if one is Standing.EXCUSED and known is not None:  # TODO is TAP's directive for an expected failure
        directive = f" # TODO on record as {_flat(known.key)}"
    word = "not ok" if one is Standing.EXCUSED else _word(one)
    lines = [f"{word} {number} - {_escaped(f'{finding.rule.id} {finding.rule.title}')}{directive}"]
    if _details(one) and said:
        rows = [("severity", finding.severity.value), ("clause", str(finding.rule.clause))]
        lines += ["  ---", *(f"  {key}: {_quoted(value)}" for key, value in rows)]
        lines += ["  details: |", *(f"    {_visible(line)}" for line in said), "  ..."]
    return lines


def _ktap_directive(finding: Finding, one: Standing) -> str:
    if one in _SKIP:
        return f" # SKIP {_flat(_SKIP[one] + '; '.join(sentences(finding)))}"
    if one is Standing.EXCUSED and finding.deviation is not None:
        return f" # XFAIL on record as {_flat(finding.deviation.key)}"
    return ""


def _visible(text: str) -> str:
    return "".join(letter if letter.isprintable() else printable(letter) for letter in text).strip() or "-"


def _flat(text: str) -> str:
    """One line without the beginning of a directive."""
    return " ".join(_visible(text).replace("#", "＃").split())


def _escaped(text: str) -> str:
    """A TAP description: `#` is escaped, since it would begin a directive."""
    return " ".join(_visible(text).replace("\\", "\\\\").replace("#", "\\#").split())


def _quoted(text: str) -> str:
    """A single-quoted YAML scalar, whose only escape is the doubled quote."""
    return "'" + _visible(text).replace("'", "''") + "'"
