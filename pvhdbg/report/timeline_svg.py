"""The milestones of a boot as SVG: a time line that starts at the entry, with a mark and a name for each milestone."""

from __future__ import annotations

from collections.abc import Sequence

from pvhdbg.report.document import Passed
from pvhdbg.report.markup import Markup, join, tag

_DRAWN = 48
_WIDTH, _LEFT, _RIGHT, _LABEL = 840, 20, 460, 500  # the picture; where the line begins and ends; where names begin
_ROW, _TOP = 20, 34


def render(passed: Sequence[Passed]) -> Markup:
    """The picture, and notes about what it leaves out. Marks are placed to the scale of seconds."""
    shown = passed[:_DRAWN]
    last = max((one.seconds for one in shown), default=0.0) or 1.0
    height = _TOP + _ROW * len(shown) + 8
    told = f"The boot from its entry: {len(passed)} milestones in {last:.2f} s"
    picture = tag(
        "svg",
        tag("title", told),
        tag("path", d=f"M{_LEFT} {_TOP - 12} L{_RIGHT} {_TOP - 12}", class_="line axis"),
        tag("text", "entry", x=_LEFT, y=_TOP - 20),
        tag("text", f"{last:.2f} s", x=_RIGHT, y=_TOP - 20, class_="address"),
        *(_mark(one, row, last) for row, one in enumerate(shown)),
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        class_="memory timeline",
    )
    more = f"{len(passed) - _DRAWN} more milestones are not drawn" if len(passed) > _DRAWN else None
    lost = [tag("p", f"{one.name}: {one.missed}") for one in passed if one.missed]
    return join(tag("div", picture, class_="wide"), *lost, tag("p", more, class_="dim") if more else None)


def _mark(one: Passed, row: int, last: float) -> Markup:
    x = _LEFT + (_RIGHT - _LEFT) * one.seconds / last
    y = _TOP + _ROW * row + 12
    what = f"not reached in {one.seconds:.3f} s" if one.missed else f"{one.seconds:.3f} s"
    return tag(
        "g",
        tag("title", f"{one.name}: {what}"),
        tag("rect", x=f"{x - 3:.1f}", y=_TOP - 18, width=6, height=12, class_="bad" if one.missed else "part"),
        tag("path", d=f"M{x:.1f} {_TOP - 6} L{x:.1f} {y - 4} L{_LABEL - 8} {y - 4}", class_="line"),
        tag("text", tag("tspan", what, class_="where"), f"  {one.name}", x=_LABEL, y=y),
    )
