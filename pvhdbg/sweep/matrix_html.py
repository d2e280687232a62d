"""The matrix as one HTML page, without scripts: each cell is a link to its report, which is folded below."""

from __future__ import annotations

from collections.abc import Mapping

from pvhdbg.report.html_page import page
from pvhdbg.report.markup import Markup, join, tag
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.matrix import LOOKS, MatrixPlace, SweepMatrix, label
from pvhdbg.sweep.store import KeptResult, SweepRun, SweepStore

_MOST_REPORTS = 64 << 20  # bytes of reports in one page


def render(store: SweepStore, run: SweepRun, found: SweepMatrix, conclusion: str) -> str:
    """The whole page."""
    numbers = store.reports(run.id, "text")
    table = tag("div", tag("table", _head(found), tag("tbody", *(_line(line, found) for line in found.lines))), class_="wide")
    facts = [("run", str(run.id)), ("began", run.began), ("pvhdbg", run.pvhdbg), *found.fixed.items()]
    facts += [(qemu.name or "QEMU", qemu.version or "not here") for qemu in store.qemus(run.id)]
    return page(
        f"sweep {run.id}: {conclusion}",
        join(
            tag("h1", conclusion, class_="good" if all(place.worst.good for place in _places(found)) else "bad"),
            tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts)),
            tag("section", tag("h2", "Matrix"), table, tag("p", f"and {found.left} more lines") if found.left else None),
            tag("section", tag("h2", "Cells"), *_cells(store, run, found, numbers)),
        ),
    )


def _places(found: SweepMatrix) -> list[MatrixPlace]:
    return [place for _, places in found.lines for place in places.values()]


def _head(found: SweepMatrix) -> Markup:
    names = [axis.key for axis in found.down] or ["cells"]
    heads = [" / ".join(one) or "outcome" for one in found.columns]
    return tag("thead", tag("tr", *(tag("th", one) for one in [*names, *heads])))


def _line(line: tuple[tuple[str, ...], dict[tuple[str, ...], MatrixPlace]], found: SweepMatrix) -> Markup:
    labels, places = line
    return tag(
        "tr",
        *(tag("th", one) for one in labels or ("all",)),
        *(tag("td", _place(places[head]) if head in places else None) for head in found.columns),
    )


def _place(place: MatrixPlace) -> Markup:
    if place.counts.total() == len(place.some):
        return join(*(_link(one) for one in place.some))
    return join(tag("p", place.words), *(_link(one) for one in place.some))


def _link(one: KeptResult) -> Markup:
    return tag("a", one.outcome.value, href=f"#c{one.key.hex()}", class_=f"chip {LOOKS[one.outcome]}", title=one.conclusion)


def _cells(store: SweepStore, run: SweepRun, found: SweepMatrix, numbers: Mapping[bytes, int]) -> list[Markup]:
    """Each cell, with its report the first time that this report occurs, and a link to it after that."""
    shown: dict[int, str] = {}
    room = _MOST_REPORTS
    parts = []
    for place in _places(found):
        for one in place.some:
            anchor, number = f"c{one.key.hex()}", numbers.get(one.key)
            inside = tag("p", one.conclusion, f" Next: {one.next}." if one.next else None)
            if number in shown:
                inside = join(inside, tag("p", tag("a", "the same report as that of another cell", href=f"#{shown[number]}")))
            elif number is not None and room > 0:
                report = store.blob(number)
                room -= len(report)
                shown[number] = anchor
                inside = join(inside, tag("pre", report))
            elif number is not None:
                inside = join(inside, tag("p", "The page is full: this report is in the file of sweeps alone.", class_="caution"))
            parts.append(_folded(one, anchor, inside))
    return parts


def _folded(one: KeptResult, anchor: str, inside: Markup) -> Markup:
    axes = ", ".join(f"{axis.key} {label(axis, one.cell)}" for axis in AXES if getattr(one.cell, axis.field))
    head = tag("summary", tag("span", one.outcome.value, class_=f"chip {LOOKS[one.outcome]}"), tag("span", axes, class_="title"))
    return tag("details", head, tag("div", inside, id=anchor, class_="wide"), class_="chapter")
