"""All rules as one Markdown page, from their declarations: what `explain` prints, with an anchor each to link to."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.rules.catalogue import CHAPTERS
from pvhdbg.rules.declare import Rule
from pvhdbg.spec.deviations import DEVIATIONS, Deviation

HEAD = """# The rules

Every rule that `pvhdbg check` judges by, as `pvhdbg explain ID` prints it. The rules of the first chapter are judged from the kernel's
file alone, all others from the machine at its entry. This page is written from the rules' own declarations by `make conformance`.
"""


def render() -> str:
    """The page."""
    lines = [HEAD]
    for title, rules in CHAPTERS:
        lines += [f"## {title}", "", "| rule | severity | |", "|---|---|---|"]
        lines += [f"| {link(rule.id)} | {rule.severity.value} | {escaped(rule.title)} |" for rule in rules]
        lines.append("")
        for rule in rules:
            lines += [*_section(rule), ""]
    return "\n".join(lines)


def link(id: str, page: str = "") -> str:
    """A link to the section of a rule or deviation, from that page itself or from another beside it (`page="rules.md"`)."""
    return linked(id, id, page)


def linked(text: str, id: str, page: str = "") -> str:
    """As `link`, with a text of its own."""
    return f"[{text}]({page}#{id.lower()})"


def _section(rule: Rule) -> Iterator[str]:
    clause, document = rule.clause, rule.clause.document
    yield f"### {rule.id}"
    yield ""
    yield f"**{rule.severity.value}**: {escaped(rule.title)} (judged by {', '.join(sorted(rule.revisions))})"
    yield ""
    yield f"> {escaped(clause.words)}"
    yield ">"
    where = f", {escaped(clause.where)}" if clause.where else ""
    yield f"> [{escaped(document.name)}]({document.url}){where} ({escaped(document.state)})"
    yield ""
    yield escaped(rule.why)
    for deviation in DEVIATIONS:
        if deviation.rule == rule.id:
            yield ""
            yield from _deviation(deviation)


def _deviation(deviation: Deviation) -> Iterator[str]:
    found = deviation.values() if deviation.found is None else " or ".join(code(one) for one in sorted(deviation.found))
    yield f"#### {deviation.key}"
    yield ""
    yield f"On record of {deviation.vmm}{_versions(deviation)} with {' or '.join(sorted(deviation.firmware))}: {found}."
    yield ""
    yield f"{escaped(deviation.why)}."
    yield ""
    yield f"Source: {escaped(deviation.source)}."


def _versions(deviation: Deviation) -> str:
    since, until = (".".join(map(str, bound)) for bound in (deviation.since, deviation.until))
    if since == until:
        return f" {since}" if since else ""
    return (f" {since}" if since else "") + (f" to {until}" if until else " and later")


def code(text: str) -> str:
    """`text` as a code span that stays one inside a table too."""
    return f"`{text.replace('`', chr(39)).replace('|', '¦')}`" if text else ""


def escaped(text: str) -> str:
    """`text` with what Markdown would take as its own made plain; lines stay lines."""
    for letter in "\\`*_<>[]|":
        text = text.replace(letter, f"\\{letter}")
    return text
