"""A comparison as one HTML file: differences that matter are unfolded, and the differing part of each value is marked."""

from __future__ import annotations

from itertools import groupby

from pvhdbg.report import html_machine, machine
from pvhdbg.report.diff import Comparison, Difference, Weight, common
from pvhdbg.report.diff_text import TITLES
from pvhdbg.report.findings import VIOLATED
from pvhdbg.report.html_page import page
from pvhdbg.report.markup import Markup, join, tag
from pvhdbg.version import VERSION


def render(comparison: Comparison) -> str:
    """The whole page."""
    sections = [
        (weight.value, title, join(*(_part(part, list(inside), weight) for part, inside in groupby(found, lambda one: one.part))))
        for weight, (_, title) in TITLES.items()
        if (found := comparison.of(weight))
    ]
    if any(one.part == "memory map" for one in comparison.differences):
        sections.append(("memory", "Physical memory", _memory(comparison)))
    body = join(
        _head(comparison),
        tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, title, _ in sections)) if sections else None,
        tag("main", *(tag("section", tag("h2", title), shown, id=anchor) for anchor, title, shown in sections)),
        tag("footer", f"pvhdbg {VERSION}, exit code {comparison.exit_code}"),
    )
    return page(f"{' and '.join(comparison.names)}: {comparison.conclusion}", body)


def _head(comparison: Comparison) -> Markup:
    kind = "bad" if comparison.exit_code == VIOLATED else "warn" if comparison.exit_code else "good"
    sides = (comparison.a, comparison.b)
    pairs = zip(*(machine.rows(report.boot) for report in sides), strict=True)
    rows: list[tuple[str, ...]] = [("subject", *comparison.names), *((*one, two[1]) for one, two in pairs)]
    rows.append(("verdict", *(report.conclusion for report in sides)))
    notes = [f"{letter}: {note}" for letter, report in zip("AB", sides, strict=True) for note in report.warnings]
    return tag(
        "header",
        tag("h1", comparison.conclusion[:1].upper() + comparison.conclusion[1:], class_=kind),
        _table(("", "A", "B"), [tuple(tag("td", cell) for cell in row) for row in rows]),
        tag("p", f"Judged by {sides[0].boot.revision.title}.", class_="dim"),
        *(tag("p", note, class_="caution") for note in notes),
    )


def _table(titles: tuple[str, ...], rows: list[tuple[Markup, ...]]) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", title) for title in titles)))
    return tag("div", tag("table", head, tag("tbody", *(tag("tr", *row) for row in rows))), class_="wide")


def _part(part: str, found: list[Difference], weight: Weight) -> Markup:
    head = tag("summary", tag("span", part, class_="title"), tag("span", str(len(found)), class_=f"chip {TITLES[weight][0]}"))
    explained = any(one.why for one in found)
    rows = [
        (tag("td", tag("code", one.at)), *_marked(one), *((tag("td", one.why, class_="dim"),) if explained else ()))
        for one in found
    ]
    titles = ("", "A", "B", *(("about",) if explained else ()))
    return tag("details", head, _table(titles, rows), class_="chapter", open=None if weight is Weight.FREE else "")


def _marked(one: Difference) -> tuple[Markup, Markup]:
    """Both values as cells, marked between their common beginning and their common end."""
    start = common(one.a, one.b)
    end = common(one.a[start:][::-1], one.b[start:][::-1])
    return _cell(one.a, start, end), _cell(one.b, start, end)


def _cell(value: str, start: int, end: int) -> Markup:
    last = len(value) - end
    return tag("td", value[:start], tag("mark", value[start:last]) if start < last else None, value[last:])


def _memory(comparison: Comparison) -> Markup:
    drawn = [
        tag("details", tag("summary", tag("span", f"{letter}: {name}", class_="title")), shown, class_="chapter", open="")
        for letter, name, report in zip("AB", comparison.names, (comparison.a, comparison.b), strict=True)
        if (shown := html_machine.memory(report.boot)) is not None
    ]
    return join(*drawn)
