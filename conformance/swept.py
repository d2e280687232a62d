"""The boots, made by a sweep: each is a cell, and what came of it is in the sweep's file, from which the page can be made again."""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from conformance.boots import PVH, Boot, Case, Setup
from conformance.progress import Progress
from pvhdbg import guests
from pvhdbg.model import Vmm
from pvhdbg.rules.catalogue import find
from pvhdbg.rules.declare import FileRule, Severity, Verdict, Violation
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.sweep.cell import CellBounds, CellTask, SweepCell
from pvhdbg.sweep.local import Done, LocalEngine
from pvhdbg.sweep.plan import Choice, SweepPlan
from pvhdbg.sweep.result import CellResult, CellVerdict, verdicts_in
from pvhdbg.sweep.running import carried_out, found_qemus, hashed_files, same_run, tasks_of
from pvhdbg.sweep.store import KeptResult, SweepStore
from pvhdbg.version import VERSION

_LONGER = 30.0  # seconds that a cell may take beside reaching its entry
_DEVIATIONS = {one.key: one for one in DEVIATIONS}


class Sweeper:
    """Makes boots by sweeps, `jobs` at a time. `folder` is the plans': guests and initrds are linked in it, under the same names each time.

    With `resume` a sweep of the same boots in the file is gone on with, or used as it is.
    """

    def __init__(self, store: SweepStore, folder: Path, jobs: int, progress: Progress, resume: bool) -> None:
        self._store = store
        self._folder = folder
        self._jobs = jobs
        self._progress = progress
        self._resume = resume

    def boots(
        self, setups: Sequence[Setup], names: Sequence[str], memory: Sequence[str], modules: Sequence[int], timeout: float
    ) -> list[Boot]:
        """Every guest, memory size and module on every setup. Raises PvhdbgError."""
        plan = self._plan(setups, names, memory, modules, timeout)
        store, files, qemus = self._store, hashed_files(plan), found_qemus(plan)
        run = same_run(store, plan, files, qemus) if self._resume else None
        if run is None:
            number = store.begin(plan.document(), plan.count(), VERSION, platform.node(), files, qemus)
            run = store.run(str(number))
        if run.done < run.cells:
            with closing(_Watched(self._jobs, setups, self._progress)) as engine:
                carried_out(store, run, tasks_of(plan, store, run, files), engine, lambda _: None)
        sets: dict[int | None, tuple[CellVerdict, ...]] = {None: ()}  # many boots have the same verdicts
        boots = []
        for one in store.results(run.id):
            if one.verdicts is not None and one.verdicts not in sets:
                sets[one.verdicts] = store.verdicts(one.verdicts)
            boots.append(boot_of(one.cell, one, sets[one.verdicts], setups))
        return boots

    def _plan(
        self, setups: Sequence[Setup], names: Sequence[str], memory: Sequence[str], modules: Sequence[int], timeout: float
    ) -> SweepPlan:
        kernels = [_linked(self._folder, f"{name}.elf", guests.path(name)) for name in names]
        initrds = [_initrd(self._folder, size) for size in modules]
        axes: dict[str, Sequence[str]] = {
            "kernel": kernels,
            "qemu": [one.qemu for one in setups],
            "machine": [one.machine for one in setups],
            "firmware": [one.bios or "" for one in setups],
            "memory": memory,
            "initrd": initrds,
        }
        bounds = CellBounds(timeout=timeout, seconds=timeout + _LONGER)
        unique = {name: tuple(dict.fromkeys(values)) for name, values in axes.items()}
        return SweepPlan(unique, only=tuple(map(_choice, setups)), bounds=bounds, reports=False, folder=str(self._folder))


class _Watched(LocalEngine):
    """Reports each boot."""

    def __init__(self, jobs: int, setups: Sequence[Setup], progress: Progress) -> None:
        super().__init__(jobs)
        self._setups = setups
        self._progress = progress

    def run(self, tasks: Iterator[CellTask]) -> Generator[Done, None, None]:
        for cell, result in super().run(tasks):
            found = () if result.verdicts is None else verdicts_in(result.verdicts.text())
            self._progress.boot(boot_of(cell, result, found, self._setups))
            yield cell, result


def _choice(setup: Setup) -> Choice:
    return {
        "qemu": frozenset([setup.qemu]),
        "machine": frozenset([setup.machine]),
        "firmware": frozenset([setup.bios or ""]),
    }


def _linked(folder: Path, name: str, target: Path) -> str:
    if not (folder / name).exists():
        (folder / name).symlink_to(target)
    return name


def _initrd(folder: Path, size: int) -> str:
    """An initrd of that size; none for 0. Its name is its size."""
    if not size:
        return ""
    (folder / str(size)).write_bytes(b"Z" * size)
    return str(size)


def boot_of(cell: SweepCell, seen: CellResult | KeptResult, found: Sequence[CellVerdict], setups: Sequence[Setup]) -> Boot:
    """A cell and what came of it as a boot."""
    setup = next(one for one in setups if (one.qemu, one.machine, one.bios or "") == (cell.qemu, cell.machine, cell.firmware))
    case = Case(setup, cell.kernel.removesuffix(".elf"), cell.memory, int(cell.initrd or 0))
    if not seen.outcome.judged:
        return Boot(case, failure=seen.conclusion)
    every = [_verdict(one) for one in found]
    machine = tuple(one for one in every if not isinstance(one.rule, FileRule))
    about_file = tuple(one for one in every if isinstance(one.rule, FileRule))
    vmm = Vmm(seen.vmm or None, seen.version or None)
    return Boot(case, vmm, seen.firmware or None, seen.protocol or PVH, machine, about_file)


def _verdict(one: CellVerdict) -> Verdict:
    violations = tuple(Violation(at, expected, seen) for at, expected, seen in one.found)
    deviation = _DEVIATIONS[one.deviation] if one.deviation else None
    return Verdict(find(one.rule), one.outcome, Severity(one.severity), violations, one.reason, deviation)
