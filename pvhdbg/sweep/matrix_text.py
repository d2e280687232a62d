"""The matrix for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.decode.text import shorten
from pvhdbg.report.style import Style
from pvhdbg.sweep.matrix import LOOKS, SweepMatrix

_WIDEST = 40  # characters of a label


def lines(found: SweepMatrix, style: Style) -> list[str]:
    """The lines: the axes that are the same everywhere, then the table with a column for each axis of its lines."""
    shown = [f"{name}: {value}" for name, value in found.fixed.items()]
    names = [axis.key for axis in found.down] or ["cells"]
    heads = [*names, *(_shown(" / ".join(one)) or "outcome" for one in found.columns)]
    rows = [
        [*(map(_shown, labels) if labels else ("all",)), *(places[head].words if head in places else "" for head in found.columns)]
        for labels, places in found.lines
    ]
    widths = [max(len(row[index]) for row in [heads, *rows]) for index in range(len(heads))]
    shown += [""] if shown else []
    shown.append(style("head", _line(heads, widths)))
    for row, (_, places) in zip(rows, found.lines, strict=True):
        padded = [f"{text:<{width}}" for text, width in zip(row, widths, strict=True)]
        for index, head in enumerate(found.columns, len(names)):
            if head in places:
                padded[index] = style(LOOKS[places[head].worst], padded[index])
        shown.append("  ".join(padded).rstrip())
    if found.left:
        shown.append(f"and {found.left} more lines")
    return shown


def _line(parts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{part:<{width}}" for part, width in zip(parts, widths, strict=True)).rstrip()


def _shown(text: str) -> str:
    return shorten(text, _WIDEST)
