"""The physical address space as SVG: a band for each range, gaps between them, and the parts of the hand-off inside.

Ranges differ by a factor of 2^30, so a band's height grows with the logarithm of its size, and with the number of its
labels. Inside a band, position and height of a part are to the band's own linear scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pvhdbg.model import BackingKind, Kernel
from pvhdbg.report.markup import Markup, join, tag
from pvhdbg.report.memory_picture import PicturePart
from pvhdbg.report.sizes import human
from pvhdbg.spec.start_info import MEMORY_TYPES

_DRAWN = 48  # bands, and labels in all; of the others the picture gives the number
_SEGMENTS = 32  # of a kernel
_WIDTH, _LEFT, _BAND, _LABEL = 840, 140, 200, 410  # the picture; where bands begin, their width; where labels begin
_ROW = 18  # the height of a label
CLASSES = {BackingKind.RAM: "ram", BackingKind.ROM: "reserved", BackingKind.IO: "gap"}
_KINDS = {1: "ram", 2: "reserved", 3: "acpi", 4: "nvs", 5: "bad", 6: "reserved", 7: "pmem"}


class Band(NamedTuple):
    """A range of addresses, end exclusive; its title, and the class that colours it."""

    start: int
    end: int
    title: str
    kind: str


def kind_of(type: int) -> tuple[str, str]:
    """Title and class of a type of the memory map."""
    return MEMORY_TYPES.get(type, f"type {type:#x}"), _KINDS.get(type, "bad")


def kernel_parts(kernel: Kernel | None) -> list[PicturePart]:
    """A part for each loaded segment of the kernel; a single one if there are many."""
    loads = kernel.loads if kernel is not None else ()
    if len(loads) > _SEGMENTS:
        return [PicturePart(f"kernel, {len(loads)} segments", min(one.start for one in loads), max(one.end for one in loads))]
    several = len(loads) > 1
    return [PicturePart(f"kernel segment {index}" if several else "kernel", one.start, one.end) for index, one in enumerate(loads)]


def render(bands: Iterable[Band], parts: Iterable[PicturePart]) -> Markup:
    """The picture, and notes about what it leaves out."""
    wanted = sorted(parts, key=lambda part: (part.start, part.end))
    shown, left = wanted[:_DRAWN], len(wanted) - _DRAWN
    ordered, more = _with_gaps(bands, shown)
    y, drawn, placed = 8.0, [], []
    for band in ordered:
        inside = [part for part in shown if band.start <= part.start < band.end and part not in placed]
        placed += inside
        height = _height(band, len(inside))
        drawn.append(_band(band, y, height, inside))
        y += height
    lost = [part for part in shown if part not in placed]
    notes = [f"{more} more ranges are not drawn" if more > 0 else "", f"{left} more parts are not drawn" if left > 0 else ""]
    notes += [f"{part.name} at {part.start:#x} is outside of the ranges that are drawn" for part in lost]
    told = "The physical memory map, from low addresses at the top to high ones"
    picture = tag("svg", tag("title", told), *drawn, viewBox=f"0 0 {_WIDTH} {y + 8:.0f}", role="img", class_="memory")
    return join(tag("div", picture, class_="wide"), *(tag("p", note, class_="dim") for note in notes if note))


def _with_gaps(bands: Iterable[Band], parts: Sequence[PicturePart]) -> tuple[list[Band], int]:
    """The bands by address with the gaps between them, and the number of omitted ones; overlapping ranges are cut."""
    ordered = sorted((band for band in bands if band.end > band.start), key=lambda band: (band.start, band.end))
    found: list[Band] = []
    reached = 0
    for band in ordered[:_DRAWN]:
        if band.start > reached:
            found.append(Band(reached, band.start, "gap", "gap"))
        if band.end > reached:
            found.append(band._replace(start=max(band.start, reached)))
            reached = band.end
    beyond = max((part.end for part in parts), default=0)
    if beyond > reached:
        found.append(Band(reached, beyond, "gap", "gap"))
    return found, len(ordered) - _DRAWN


def _height(band: Band, labels: int) -> float:
    by_size = 3.2 * max((band.end - band.start).bit_length() - 10, 0)
    low, high = (22, 30) if band.kind == "gap" else (22, 110)
    return max(min(max(by_size, low), high), labels * _ROW + 8)


def _band(band: Band, y: float, height: float, parts: Sequence[PicturePart]) -> Markup:
    told = f"{band.title}: {band.start:#x} to {band.end:#x}, {human(band.end - band.start)}"
    box = tag("rect", tag("title", told), x=_LEFT, y=_at(y), width=_BAND, height=_at(height), class_=f"band {band.kind}")
    address = tag("text", f"{band.start:#x}", x=_LEFT - 8, y=_at(y + 12), class_="address")
    words = tag("text", f"{band.title}, {human(band.end - band.start)}", x=_LEFT + 8, y=_at(y + height / 2 + 4), class_="kind")
    return tag("g", box, *(_part(part, row, band, y, height) for row, part in enumerate(parts)), address, words)


def _part(part: PicturePart, row: int, band: Band, y: float, height: float) -> Markup:
    scale = height / (band.end - band.start)
    top = y + (part.start - band.start) * scale
    tall = min(max((part.end - part.start) * scale, 2.0), y + height - top) if top < y + height - 2 else 2.0
    top = min(top, y + height - 2)
    label = y + row * _ROW + 16
    size = human(part.end - part.start)
    x, edge = _LEFT + _BAND - 46, _LEFT + _BAND
    return join(
        tag("rect", tag("title", f"{part.name}: {part.start:#x} to {part.end:#x}"),
            x=x, y=_at(top), width=46, height=_at(tall), class_="part"),
        tag("path", d=f"M{edge} {_at(top + tall / 2)} L{edge + 22} {_at(label - 4)} L{_LABEL - 28} {_at(label - 4)}", class_="line"),
        tag("text", tag("tspan", f"{part.start:#x}", class_="where"), f" {part.name}, {size}", x=_LABEL - 22, y=_at(label)),
    )  # fmt: skip


def _at(value: float) -> str:
    return f"{value:.1f}"
