"""The report as one HTML file. Sections fold with HTML's `<details>`; `html_page` describes what a page may contain."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.report import html_machine, machine, timeline_svg
from pvhdbg.report.document import Report
from pvhdbg.report.findings import MEANINGS, VIOLATED, WORDS, Finding, by_chapter, sentence, sentences, tally, worst_first
from pvhdbg.report.html_page import page
from pvhdbg.report.markup import Markup, join, tag
from pvhdbg.rules.catalogue import CHAPTERS
from pvhdbg.rules.declare import Outcome
from pvhdbg.version import VERSION

_OPEN = (Outcome.FAIL, Outcome.KNOWN, Outcome.REMARK)  # these outcomes are unfolded


def render(report: Report) -> str:
    """The whole page."""
    sections = [
        ("checks", "Checks", _checks(report)),
        ("registers", "Registers", html_machine.registers(report.boot)),
        ("segments", "Segments", html_machine.segments(report.boot)),
        ("start-info", "start_info", html_machine.start_info(report.boot)),
        ("memory", "Physical memory", html_machine.memory(report.boot)),
        ("milestones", "Milestones", timeline_svg.render(report.milestones) if report.milestones else None),
        ("serial", "Serial port", tag("pre", "\n".join(report.serial)) if report.serial else None),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body is not None]
    body = join(
        _head(report),
        tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, title, _ in shown)),
        tag("main", *(tag("section", tag("h2", title), body, id=anchor) for anchor, title, body in shown)),
        _foot(report),
    )
    return page(f"{_word(report)}: {dict(machine.rows(report.boot))['kernel']}", body)


def _word(report: Report) -> str:
    if report.failure is not None:
        return "not observed"
    return "violated" if report.exit_code == VIOLATED else "undecided" if report.exit_code else "conforms"


def _head(report: Report) -> Markup:
    other = report.boot.other_protocol
    kind = {"violated": "bad", "not observed": "bad", "undecided": "warn"}.get(_word(report), "good")
    rows = [*machine.rows(report.boot), ("judged by", report.boot.revision.title), ("captured", report.boot.snapshot.captured)]
    entry = report.boot.snapshot.entry
    caution = None if entry.is_entry else "Decoded where the machine was stopped (--here): this need not be its entry."
    todo = report.failure and report.failure.todo and f"Next: {report.failure.todo}"
    notes = [note for note in (other.advice if other else None, caution, todo, *report.warnings) if note]
    return tag(
        "header",
        tag("h1", report.conclusion[:1].upper() + report.conclusion[1:], class_=kind),
        tag("p", *(_chip(outcome, number) for outcome, number in tally(report.verdicts)), class_="chips"),
        tag("dl", *(join(tag("dt", title), tag("dd", value)) for title, value in rows if value)),
        *(tag("p", note, class_="caution") for note in notes),
    )


def _chip(outcome: Outcome, number: int | None = None) -> Markup:
    return tag("span", WORDS[outcome] if number is None else f"{number} {WORDS[outcome]}", class_=f"chip {MEANINGS[outcome]}")


def _foot(report: Report) -> Markup:
    sources = ", ".join(f"{part} by {how}" for part, how in sorted(report.boot.snapshot.sources.items()))
    return tag("footer", f"pvhdbg {VERSION}, exit code {report.exit_code}", f"; seen: {sources}" if sources else None)


# --- checks -------------------------------------------------------------------------------------------------------


def _checks(report: Report) -> Markup:
    """Chapters in which something failed come first."""
    first = {
        finding.rule.id: place for place, finding in enumerate(worst_first(report.verdicts)) if finding.outcome is Outcome.FAIL
    }
    chapters = by_chapter(report.verdicts, CHAPTERS)
    chapters.sort(key=lambda chapter: min(first.get(one.rule.id, len(report.verdicts)) for one in chapter[1]))
    return join(*(_chapter(title, worst_first(verdicts)) for title, verdicts in chapters))


def _chapter(title: str, findings: Sequence[Finding]) -> Markup:
    shown = any(finding.outcome in _OPEN for finding in findings)
    chips = [_chip(outcome, number) for outcome, number in tally(findings)]
    head = tag("summary", tag("span", title, class_="title"), *chips)
    return tag("details", head, *map(_finding, findings), class_="chapter", open="" if shown else None)


def _finding(finding: Finding) -> Markup:
    rule = finding.rule
    head = tag("summary", _chip(finding.outcome), tag("code", rule.id), " ", rule.title, tag("small", finding.severity.value))
    found = [tag("li", sentence(one)) for one in finding.violations]
    rest = [tag("p", line) for line in sentences(finding)[len(finding.violations) :]]
    clause = rule.clause
    place = f", {clause.where}" if clause.where else ""
    link = tag("a", clause.document.name, href=clause.document.url, rel="noreferrer noopener")
    return tag(
        "details",
        head,
        tag("ul", *found) if found else None,
        *rest,
        tag("blockquote", f"“{clause.words}”", tag("cite", link, place)),
        *(tag("p", " ".join(part.split("\n"))) for part in rule.why.split("\n\n")),
        tag("p", finding.deviation.source, class_="dim") if finding.deviation is not None else None,
        class_="rule",
        open="" if finding.outcome in _OPEN else None,
    )
