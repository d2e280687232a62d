"""A run: the cells of a plan through an engine into the file, with resumption."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Protocol

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.sweep.cell import AskedQemu, CellTask, SweepCell
from pvhdbg.sweep.local import Done
from pvhdbg.sweep.plan import SweepPlan
from pvhdbg.sweep.result import CellOutcome
from pvhdbg.sweep.store import FoundQemu, SweepFile, SweepRun, SweepStore
from pvhdbg.targets.run import Progress
from pvhdbg.version import VERSION
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.qemu import version_of

_BATCH = 500  # cells that are looked up at a time
_SHOWN = 0.5  # seconds between two lines of progress


class SweepEngine(Protocol):
    """What boots cells: processes of this computer, or a cluster's."""

    @property
    def jobs(self) -> int:
        """How many cells run at the same time."""
        ...

    def run(self, tasks: Iterator[CellTask]) -> Generator[Done, None, None]:
        """The results, in the order in which they come; closing it ends all boots. Raises PvhdbgError."""
        ...

    def close(self) -> None:
        """End what boots the cells."""
        ...


@dataclass(frozen=True)
class SweepCounts:
    """How far a run is: results that came now, those of before, and cells that are not good."""

    total: int
    before: int = 0
    came: int = 0
    bad: int = 0
    twice: int = 0  # results of cells that had one already: they are not kept

    @property
    def complete(self) -> bool:
        """Whether each cell has a result."""
        return self.before + self.came == self.total


def hashed_files(plan: SweepPlan) -> list[SweepFile]:
    """The files that the cells name, with their hashes. Raises BadInput."""
    found = []
    for name, path in plan.files().items():
        try:
            digest, size = hashed(path)
        except OSError as error:
            raise BadInput(f"{printable(path)} cannot be read: {error.strerror}", "make it readable") from error
        found.append(SweepFile(name, os.path.abspath(path), digest, size))
    return found


def hashed(path: str) -> tuple[bytes, int]:
    """A file's SHA-256 and its size in bytes. Raises OSError."""
    digest, size = sha256(), 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return digest.digest(), size


def found_qemus(plan: SweepPlan) -> list[FoundQemu]:
    """The QEMUs of the plan, as they are on this computer."""
    return [_found_qemu(str(one)) for one in plan.axes.get("qemu", ("",))]


def _found_qemu(name: str) -> FoundQemu:
    program = shutil.which(AskedQemu.of(name).program or DEFAULT_QEMU)
    if program is None:
        return FoundQemu(name, None, None)
    try:
        return FoundQemu(name, version_of(program), hashed(program)[0])
    except (PvhdbgError, OSError):
        return FoundQemu(name, None, None)


def refuse_missing(qemus: list[FoundQemu]) -> None:
    """Raises BadInput for a QEMU that is not here, or in another version than was asked for."""
    for one in qemus:
        asked = AskedQemu.of(one.name)
        shown = printable(asked.program or DEFAULT_QEMU)
        if one.version is None:
            raise BadInput(f"{shown} is not here, or does not say its version", "name another with --qemu, or leave it out")
        if not asked.fits(one.version.split()[0]):
            raise BadInput(f"{shown} is {printable(one.version)}, and {printable(asked.version)} was asked for", "name another one")


def begun(store: SweepStore, plan: SweepPlan, count: int, files: list[SweepFile], qemus: list[FoundQemu]) -> SweepRun:
    """A new run in the file."""
    run = store.begin(plan.document(), count, VERSION, platform.node(), files, qemus)
    return store.run(str(run))


def resumed(store: SweepStore, plan: SweepPlan, files: list[SweepFile], qemus: list[FoundQemu]) -> SweepRun:
    """The last run, to go on with. Raises BadInput where it is complete, or was begun with another plan, kernel or QEMU."""
    run = store.run("last")
    if run.ended is not None:
        raise BadInput(f"run {run.id} in {store.path} is complete", "leave out --resume for a new one")
    fresh = "leave out --resume for a new run"
    if run.plan != plan.document():
        raise BadInput(f"run {run.id} in {store.path} was begun with another plan", fresh)
    changed = _changed(store, run, files, qemus)
    if changed:
        raise BadInput(f"{printable(changed)} has changed since run {run.id} was begun", fresh)
    return run


def same_run(store: SweepStore, plan: SweepPlan, files: list[SweepFile], qemus: list[FoundQemu]) -> SweepRun | None:
    """The last run of the same plan with the same files and QEMUs, complete or not; None where there is none."""
    document = plan.document()
    fitting = (one for one in reversed(store.runs()) if one.plan == document and not _changed(store, one, files, qemus))
    return next(fitting, None)


def _changed(store: SweepStore, run: SweepRun, files: list[SweepFile], qemus: list[FoundQemu]) -> str:
    """A file or a QEMU that is not what it was in the run; empty where there is none."""
    contents = {one.name: one.sha256 for one in store.files(run.id)}
    programs = {one.name: (one.version, one.sha256) for one in store.qemus(run.id)}
    changed = [one.name for one in files if contents.get(one.name) != one.sha256]
    changed += [one.name or DEFAULT_QEMU for one in qemus if programs.get(one.name) != (one.version, one.sha256)]
    return changed[0] if changed else ""


def tasks_of(plan: SweepPlan, store: SweepStore, run: SweepRun, files: list[SweepFile]) -> Iterator[CellTask]:
    """A task for each cell that has no result yet, one at a time."""
    paths = {one.name: one.path for one in files}
    cells = plan.cells()
    while some := list(islice(cells, _BATCH)):
        done = store.done(run.id, some) if run.done else set()
        for cell in some:
            if cell.id not in done:
                yield CellTask(cell, _named(cell, paths), plan.bounds, plan.judge, plan.extra, plan.reports)


def _named(cell: SweepCell, paths: Mapping[str, str]) -> dict[str, str]:
    names = (cell.kernel, cell.initrd, cell.expect, cell.firmware)
    return {name: paths[name] for name in names if name in paths}


def carried_out(
    store: SweepStore, run: SweepRun, tasks: Iterator[CellTask], engine: SweepEngine, progress: Progress,
    came: Callable[[SweepCounts], None] = lambda _: None,
) -> SweepCounts:  # fmt: skip
    """Boot the cells and keep the results. What has come is in the file also after an exception. Raises PvhdbgError."""
    total, before = run.cells, run.done
    count, bad, twice = 0, 0, 0
    began = shown = time.monotonic()
    results = engine.run(tasks)
    try:
        for cell, result in results:
            added = store.add(run.id, cell, result)
            store.commit()  # at once: the next one may take a minute
            if not added:
                twice += 1
                continue
            count += 1
            bad += not result.outcome.good
            now = time.monotonic()
            if now - shown > _SHOWN:
                shown = now
                progress(_words(SweepCounts(total, before, count, bad), now - began))
                came(SweepCounts(total, before, count, bad, twice))
    finally:
        results.close()
    found = SweepCounts(total, before, count, bad, twice)
    if found.complete:
        store.end(run.id)
    return found


def _words(counts: SweepCounts, took: float) -> str:
    done = counts.before + counts.came
    rate = counts.came / max(took, 1e-3)
    left = (counts.total - done) / rate if rate else 0.0
    return f"sweeping: {done} of {counts.total} cells, {rate:.1f} a second, {duration(left)} left, {counts.bad} not good"


def duration(seconds: float) -> str:
    """A length of time, for people: "45 s", "3 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def good(counts: Mapping[CellOutcome, int]) -> bool:
    """Whether a run with these outcomes exits with 0."""
    return all(one.good for one, number in counts.items() if number)
