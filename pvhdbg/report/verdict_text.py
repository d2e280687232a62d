"""Verdicts as text: a tally of each chapter, then every finding with its clause, why it matters, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pvhdbg.decode.text import printable
from pvhdbg.report.findings import MEANINGS, WORDS, Chapters, by_chapter, by_reason, sentence, tally, worst_first
from pvhdbg.report.style import Style
from pvhdbg.rules.declare import Outcome, Verdict


def checks(verdicts: Sequence[Verdict], chapters: Chapters, title: str, style: Style) -> list[str]:
    """The tallies and the findings; rules that passed are listed only if they have a note."""
    lines = [style("head", title)]
    for chapter, judged in by_chapter(verdicts, chapters):
        if not all(verdict.outcome is Outcome.NOT_APPLICABLE for verdict in judged):
            lines.append(f"  {chapter:<16} {_tally(judged, style)}")
    for verdict in worst_first(verdicts):
        if verdict.outcome in (Outcome.FAIL, Outcome.KNOWN, Outcome.REMARK):
            lines += _finding(verdict, style)
    lines += _unknown(verdicts, style)
    lines += [
        style("note", f"  note: {verdict.rule.id}: {printable(verdict.reason)}")
        for verdict in verdicts
        if verdict.outcome is Outcome.PASS and verdict.reason
    ]
    return lines


def failing(verdicts: Sequence[Verdict], style: Style) -> list[str]:
    """The violated rules, a line for each, with what was found."""
    return [
        f"{style(MEANINGS[one.outcome], WORDS[one.outcome])} {one.rule.id}  {'; '.join(map(sentence, one.violations)) or one.rule.title}"
        for one in worst_first(verdicts)
        if one.outcome is Outcome.FAIL
    ]


def conclusion(sentence: str, summary: Mapping[Outcome, int], exit_code: int, style: Style) -> str:
    """The last line: the conclusion, the counts, the exit code."""
    counts = ", ".join(f"{number} {WORDS[outcome]}" for outcome, number in summary.items() if number)
    meaning = "bad" if exit_code == 1 else "warn" if exit_code else "good"
    return f"{style(meaning, sentence)}: {counts} (exit {exit_code})"


def _tally(verdicts: list[Verdict], style: Style) -> str:
    return ", ".join(style(MEANINGS[outcome], f"{number} {WORDS[outcome]}") for outcome, number in tally(verdicts))


def _finding(verdict: Verdict, style: Style) -> list[str]:
    rule = verdict.rule
    word = style(MEANINGS[verdict.outcome], f"{WORDS[verdict.outcome]:<7}")
    lines = ["", f"{word} {style('head', rule.id)}  {rule.title}  [{verdict.severity.value}]"]
    lines += [f"        {sentence(one)}" for one in verdict.violations]
    lines.append(style("dim", f"        {rule.clause}"))
    if verdict.outcome is Outcome.FAIL:
        lines += [f"        {line}" for line in rule.why.splitlines()]
    if verdict.deviation is not None:
        lines.append(f"        on record as {verdict.deviation.key}: {verdict.deviation.why}")
        lines.append(style("dim", f"        {verdict.deviation.source}"))
    elif verdict.reason:
        lines.append(f"        {printable(verdict.reason)}")
    for fix in dict.fromkeys(one.fix for one in verdict.violations if one.fix):
        lines += _wrapped(f"fix: {fix}", 128, hang=5, long_words=False)
    return lines


def _unknown(verdicts: Iterable[Verdict], style: Style) -> list[str]:
    """The undecided rules by reason: one missing observation often leaves many rules undecided."""
    lines = []
    for reason, ids in by_reason(verdicts).items():
        lines += ["", f"{style('warn', 'UNKNOWN')} {printable(reason)}"]
        lines += _wrapped(", ".join(ids), 112, hyphens=False)
    return lines


def _wrapped(text: str, width: int, *, hang: int = 0, long_words: bool = True, hyphens: bool = True) -> list[str]:
    from textwrap import wrap  # here: a report without long texts does not need it

    first, others = " " * 8, " " * (8 + hang)
    return wrap(text, width, initial_indent=first, subsequent_indent=others, break_long_words=long_words, break_on_hyphens=hyphens)
