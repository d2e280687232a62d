"""The matrix for a terminal."""

from __future__ import annotations

from pvhdbg.decode.text import shorten
from pvhdbg.report.style import Style
from pvhdbg.sweep.matrix import Labels, SweepMatrix
from pvhdbg.sweep.result import CellOutcome

_WIDEST = 40  # characters of a label
_COLOURS = {
    CellOutcome.CONFORMS: "good",
    CellOutcome.VIOLATED: "bad",
    CellOutcome.UNDECIDED: "warn",
    CellOutcome.NOT_OBSERVED: "bad",
    CellOutcome.NOT_TRIED: "dim",
    CellOutcome.KILLED: "bad",
    CellOutcome.LATE: "bad",
}


def lines(found: SweepMatrix, style: Style) -> list[str]:
    """The lines: the axes that are the same everywhere, then the table."""
    shown = [f"{name}: {value}" for name, value in found.fixed.items()]
    heads = [_label(one, "outcome") for one in found.columns]
    firsts = [_label(labels, "all") for labels, _ in found.lines]
    wide = max(map(len, [*firsts, " / ".join(axis.key for axis in found.down)]), default=0)
    texts = [[places[head].words if head in places else "" for head in found.columns] for _, places in found.lines]
    widths = [max([len(head), *(len(line[index]) for line in texts)]) for index, head in enumerate(heads)]
    title = " / ".join(axis.key for axis in found.down)
    shown += [
        "",
        style(
            "head",
            "  ".join([f"{title:<{wide}}", *(f"{head:<{width}}" for head, width in zip(heads, widths, strict=True))]).rstrip(),
        ),
    ]
    for first, (_, places), line in zip(firsts, found.lines, texts, strict=True):
        parts = [f"{first:<{wide}}"]
        for head, text, width in zip(found.columns, line, widths, strict=True):
            padded = f"{text:<{width}}"
            parts.append(style(_COLOURS[places[head].worst], padded) if head in places else padded)
        shown.append("  ".join(parts).rstrip())
    if found.left:
        shown.append(f"and {found.left} more lines")
    return shown


def _label(labels: Labels, otherwise: str) -> str:
    return shorten(" / ".join(labels), _WIDEST) if labels else otherwise
