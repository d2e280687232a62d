"""Two runs: which cells changed, and by which rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pvhdbg.decode.text import printable
from pvhdbg.sweep.result import CellVerdict
from pvhdbg.sweep.store import KeptResult, SweepRun, SweepStore
from pvhdbg.vmm.options import DEFAULT_QEMU

MOST_CHANGED = 10_000  # cells that are listed


@dataclass(frozen=True)
class ChangedRule:
    """A rule with its outcome in the first and in the second run; empty where it was not judged."""

    rule: str
    before: str
    after: str


@dataclass(frozen=True)
class ChangedCell:
    """A cell with what came of it in both runs, and the rules that make the difference."""

    before: KeptResult
    after: KeptResult
    rules: tuple[ChangedRule, ...]


@dataclass(frozen=True)
class RunDifference:
    """Two runs. `about` says which files and QEMUs differ; `more` counts changed cells that are not listed."""

    a: SweepRun
    b: SweepRun
    compared: int
    about: tuple[str, ...]
    changed: tuple[ChangedCell, ...]
    more: int = 0

    @property
    def only_a(self) -> int:
        return self.a.done - self.compared

    @property
    def only_b(self) -> int:
        return self.b.done - self.compared

    @property
    def differ(self) -> bool:
        """Whether any cell changed, or is in one run only."""
        return bool(self.changed or self.only_a or self.only_b)


def difference(store: SweepStore, a: SweepRun, b: SweepRun) -> RunDifference:
    """The cells of both runs whose outcome, or the outcome of one of whose rules, is another one. Times and texts are not compared."""
    compared, more = 0, 0
    changed: list[ChangedCell] = []
    between: dict[tuple[int | None, int | None], tuple[ChangedRule, ...]] = {}
    after = store.results(b.id)
    other = next(after, None)
    for one in store.results(a.id):  # both are in the same order
        key = store.order(one.cell)
        while other is not None and store.order(other.cell) < key:
            other = next(after, None)
        if other is None:
            break
        if other.key != one.key:
            continue
        compared += 1
        sets = one.verdicts, other.verdicts
        if sets not in between:
            if len(between) > MOST_CHANGED:
                between.clear()
            between[sets] = _rules(store, *sets)
        if one.outcome is not other.outcome or between[sets]:
            if len(changed) < MOST_CHANGED:
                changed.append(ChangedCell(one, other, between[sets]))
            else:
                more += 1
    return RunDifference(a, b, compared, tuple(_about(store, a, b)), tuple(changed), more)


def _rules(store: SweepStore, before: int | None, after: int | None) -> tuple[ChangedRule, ...]:
    if before == after:
        return ()
    ours, theirs = _outcomes(store, before), _outcomes(store, after)
    names = dict.fromkeys([*ours, *theirs])
    return tuple(
        ChangedRule(name, ours.get(name, ""), theirs.get(name, "")) for name in names if ours.get(name) != theirs.get(name)
    )


def _outcomes(store: SweepStore, number: int | None) -> Mapping[str, str]:
    return {} if number is None else {printable(one.rule): _word(one) for one in store.verdicts(number)}


def _word(one: CellVerdict) -> str:
    return f"{one.outcome.value} ({printable(one.deviation)})" if one.deviation else one.outcome.value


def _about(store: SweepStore, a: SweepRun, b: SweepRun) -> list[str]:
    """What was not the same: pvhdbg, the files, the QEMUs."""
    found = [] if a.pvhdbg == b.pvhdbg else [f"pvhdbg {printable(a.pvhdbg)} and {printable(b.pvhdbg)}"]
    contents = {one.name: one.sha256 for one in store.files(a.id)}
    found += [
        f"{printable(one.name)} has another content"
        for one in store.files(b.id)
        if contents.get(one.name, one.sha256) != one.sha256
    ]
    versions = {one.name: one.version for one in store.qemus(a.id)}
    for one in store.qemus(b.id):
        before = versions.get(one.name, one.version)
        if before != one.version:
            found.append(f"{printable(one.name or DEFAULT_QEMU)} {printable(str(before))} and {printable(str(one.version))}")
    return found
