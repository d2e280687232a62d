"""All rules as one Markdown page, from their declarations: what `explain` prints, with an anchor for each rule."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.rules.catalogue import CHAPTERS
from pvhdbg.rules.declare import Rule
from pvhdbg.spec.deviations import DEVIATIONS, Deviation

HEAD = """# The rules

All rules of `pvhdbg check`, as `pvhdbg explain ID` prints them. The rules of the first chapter judge the kernel file alone,
all others the machine at its entry. `make conformance` generates this page from the declarations of the rules.
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
    """A link to the section of a rule or deviation, from the page itself or from another page (`page="rules.md"`)."""
    return linked(id, id, page)


def linked(text: str, id: str, page: str = "") -> str:
    """Like `link`, with another text."""
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
    firmware = f" with {' or '.join(sorted(deviation.firmware))}" if deviation.firmware else ""
    yield f"On record of {deviation.versions()}{firmware}: {found}."
    yield ""
    yield f"{escaped(deviation.why)}."
    yield ""
    yield f"Source: {escaped(deviation.source)}."


def code(text: str) -> str:
    """`text` as a code span that is also safe inside a table."""
    return f"`{text.replace('`', chr(39)).replace('|', '¦')}`" if text else ""


def escaped(text: str) -> str:
    """`text` with the characters that format Markdown escaped; lines stay lines."""
    for letter in "\\`*_<>[]|":
        text = text.replace(letter, f"\\{letter}")
    return text
