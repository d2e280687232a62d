"""The picture of a boot: the number of instructions in each mode, and the milestones, on one scale."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.report import trace_text
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.symbol_text import SafeName

_WIDTH = 60  # columns of the scale
_SWITCHES = ("cr0.pg", "efer.lma", "far jump")  # after these the next instruction runs in another mode


def spans(found: Sequence[Milestone], total: int) -> list[tuple[str, int, int]]:
    """The modes of the boot by its milestones: name, first instruction, the one after the last."""
    parts: list[tuple[str, int, int]] = []
    previous: Milestone | None = None
    for one in found:
        if one.mode is None:
            continue
        if not parts:
            parts.append((one.mode.value, one.seq, total))
        elif parts[-1][0] != one.mode.value:
            begin = previous.seq + 1 if previous is not None and previous.name in _SWITCHES else one.seq
            parts[-1] = (*parts[-1][:2], begin)
            parts.append((one.mode.value, begin, total))
        previous = one
    return parts


def render(found: Sequence[Milestone], total: int, name: SafeName, end: str, style: Style = PLAIN) -> str:
    """The bars, below them the marks of the milestones, and the table."""
    total = max(total, *(one.seq + 1 for one in found)) if found else total
    lines = []
    for mode, first, behind in spans(found, total):
        left, right = _column(first, total), max(_column(behind, total), _column(first, total) + 1)
        bar = " " * left + style("note", "█" * (right - left)) + " " * (_WIDTH - right)
        lines.append(f"{mode:<14}{bar}  {behind - first:>12,}  {first:,} to {behind - 1:,}")
    marks = [" "] * _WIDTH
    for one in found:
        column = min(_column(one.seq, total), _WIDTH - 1)
        marks[column] = "╵" if marks[column] == " " else "┃"
    lines.append(f"{'milestones':<14}{''.join(marks)}  {len(found):>12}  ┃ is more than one")
    return "\n".join(lines) + "\n\n" + trace_text.milestones(found, name, style) + f"{total:,} instructions; ended: {end}\n"


def _column(seq: int, total: int) -> int:
    return seq * _WIDTH // max(total, 1)
