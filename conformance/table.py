"""The page docs/conformance.md, from the results of the boots. Pure; the same boots in any order give the same page: no dates or times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from conformance.boots import PVH, Boot, Case
from conformance.cells import DEVIATES, WORDS, Column, cell, column_of, columns_of, row, verdicts_on, worst
from conformance.host import size_of
from conformance.matrix import Found
from pvhdbg.decode.text import printable, shorten
from pvhdbg.report.rules_page import code, escaped, link
from pvhdbg.rules.catalogue import MACHINE_RULES
from pvhdbg.rules.declare import Outcome, Rule, Severity, Verdict
from pvhdbg.rules.files import FILE_RULES

RULES_PAGE = "rules.md"
_FOUND = 4  # values of one rule that are shown of each machine
_WIDTH = 160  # characters of a value
_ALL_RULES = "### All rules: "

HEAD = """# What VMMs hand over

Every sample guest was booted on every machine and firmware of the QEMUs below. `pvhdbg check` judged the hand-off at the entry in its
note by the published text (version 1). `make conformance` boots them again and writes this page. Each rule and each recorded deviation
links to its place on the [page of rules]({rules}); `pvhdbg explain ID` prints the same text.

- VMMs: {programs}; accelerator TCG
- memory: {memory}
- modules: {modules}
- sample guests: {guests}
- boots: {count}

A firmware is identified by its traces in memory, not by the name of its file.
"""
LEGEND = """- **FAIL**: violated, without a record
- KNOWN: violated exactly as it is on record for this VMM, version and firmware
- unknown: it could not be observed
- an empty cell: passed, or does not apply

An outcome without a condition occurs in all boots to which the rule applies.
"""

Columns = Mapping[Column, Sequence[Boot]]


def render(boots: Iterable[Boot], found: Iterable[Found] = ()) -> str:
    """The whole page."""
    boots = sorted(boots, key=lambda boot: _case_order(boot.case))
    reached = [boot for boot in boots if not boot.failure]
    judged = columns_of(boot for boot in reached if boot.protocol == PVH)
    blocks = [
        _head(reached),
        _deviations(judged),
        _remarks(judged),
        _found(judged),
        _every_rule(judged),
        _sample_guests(reached),
        _no_hand_off(found),
        _failures(boots),
    ]
    return "\n".join(line for block in blocks for line in block)


def unrecorded(boots: Iterable[Boot]) -> list[str]:
    """The ids of rules that a VMM's own hand-off fails without a record, sorted."""
    return sorted({v.rule.id for boot in boots if boot.protocol == PVH for v in boot.verdicts if v.outcome is Outcome.FAIL})


def programs(page: str) -> set[str]:
    """The VMMs on a page of this program, as the page names them."""
    return {line.removeprefix(_ALL_RULES) for line in page.splitlines() if line.startswith(_ALL_RULES)}


def _case_order(case: Case) -> tuple[str, int, int, str, str]:
    return case.guest, size_of(case.memory), case.module, case.setup.machine, case.setup.bios or ""


# --- the page's parts ---------------------------------------------------------------------------------------------


def _head(reached: Sequence[Boot]) -> Iterator[str]:
    cases = [boot.case for boot in reached]
    modules = [f"one of {size} bytes" if size else "none" for size in sorted({case.module for case in cases})]
    yield HEAD.format(
        rules=RULES_PAGE,
        programs=", ".join(escaped(name) for name in _programs(columns_of(reached))),
        memory=", ".join(sorted({case.memory for case in cases}, key=size_of)),
        modules=", ".join(modules),
        guests=", ".join(f"`{name}`" for name in sorted({case.guest for case in cases})),
        count=len(reached),
    )


def _deviations(columns: Columns) -> Iterator[str]:
    yield "## Deviations"
    yield ""
    yield LEGEND
    yield from _matrix(columns, DEVIATES, lambda rule: rule.severity is not Severity.INFO)


def _remarks(columns: Columns) -> Iterator[str]:
    yield "## Remarks"
    yield ""
    yield "Behaviour that no text forbids, but that the author of a guest may need to know; some of it is on record."
    yield ""
    yield from _matrix(columns, (*DEVIATES, Outcome.REMARK), lambda rule: rule.severity is Severity.INFO)


def _matrix(columns: Columns, outcomes: Sequence[Outcome], wanted: Callable[[Rule], bool]) -> Iterator[str]:
    rules = [rule for rule in MACHINE_RULES if wanted(rule) and any(_has(boots, rule, outcomes) for boots in columns.values())]
    if not rules:
        yield "None."
        yield ""
        return
    yield from _header("VMM", "firmware", "machine", *(f"{link(rule.id, RULES_PAGE)} {rule.severity.value}" for rule in rules))
    for column, boots in columns.items():
        yield row([*column.names, *(cell(boots, rule, outcomes, RULES_PAGE) for rule in rules)])
    yield ""


def _found(columns: Columns) -> Iterator[str]:
    yield "## What was found"
    yield ""
    for rule in MACHINE_RULES:
        lines = list(_values(columns, rule))
        if lines:
            yield f"### {rule.id}: {escaped(rule.title)}"
            yield ""
            yield f"{rule.severity.value}, {link(rule.id, RULES_PAGE)}"
            yield ""
            yield from _header("VMM", "firmware", "machines", "outcome", "found")
            yield from lines
            yield ""


def _values(columns: Columns, rule: Rule) -> Iterator[str]:
    """A line for each VMM, firmware, outcome and value, with all machines that showed it."""
    machines: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for column, boots in columns.items():
        seen: dict[str, dict[str, None]] = {}
        for _, verdict in verdicts_on(boots, rule):
            if verdict.outcome in (*DEVIATES, Outcome.REMARK):
                seen.setdefault(_outcome(verdict), {}).update(dict.fromkeys(_texts(verdict)))
        for outcome, texts in seen.items():
            shown = [code(shorten(printable(text), _WIDTH)) for text in list(texts)[:_FOUND]]
            more = [f"and {len(texts) - _FOUND} more"] if len(texts) > _FOUND else []
            key = column.program, column.firmware, outcome, "<br>".join(shown + more)
            machines.setdefault(key, {})[f"`{column.machine}`"] = None
    for (program, firmware, outcome, texts_shown), where in machines.items():
        yield row([escaped(program), escaped(firmware), ", ".join(where), outcome, texts_shown])


def _outcome(verdict: Verdict) -> str:
    return link(verdict.deviation.key, RULES_PAGE) if verdict.deviation is not None else WORDS[verdict.outcome]


def _texts(verdict: Verdict) -> list[str]:
    return [f"{one.at}: {one.found}" for one in verdict.violations] or [verdict.reason]


def _every_rule(columns: Columns) -> Iterator[str]:
    yield "## Every rule"
    yield ""
    for program in _programs(columns):
        mine = {column: boots for column, boots in columns.items() if column.program == program}
        yield f"{_ALL_RULES}{escaped(program)}"
        yield ""
        yield from _header("rule", "", *(f"`{column.machine}` {escaped(column.firmware)}" for column in mine))
        for rule in MACHINE_RULES:
            cells = (worst(boots, rule, RULES_PAGE) for boots in mine.values())
            yield row([link(rule.id, RULES_PAGE), rule.severity.value, *cells])
        yield ""


def _sample_guests(reached: Sequence[Boot]) -> Iterator[str]:
    yield "## The sample guests"
    yield ""
    yield "The protocol by which each was entered, and the verdicts on its file. Guests that demonstrate a defect have it on purpose."
    yield ""
    names = _programs(columns_of(reached))
    yield from _header("guest", *(escaped(name) for name in names), "its file")
    for guest in sorted({boot.case.guest for boot in reached}):
        mine = [boot for boot in reached if boot.case.guest == guest]
        entered = [sorted({boot.protocol for boot in mine if column_of(boot).program == name}) for name in names]
        yield row([f"`{guest}`", *(escaped(" or ".join(one)) or "no hand-off" for one in entered), _file(mine[0])])
    yield ""


def _file(boot: Boot) -> str:
    verdicts = [verdict for verdict in boot.file_verdicts if verdict.outcome in (*DEVIATES, Outcome.REMARK)]
    order = [rule.id for rule in FILE_RULES]
    verdicts.sort(key=lambda verdict: order.index(verdict.rule.id))
    return "<br>".join(f"{link(verdict.rule.id, RULES_PAGE)} {WORDS[verdict.outcome]}" for verdict in verdicts) or "passes"


def _no_hand_off(found: Iterable[Found]) -> Iterator[str]:
    """The combinations of machine and firmware that make no hand-off."""
    lines = [f"- QEMU {escaped(one.version)}: `{setup.options}`" for one in found for setup in one.barren]
    if lines:
        yield "## Machines and firmwares that make no hand-off"
        yield ""
        yield from lines
        yield ""


def _failures(boots: Sequence[Boot]) -> Iterator[str]:
    lines = [f"- {escaped(f'{boot.case}: {shorten(printable(boot.failure), _WIDTH)}')}" for boot in boots if boot.failure]
    if lines:
        yield "## Boots that made no hand-off"
        yield ""
        yield from dict.fromkeys(lines)
        yield ""


def _has(boots: Sequence[Boot], rule: Rule, outcomes: Sequence[Outcome]) -> bool:
    return any(verdict.outcome in outcomes for _, verdict in verdicts_on(boots, rule))


def _programs(columns: Columns) -> list[str]:
    return list(dict.fromkeys(column.program for column in columns))


def _header(*names: str) -> Iterator[str]:
    yield row(names)
    yield row(["---"] * len(names))
