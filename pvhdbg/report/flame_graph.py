"""A flame graph as SVG, without a script: each function below the one that reached it first, as wide as its instructions."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.report.markup import Markup, tag
from pvhdbg.tracing.symbol_text import label

_WIDTH, _ROW, _LETTER = 1200, 17, 7.2
_NARROWEST = 0.4  # pixels; narrower functions are not drawn
_DEEPEST = 120
_COLOURS = ("#e8743b", "#ed8d4c", "#f0a35e", "#f3b86f", "#e9934a", "#f2ad4e")


class _Frame:
    def __init__(self) -> None:
        self.own = 0
        self.below: dict[str, _Frame] = {}

    def total(self) -> int:
        """Instructions of this function and of all below it."""
        waiting, found = [self], 0
        while waiting:
            one = waiting.pop()
            found += one.own
            waiting += one.below.values()
        return found


def flame_graph(stacks: Sequence[tuple[tuple[str, ...], int]], title: str) -> str:
    """The file. `stacks` are chains of functions, outermost first, with the instructions of the innermost one."""
    root = _Frame()
    for path, spent in stacks:
        at = root
        for name in path[:_DEEPEST]:
            at = at.below.setdefault(name, _Frame())
        at.own += spent
    total = root.total() or 1
    drawn: list[Markup] = []
    depth = 0
    waiting = [(root, 0.0, 0, "all")]
    while waiting:
        frame, x, row, name = waiting.pop()
        whole = frame.total()
        width = whole * _WIDTH / total
        if width < _NARROWEST:
            continue
        depth = max(depth, row)
        drawn.append(_box(label(name), x, row, width, whole, total))
        for below, child in frame.below.items():
            waiting.append((child, x, row + 1, below))
            x += child.total() * _WIDTH / total
    height = (depth + 2) * _ROW
    return str(
        tag(
            "svg",
            tag("title", title),
            tag("rect", width=_WIDTH, height=height, fill="#ffffff"),
            tag("text", title, x=4, y=13),
            tag("g", *drawn, transform=f"translate(0 {_ROW})"),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {_WIDTH} {height}",
            font_family="monospace",
            font_size=12,
        )
    )


def _box(name: str, x: float, row: int, width: float, whole: int, total: int) -> Markup:
    letters = int(width / _LETTER) - 1
    shown = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 2 else None
    return tag(
        "g",
        tag("title", f"{name}: {whole:,} instructions, {whole / total:.2%}"),
        tag(
            "rect",
            x=f"{x:.2f}",
            y=row * _ROW,
            width=f"{max(width - 0.3, 0.2):.2f}",
            height=_ROW - 1,
            fill=_COLOURS[sum(map(ord, name)) % len(_COLOURS)],
        ),
        tag("text", shown, x=f"{x + 3:.2f}", y=row * _ROW + 12) if shown else None,
    )
