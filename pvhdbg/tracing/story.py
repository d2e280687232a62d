"""A summary of a recorded boot: functions in the order of their first execution, the instructions of each, chapters, and where
two boots differ. Pure: names come from the caller."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pvhdbg.model import Hex
from pvhdbg.tracing.recording import RecordedBlock
from pvhdbg.tracing.symbol_text import base

NameOf = Callable[[int], str | None]  # a physical address as "function" or "function+0x10"


class Started(NamedTuple):
    """A function that was executed for the first time: `number` is its block's, `pc` linear, `physical` None outside of RAM."""

    number: int
    name: str
    pc: Hex
    physical: Hex | None


def functions(blocks: Iterable[RecordedBlock], name: NameOf) -> list[Started]:
    """Functions by their first execution, each once. A block may run into the next function without a jump: that counts."""
    found: list[Started] = []
    known: set[str] = set()
    for block in blocks:
        if block.physical is None or block.first is None:
            continue
        for offset in (0, max(block.size - 1, 0)):
            text = name(block.physical + offset)
            function = None if text is None else base(text)
            if function is not None and function not in known:
                known.add(function)
                found.append(Started(block.first, function, block.linear + offset, block.physical + offset))
    return found


def profile(blocks: Iterable[RecordedBlock], name: NameOf) -> list[tuple[str, int]]:
    """Instructions by function, most first. Code without a name stands under "(no name)"."""
    spent: Counter[str] = Counter()
    for block in blocks:
        text = None if block.physical is None else name(block.physical)
        spent["(no name)" if text is None else base(text)] += block.runs * block.instructions
    return spent.most_common()


@dataclass(frozen=True)
class Parting:
    """Where two boots part: `index` functions are the same; then come `a` and `b`. `only_a`, `only_b`: what one of them alone ran;
    `moved`: what both ran, in another order.

    `shifted` is the first function that both executed at the same place in the order, and at different instruction numbers.
    """

    index: int
    common: tuple[str, ...]
    a: tuple[Started, ...]
    b: tuple[Started, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    moved: tuple[str, ...] = ()
    shifted: tuple[Started, Started] | None = None

    @property
    def identical(self) -> bool:
        return not self.a and not self.b and self.shifted is None


def parting(a: Sequence[Started], b: Sequence[Started], context: int = 5) -> Parting:
    """Compare two boots by the order and number of their functions' first executions, with `context` functions around."""
    pairs = list(zip(a, b, strict=False))
    index = next((at for at, (one, other) in enumerate(pairs) if one.name != other.name), len(pairs))
    shifted = next(((one, other) for one, other in pairs[:index] if one.number != other.number), None)
    names_a, names_b = {one.name for one in a}, {one.name for one in b}
    return Parting(
        index,
        tuple(one.name for one in a[max(index - context, 0) : index]),
        tuple(a[index : index + context]),
        tuple(b[index : index + context]),
        tuple(one.name for one in a if one.name not in names_b),
        tuple(one.name for one in b if one.name not in names_a),
        _moved([one.name for one in a if one.name in names_b], [one.name for one in b if one.name in names_a]),
        shifted,
    )


def _moved(a: list[str], b: list[str]) -> tuple[str, ...]:
    """What has to be taken out of two orders of the same names so that they are the same: few, and in the order of the first."""
    places = {name: place for place, name in enumerate(b)}
    ends: list[int] = []  # the smallest end of an ascending row of each length (patience sorting)
    tops: list[int] = []  # and the index in `a` of that end
    before = [-1] * len(a)
    for at, name in enumerate(a):
        length = bisect_left(ends, places[name])
        ends[length : length + 1] = [places[name]]
        tops[length : length + 1] = [at]
        before[at] = tops[length - 1] if length else -1
    kept = set[int]()
    at = tops[-1] if tops else -1
    while at >= 0:
        kept.add(at)
        at = before[at]
    return tuple(name for at, name in enumerate(a) if at not in kept)
