"""The report as Markdown (CommonMark with GitHub's tables): for an issue, a wiki, or the summary of a CI step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pvhdbg.errors import PvhdbgError
from pvhdbg.report import machine, text
from pvhdbg.report.document import Report
from pvhdbg.report.findings import VIOLATED, WORDS, Finding, by_chapter, by_reason, sentence, sentences, tally
from pvhdbg.report.markdown_text import escaped, fenced
from pvhdbg.report.style import PLAIN
from pvhdbg.rules.catalogue import CHAPTERS
from pvhdbg.rules.declare import Outcome
from pvhdbg.version import VERSION

_SIGNS = {
    Outcome.PASS: "✅",
    Outcome.FAIL: "❌",
    Outcome.KNOWN: "⚠️",
    Outcome.UNKNOWN: "❔",
    Outcome.REMARK: "💬",
    Outcome.NOT_APPLICABLE: "➖",
}
_SHOWN = (Outcome.FAIL, Outcome.KNOWN, Outcome.REMARK)
_SUMMARY_BOUND = 900 << 10  # bytes; GitHub drops a summary of more than 1 MiB
_LINE = 4096  # characters of a guest's string that the report shows


def render(report: Report) -> str:
    """The whole report."""
    boot = report.boot
    blocks = [
        *_head(report),
        *_findings(report.verdicts),
        "## Checks\n\n" + _checks(report),
        "## Registers\n\n" + fenced(text.registers(boot)),
        "## Segments\n\n" + fenced(text.segments(boot)),
        "## start\\_info\n\n" + fenced(text.info(boot, PLAIN, _LINE)),
    ]
    if report.serial:
        blocks.append("## Serial port\n\n" + fenced(report.serial))
    blocks.append(f"*pvhdbg {VERSION}*")
    return "\n\n".join(blocks) + "\n"


def render_summary(report: Report, bound: int = _SUMMARY_BOUND) -> str:
    """The text for $GITHUB_STEP_SUMMARY: the verdict and its findings, in at most `bound` bytes of UTF-8."""
    kept: list[str] = []
    for block in (*_head(report), *_findings(report.verdicts), _checks(report)):
        if sum(len(one.encode()) + 2 for one in (*kept, block)) > bound - 100:
            kept.append("*… the rest is left out: the summary would be too long*")
            break
        kept.append(block)
    return "\n\n".join(kept) + "\n\n"


def render_error(error: PvhdbgError) -> str:
    """The text for $GITHUB_STEP_SUMMARY if nothing could be judged."""
    todo = f"next: {escaped(error.todo)}\n\n" if error.todo else ""
    return f"# ❌ {escaped(_sentence(error.what))}\n\n{todo}"


def _head(report: Report) -> list[str]:
    sign = "❌" if report.exit_code == VIOLATED or report.failure is not None else "❔" if report.exit_code else "✅"
    counts = ", ".join(f"{number} {WORDS[outcome]}" for outcome, number in report.summary.items() if number)
    rows = [(title, value) for title, value in machine.rows(report.boot)]
    blocks = [
        f"# {sign} {escaped(_sentence(report.conclusion))}",
        f"{escaped(counts)} (exit {report.exit_code}), judged by {escaped(report.boot.revision.title)}",
        _table(("", ""), rows),
    ]
    if report.boot.other_protocol is not None:
        blocks.append(escaped(report.boot.other_protocol.advice))
    if report.failure is not None and report.failure.todo:
        blocks.append(f"next: {escaped(report.failure.todo)}")
    return blocks + [f"> **Note:** {escaped(warning)}" for warning in report.warnings]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _findings(findings: Sequence[Finding]) -> list[str]:
    blocks = [_finding(finding) for outcome in _SHOWN for finding in findings if finding.outcome is outcome]
    undecided = by_reason(findings)
    if undecided:
        rows = [(reason, ", ".join(ids)) for reason, ids in undecided.items()]
        blocks.append("### ❔ Undecided\n\n" + _table(("why", "rules"), rows))
    return ["## Findings", *blocks] if blocks else []


def _finding(finding: Finding) -> str:
    rule = finding.rule
    title = f"### {_SIGNS[finding.outcome]} {escaped(rule.id)}: {escaped(rule.title)} ({finding.severity.value})"
    lines = [f"- {escaped(sentence(one))}" for one in finding.violations]
    excused = [f"- {escaped(line)}" for line in sentences(finding)[len(finding.violations) :]]
    why = ["", escaped(rule.why)] if finding.outcome is Outcome.FAIL else []
    clause = ["", f"> {escaped(str(rule.clause))} ([source](<{rule.clause.document.url}>))"]
    return "\n".join([title, "", *lines, *excused, *why, *clause])


def _checks(report: Report) -> str:
    outcomes = [outcome for outcome, _ in tally(report.verdicts)]
    rows = []
    for title, verdicts in by_chapter(report.verdicts, CHAPTERS):
        counted = dict(tally(verdicts))
        rows.append((title, *(str(counted.get(outcome, "")) for outcome in outcomes)))
    return _table(("chapter", *(f"{_SIGNS[outcome]} {WORDS[outcome]}" for outcome in outcomes)), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), _row(["---"] * len(head), raw=True), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str], raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else escaped(cell) for cell in cells) + " |"
