"""Several VMMs that booted the probe, rule by rule; and the list of the VMMs that can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pvhdbg.decode.text import printable
from pvhdbg.errors import PvhdbgError
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.answers.tool import ProbedVmmState, ProbeListAnswer, ProbeTableAnswer, RuleByVmm
from pvhdbg.report.document import Report
from pvhdbg.report.findings import WORDS
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.rules.declare import Outcome, Rule, Verdict

_QUIET = (Outcome.PASS, Outcome.NOT_APPLICABLE)
_CELLS = {Outcome.PASS: "pass", Outcome.NOT_APPLICABLE: "-"}


@dataclass(frozen=True)
class Column:
    """One VMM: the report on its hand-off, or what is `missing` here, or the `failure` of its boot."""

    name: str
    title: str
    report: Report | None = None
    missing: str = ""
    failure: PvhdbgError | None = None

    @property
    def version(self) -> str:
        return printable((self.report.boot.snapshot.vmm.version or "") if self.report else "")


@dataclass(frozen=True)
class VmmTable:
    """The VMMs in order."""

    columns: tuple[Column, ...]

    @property
    def judged(self) -> list[tuple[Column, Report]]:
        return [(column, column.report) for column in self.columns if column.report is not None]

    @property
    def exit_code(self) -> int:
        """The worst of the reports'; 3 where a VMM is here and did not boot the probe, or none is here."""
        codes = [report.exit_code for _, report in self.judged]
        codes += [3] if any(column.failure for column in self.columns) or not codes else []
        return 1 if 1 in codes else max(codes)


def render(table: VmmTable, style: Style = PLAIN) -> str:
    """The table as text: a line for each VMM, and a line for each rule that is not passed everywhere."""
    return "".join(f"{line}\n" for line in _lines(table, style))


def _lines(table: VmmTable, style: Style) -> Iterator[str]:
    yield style("head", "The probe under each VMM")
    wide = max(len(column.name) for column in table.columns)
    for column in table.columns:
        if column.report is not None:
            yield f"  {column.name:<{wide}}  {column.version:<8} {printable(column.report.conclusion)}"
        elif column.failure is not None:
            yield f"  {column.name:<{wide}}  failed: {printable(column.failure.what)}"
        else:
            yield f"  {column.name:<{wide}}  not here: {printable(column.missing)}"
    rows = [(rule, cells) for rule, cells in _rows(table) if any(cell and cell.outcome not in _QUIET for cell in cells)]
    if not rows:
        return
    yield ""
    widths = [max(len(column.name), 7) for column, _ in table.judged]
    first = max(len(rule.id) for rule, _ in rows)
    yield style(
        "head",
        "  ".join([f"{'rule':<{first}}", *(f"{c.name:<{w}}" for (c, _), w in zip(table.judged, widths, strict=True))]).rstrip(),
    )
    for rule, cells in rows:
        words = [f"{_word(cell):<{width}}" for cell, width in zip(cells, widths, strict=True)]
        yield "  ".join([f"{rule.id:<{first}}", *words, rule.severity.value])
    yield ""
    yield "all other rules are passed, or do not apply; pvhdbg probe --run VMM shows one of them in full"


def _word(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return _CELLS.get(verdict.outcome) or WORDS[verdict.outcome]


def _rows(table: VmmTable) -> Iterable[tuple[Rule, Sequence[Verdict | None]]]:
    """Each rule with the verdict of each report, in the order of the rules."""
    by_column = [{verdict.rule.id: verdict for verdict in report.verdicts} for _, report in table.judged]
    rules = {verdict.rule.id: verdict.rule for _, report in table.judged for verdict in report.verdicts}
    return [(rule, [verdicts.get(id) for verdicts in by_column]) for id, rule in rules.items()]


def render_json(table: VmmTable) -> str:
    """The table as JSON."""
    vmms = tuple(
        ProbedVmmState(
            column.name,
            column.title,
            column.version or None,
            printable(column.missing) or None,
            printable(column.failure.what) if column.failure else None,
            printable(column.report.conclusion) if column.report else None,
            column.report.exit_code if column.report else None,
        )
        for column in table.columns
    )
    rules = tuple(
        RuleByVmm(
            rule.id,
            rule.severity.value,
            {column.name: cell.outcome.value for (column, _), cell in zip(table.judged, cells, strict=True) if cell},
        )
        for rule, cells in _rows(table)
    )
    return json_of(ProbeTableAnswer(vmms, rules, table.exit_code))


def render_list(answer: ProbeListAnswer) -> str:
    """The list as text: what is here with its version, and for the others what is missing and what to do."""
    wide = max(len(one.name) for one in answer.vmms)
    lines = []
    for one in answer.vmms:
        if one.missing:
            lines += [f"{one.name:<{wide}}  not here: {printable(one.missing)}", f"{'':<{wide}}  next: {printable(one.todo or '')}"]
        else:
            lines.append(f"{one.name:<{wide}}  {printable(one.version or 'of unknown version')}, {printable(one.path or '')}")
    return "".join(f"{line}\n" for line in lines)
