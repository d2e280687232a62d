"""A run as a matrix: axes down and across, and what came of the cells where they meet."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.sweep.axes import AXES, BY_KEY, SweepAxis
from pvhdbg.sweep.cell import SweepCell
from pvhdbg.sweep.result import CellOutcome
from pvhdbg.sweep.store import KeptResult

MOST_LINES = 500
_MOST_COLUMNS = 100
_SOME = 20  # results of one place that are kept: more are only counted

Labels = tuple[str, ...]
# How a text and a page show an outcome.
LOOKS: Mapping[CellOutcome, str] = {
    CellOutcome.CONFORMS: "good",
    CellOutcome.VIOLATED: "bad",
    CellOutcome.UNDECIDED: "warn",
    CellOutcome.NOT_OBSERVED: "bad",
    CellOutcome.NOT_TRIED: "dim",
    CellOutcome.KILLED: "bad",
    CellOutcome.LATE: "bad",
}


@dataclass
class MatrixPlace:
    """Where a line and a column meet."""

    counts: Counter[CellOutcome] = field(default_factory=Counter)
    some: list[KeptResult] = field(default_factory=list)

    @property
    def worst(self) -> CellOutcome:
        """The outcome that needs a look most."""
        return min(self.counts, key=_WEIGHTS.index)

    @property
    def words(self) -> str:
        """The outcome, or how many cells have which."""
        if self.counts.total() == 1:
            return self.worst.value
        return ", ".join(f"{self.counts[one]} {one.value}" for one in _WEIGHTS if self.counts[one])


_WEIGHTS = [
    CellOutcome.KILLED,
    CellOutcome.LATE,
    CellOutcome.VIOLATED,
    CellOutcome.NOT_OBSERVED,
    CellOutcome.UNDECIDED,
    CellOutcome.NOT_TRIED,
    CellOutcome.CONFORMS,
]


@dataclass(frozen=True)
class SweepMatrix:
    """`down` and `across` are axes, `columns` the labels across, `lines` each line's labels with its places by column.

    `fixed` are the axes with one value that is not the default; `left` counts the lines that are not shown.
    """

    down: tuple[SweepAxis, ...]
    across: tuple[SweepAxis, ...]
    columns: tuple[Labels, ...]
    lines: tuple[tuple[Labels, dict[Labels, MatrixPlace]], ...]
    fixed: dict[str, str]
    left: int = 0


def matrix(results: Callable[[], Iterator[KeptResult]], rows: str | None, columns: str | None) -> SweepMatrix:
    """The matrix of a run; `results` is called twice. Raises BadInput for an axis that there is not."""
    values: dict[str, dict[str, None]] = {axis.key: {} for axis in AXES}
    for one in results():
        for axis in AXES:
            values[axis.key].setdefault(label(axis, one.cell), None)
    varying = [axis for axis in AXES if len(values[axis.key]) > 1]
    across = _chosen(columns) if columns else _usual_columns(varying)
    down = _chosen(rows) if rows else tuple(axis for axis in varying if axis not in across)
    places: dict[Labels, dict[Labels, MatrixPlace]] = {}
    heads: dict[Labels, None] = {}
    left: set[Labels] = set()
    for one in results():
        line = tuple(label(axis, one.cell) for axis in down)
        head = tuple(label(axis, one.cell) for axis in across)
        if line not in places and len(places) >= MOST_LINES:
            left.add(line)
            continue
        heads.setdefault(head)
        place = places.setdefault(line, {}).setdefault(head, MatrixPlace())
        place.counts[one.outcome] += 1
        if len(place.some) < _SOME:
            place.some.append(one)
    if len(heads) > _MOST_COLUMNS:
        raise BadInput(f"the matrix would have {len(heads)} columns", "choose axes with fewer values: --columns")
    fixed = {axis.key: only for axis in AXES if len(values[axis.key]) == 1 and (only := next(iter(values[axis.key]))) != DEFAULT}
    return SweepMatrix(down, across, tuple(sorted(heads)), tuple(places.items()), fixed, len(left))


DEFAULT = "default"


def label(axis: SweepAxis, cell: SweepCell) -> str:
    """A cell's value on an axis, for people."""
    value = getattr(cell, axis.field)
    return printable(str(value)) if value else DEFAULT


def _usual_columns(varying: Sequence[SweepAxis]) -> tuple[SweepAxis, ...]:
    return tuple(axis for axis in varying if axis.field == "machine") or tuple(varying[-1:])


def _chosen(text: str) -> tuple[SweepAxis, ...]:
    found = []
    for name in text.split(","):
        if name not in BY_KEY:
            near = difflib.get_close_matches(name, BY_KEY, 1)
            raise BadInput(
                f"{printable(name)} is not an axis", f"did you mean {near[0]}?" if near else f"there are {', '.join(BY_KEY)}"
            )
        found.append(BY_KEY[name])
    return tuple(found)
