"""A summary of a recorded boot: functions in the order of their first execution, the instructions of each, chapters, and where
two boots differ. Pure: names come from the caller."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pvhdbg.model import Hex
from pvhdbg.tracing.recorded_parts import RecordedBlock
from pvhdbg.tracing.symbol_text import base, label

_BLANK = re.compile(r"\s")
NameOf = Callable[[int], str | None]  # a physical address as "function" or "function+0x10"


# Code that only leads to another function, or back: what ran before it is what came from.
_PASSAGES = re.compile(r"__x86_(indirect|return)_|__fentry__\Z|srso_|retbleed_|zen_untrain|entry_ibpb|asm_|its_return")

# What returns from an interrupt: what comes next was not reached from there.
_RETURNS = re.compile(r"native_irq_return_|early_xen_iret|restore_regs_and_return|native_iret|irq_return|restore_all")


class Started(NamedTuple):
    """A function that was executed for the first time: `number` is its block's, `pc` linear, `physical` None outside of RAM.

    `parent` is the function that the CPU came from, by a call, a jump or an interrupt; None where that has no name. `cpu` executed it, and
    `number` is by its count.
    """

    number: int
    name: str
    pc: Hex
    physical: Hex | None
    parent: str | None = None
    cpu: int = 0


def functions(blocks: Iterable[RecordedBlock], name: NameOf) -> list[Started]:
    """Functions by their first execution, each once. A block may run into the next function without a jump: that counts."""
    found: list[Started] = []
    known: set[str] = set()
    last_of: dict[int, str | None] = {}  # by block, the function at its end

    def came_from(block: RecordedBlock, function: str) -> str | None:
        names = (last_of.get(number) for number in block.before)
        parent = next((one for one in names if one is not None and one != function and not _PASSAGES.match(one)), None)
        return None if parent is None or _RETURNS.match(parent) else parent

    for block in blocks:
        if block.physical is None or block.first is None:
            continue
        before: str | None = None
        for offset in (0, max(block.size - 1, 0)):
            text = name(block.physical + offset)
            function = None if text is None else base(text)
            if function is not None and function not in known:
                known.add(function)
                parent = before or came_from(block, function)
                found.append(Started(block.first, function, block.linear + offset, block.physical + offset, parent, block.cpu))
            before = function
        last_of[block.number] = before
    return found


class Node(NamedTuple):
    """A function in the tree of who reached whom first."""

    started: Started
    depth: int
    path: tuple[str, ...]  # from the outermost one to this one


def tree(started: Sequence[Started]) -> list[Node]:
    """The functions in depth-first order: each below the one that reached it first, siblings by their first execution."""
    children: dict[str | None, list[Started]] = {}
    known: set[str] = set()
    for one in started:
        children.setdefault(one.parent if one.parent in known else None, []).append(one)
        known.add(one.name)
    found: list[Node] = []
    waiting: list[tuple[Started, tuple[str, ...]]] = [(one, ()) for one in reversed(children.get(None, []))]
    while waiting:
        one, above = waiting.pop()
        path = (*above, one.name)
        found.append(Node(one, len(above), path))
        waiting += [(child, path) for child in reversed(children.get(one.name, []))]
    return found


def folded(started: Sequence[Started], spent: Sequence[tuple[str, int]]) -> list[tuple[tuple[str, ...], int]]:
    """The instructions of each function below the chain of those that reached it first: for a flame graph."""
    paths = {node.started.name: node.path for node in tree(started)}
    return [(paths.get(name, (name,)), instructions) for name, instructions in spent]


def profile(blocks: Iterable[RecordedBlock], name: NameOf) -> list[tuple[str, int]]:
    """Instructions by function, most first. Code without a name stands under "(no name)"."""
    blocks = list(blocks)
    return profiles(blocks, name, [{block.number: block.runs for block in blocks}])[0]


def profiles(blocks: Iterable[RecordedBlock], name: NameOf, runs: Sequence[Mapping[int, int]]) -> list[list[tuple[str, int]]]:
    """The same for several parts of a boot: `runs` says for each part how often it executed which block, by the block's number."""
    spent: list[Counter[str]] = [Counter() for _ in runs]
    for block in blocks:
        times = [one.get(block.number, 0) for one in runs]
        if not any(times):
            continue
        text = None if block.physical is None else name(block.physical)
        function = "(no name)" if text is None else base(text)
        for counter, often in zip(spent, times, strict=True):
            if often:
                counter[function] += often * block.instructions
    return [counter.most_common() for counter in spent]


def folded_text(stacks: Sequence[tuple[tuple[str, ...], int]]) -> bytes:
    """A line for each chain: functions separated by semicolons, and the number of instructions, as flamegraph.pl reads them."""
    rows = (
        ";".join(_BLANK.sub("_", label(name).replace(";", ":")) for name in path) + f" {spent}\n" for path, spent in stacks if spent
    )
    return "".join(rows).encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Parting:
    """Where two boots part: `index` functions are the same; then come `a` and `b`. `only_a`, `only_b`: what one of them alone ran;
    `moved`: what both ran, in another order.

    `shifted` is the first function that both executed at the same place in the order, and at different instruction numbers. Of several
    `cpus` each is compared by its own count: `cpu` is the first one whose boots part, and `index`, `common`, `a` and `b` are its functions.
    None for boots of one CPU.
    """

    index: int
    common: tuple[str, ...]
    a: tuple[Started, ...]
    b: tuple[Started, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    moved: tuple[str, ...] = ()
    shifted: tuple[Started, Started] | None = None
    cpu: int | None = None
    cpus: int = 1

    @property
    def identical(self) -> bool:
        return not self.a and not self.b and self.shifted is None


def parting(a: Sequence[Started], b: Sequence[Started], context: int = 5) -> Parting:
    """Compare two boots by the order and number of their functions' first executions, with `context` functions around."""
    cpus = sorted({one.cpu for one in (*a, *b)})
    each = [_parting([one for one in a if one.cpu == cpu], [one for one in b if one.cpu == cpu], context) for cpu in cpus]
    found = next((one for one in each if not one.identical), Parting(len(a), (), (), (), (), ()))
    of_a, of_b = {one.name: one.cpu for one in a}, {one.name: one.cpu for one in b}
    orders = [
        (
            [one.name for one in a if one.cpu == cpu == of_b.get(one.name)],
            [one.name for one in b if one.cpu == cpu == of_a.get(one.name)],
        )
        for cpu in cpus
    ]
    moved = {name for one, other in orders for name in _moved(one, other)}
    return replace(
        found,
        only_a=tuple(one.name for one in a if one.name not in of_b),
        only_b=tuple(one.name for one in b if one.name not in of_a),
        moved=tuple(one.name for one in a if one.name in moved or of_b.get(one.name, one.cpu) != one.cpu),
        cpu=cpus[each.index(found)] if len(cpus) > 1 and found in each else None,
        cpus=len(cpus),
    )


def _parting(a: Sequence[Started], b: Sequence[Started], context: int) -> Parting:
    """The same of one CPU; what only one boot has is left out."""
    pairs = list(zip(a, b, strict=False))
    index = next((at for at, (one, other) in enumerate(pairs) if one.name != other.name), len(pairs))
    shifted = next(((one, other) for one, other in pairs[:index] if one.number != other.number), None)
    common = tuple(one.name for one in a[max(index - context, 0) : index])
    return Parting(index, common, tuple(a[index : index + context]), tuple(b[index : index + context]), (), (), (), shifted)


def _moved(a: list[str], b: list[str]) -> tuple[str, ...]:
    """What must be taken out of two orders of the same names so that they are the same: few, and in the order of the first."""
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
