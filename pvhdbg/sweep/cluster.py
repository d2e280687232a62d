"""Cells on the workers of a Dask scheduler: the same tasks, kernels shipped once to each worker, and each cell bound to its QEMU.

Dask runs a lost worker's cells again and keeps slow workers from being given more than they can do. A worker offers, as Dask's
resources, the QEMUs of the plan that it has; a cell asks for the one that it needs. Each thread of a worker has a process of its own for
its cells, with the bounds that a local sweep has.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker

from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput, PvhdbgError, VmmFailed
from pvhdbg.record import replace
from pvhdbg.sweep.cell import AskedQemu, CellTask, SweepCell
from pvhdbg.sweep.local import Done
from pvhdbg.sweep.result import CellOutcome, CellResult
from pvhdbg.sweep.store import FoundQemu, SweepFile
from pvhdbg.sweep.worker import CHILD, CellWorker
from pvhdbg.version import VERSION
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.qemu import version_of

_CONNECTING = 10.0  # seconds
_LOOK = 2.0  # seconds between two looks at the workers while nothing comes
_NOBODY = 60.0  # seconds that cells wait for a worker with their QEMU
_AHEAD = 3  # cells for each thread that are handed over: one runs, the others are there when it ends
_TRIES = 3  # of a cell whose result was lost
_MOST_SHIPPED = 1 << 30  # bytes
_FOLDER = "pvhdbg-sweep"


class SweepPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed has no types for it
    """Readies each worker, also one that comes later: the files by their content, and which of the QEMUs it has.

    A worker with another pvhdbg offers nothing, and is given no cell.
    """

    def __init__(self, contents: Mapping[str, bytes], qemus: Mapping[str, str]) -> None:
        """`contents` are by their SHA-256; `qemus` are the resources with what is asked for, "PROGRAM@VERSION"."""
        self.version = VERSION
        self.contents = contents
        self.qemus = qemus

    async def setup(self, worker: Worker) -> None:
        """Called by Dask on the worker."""
        if self.version != VERSION:
            return
        folder = Path(worker.local_directory, _FOLDER)
        folder.mkdir(exist_ok=True)
        for digest, data in self.contents.items():
            _put(folder / digest, data)
        found = {name: worker.state.nthreads for name, asked in self.qemus.items() if _has(AskedQemu.of(asked))}
        await worker.set_resources(**found)


def _put(path: Path, data: bytes) -> None:
    """Write the file; one that is there already has this content, by its name."""
    if not path.exists():
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.write_bytes(data)
        new.replace(path)


def _has(asked: AskedQemu) -> bool:
    try:
        return asked.fits(version_of(asked.program or DEFAULT_QEMU).split()[0])
    except PvhdbgError:
        return False


_own = threading.local()  # a process for each thread


def boot_there(document: Mapping[str, Any], digests: Mapping[str, str], module: str) -> dict[str, Any]:
    """A cell on a worker, by the thread's own process; the result as plain values."""
    here = get_worker()
    folder = Path(here.local_directory, _FOLDER)
    process: CellWorker | None = vars(_own).get("process")
    if process is None:
        process = _own.process = CellWorker(module)
    task = replace(CellTask.of(document), files={name: str(folder / digest) for name, digest in digests.items()})
    return replace(process.run(task), place=f"{here.name} {here.address}").document()


class DaskEngine:
    """The workers of a scheduler."""

    def __init__(self, address: str, files: list[SweepFile], qemus: list[FoundQemu], module: str = CHILD) -> None:
        """Raises BadInput where no scheduler answers, VmmFailed where no worker has a QEMU of the plan."""
        self._address = printable(address)
        self._digests = {one.name: one.sha256.hex() for one in files}
        self._module = module
        self._asked = {one.name: _exact(one) for one in qemus}
        size = sum(one.size for one in files)
        if size > _MOST_SHIPPED:
            raise BadInput(f"the kernels and initrds have {size >> 20} MiB, more than {_MOST_SHIPPED >> 20}", "make several sweeps")
        try:
            self._client = Client(address, timeout=_CONNECTING, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"no Dask scheduler answers at {self._address}", "start one with: dask scheduler") from error
        contents = {one.sha256.hex(): Path(one.path).read_bytes() for one in files}
        wanted = {_resource(asked): asked for asked in self._asked.values()}
        self._client.register_plugin(SweepPlugin(contents, wanted), name=f"{_FOLDER}-{os.getpid()}-{time.monotonic_ns()}")
        self._await_workers()

    @property
    def jobs(self) -> int:
        """The threads of all workers that have a QEMU of the plan."""
        resources = {_resource(asked) for asked in self._asked.values()}
        return sum(one["nthreads"] for one in self._workers() if resources & one["resources"].keys())

    def run(self, tasks: Iterator[CellTask]) -> Generator[Done, None, None]:
        """As `LocalEngine.run`. Raises VmmFailed when the scheduler is lost, or no worker has a cell's QEMU any more."""
        running: dict[str, tuple[Future, CellTask, int]] = {}
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        quiet = time.monotonic()
        threads = self.jobs
        try:
            while True:
                while len(running) < max(threads, 1) * _AHEAD and (task := next(tasks, None)) is not None:
                    self._submit(task, 1, running, ended)
                if not running:
                    return
                batch = _drained(ended)
                if not batch:
                    self._place_again(running, ended)
                    self._refuse_nobody(running, quiet)
                    threads = self.jobs
                    continue
                quiet = time.monotonic()
                yield from self._results(batch, running, ended)
        except (OSError, distributed.comm.CommClosedError) as error:
            raise VmmFailed(f"the Dask scheduler at {self._address} is lost", "start it, and go on with --resume") from error
        finally:
            with suppress(Exception):  # it may be lost
                self._client.cancel([future for future, _, _ in running.values()], force=True)

    def close(self) -> None:
        """Leave the scheduler."""
        self._client.close(timeout=_CONNECTING)

    def _submit(
        self, task: CellTask, attempt: int, running: dict[str, tuple[Future, CellTask, int]], ended: queue.SimpleQueue[Future]
    ) -> None:
        key = f"{task.cell.id.hex()}-{attempt}-{time.monotonic_ns()}"
        digests = {name: self._digests[name] for name in task.files}
        future = self._client.submit(
            boot_there,
            task.document(),
            digests,
            self._module,
            key=key,
            pure=False,
            resources={_resource(self._asked[task.cell.qemu]): 1},
        )
        running[key] = future, task, attempt
        future.add_done_callback(ended.put)

    def _place_again(self, running: dict[str, tuple[Future, CellTask, int]], ended: queue.SimpleQueue[Future]) -> None:
        """Hand over again what no worker has. Dask looks for a worker when one comes, and a new one offers its QEMUs only after that."""
        placed = {key for keys in self._client.processing().values() for key in keys}
        offered = self._offered()
        for key, (future, task, attempt) in [*running.items()]:
            if key not in placed and not future.done() and _resource(self._asked[task.cell.qemu]) in offered:
                del running[key]
                future.cancel()
                self._submit(task, attempt, running, ended)

    def _results(
        self, batch: list[Future], running: dict[str, tuple[Future, CellTask, int]], ended: queue.SimpleQueue[Future]
    ) -> Iterator[Done]:
        finished = [one for one in batch if one.status == "finished"]
        documents = dict(zip((one.key for one in finished), self._client.gather(finished, errors="skip"), strict=False))
        if len(documents) != len(finished):  # one was lost on the way: each by itself
            documents = {}
        for one in batch:
            if one.key not in running:  # it was handed over again
                continue
            future, task, attempt = running.pop(one.key)
            document = documents.get(one.key)
            if document is None:
                document = self._alone(future, task)
            if document is None and attempt < _TRIES:
                self._submit(task, attempt + 1, running, ended)
                continue
            yield task.cell, _result(document)

    def _alone(self, future: Future, task: CellTask) -> dict[str, Any] | None:
        """A result, or that of a cell that took its workers down; None where it was lost."""
        try:
            found: dict[str, Any] = future.result(timeout=task.bounds.seconds + _NOBODY)
        except KilledWorker:
            words = "each worker that booted this cell was lost"
            return CellResult(CellOutcome.KILLED, words, 3, next="boot this cell alone with pvhdbg check").document()
        except Exception:  # of Dask, in many kinds: the result is lost
            return None
        return found

    def _workers(self) -> list[dict[str, Any]]:
        workers: dict[str, dict[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        return list(workers.values())

    def _missing(self, cells: list[SweepCell]) -> str:
        """A QEMU that one of the cells needs and no worker has; empty where there is none."""
        offered = self._offered()
        return next((asked for cell in cells if _resource(asked := self._asked[cell.qemu]) not in offered), "")

    def _offered(self) -> set[str]:
        return {name for one in self._workers() for name, number in one["resources"].items() if number}

    def _refuse_nobody(self, running: dict[str, tuple[Future, CellTask, int]], quiet: float) -> None:
        if time.monotonic() - quiet > _NOBODY and (asked := self._missing([task.cell for _, task, _ in running.values()])):
            raise VmmFailed(f"no worker has {printable(asked)}", "start one that has, and go on with --resume")

    def _await_workers(self) -> None:
        deadline = time.monotonic() + _NOBODY
        while not self.jobs:
            if time.monotonic() > deadline:
                names = " or ".join(sorted(printable(one) for one in self._asked.values()))
                self.close()
                raise VmmFailed(f"no worker of {self._address} has pvhdbg {VERSION} and {names}", "start one: dask worker ADDRESS")
            time.sleep(0.1)


def _exact(one: FoundQemu) -> str:
    """What a cell needs: the version that was asked for, else that of this computer, else any."""
    asked = AskedQemu.of(one.name)
    version = asked.version or ("" if one.version is None else one.version.split()[0])
    return f"{asked.program or DEFAULT_QEMU}@{version}"


def _resource(asked: str) -> str:
    return f"pvhdbg:{asked}"


def _drained(ended: queue.SimpleQueue[Future]) -> list[Future]:
    """What has come; waits a while for the first one."""
    found: list[Future] = []
    try:
        found.append(ended.get(timeout=_LOOK))
        while len(found) < 500:
            found.append(ended.get_nowait())
    except queue.Empty:
        pass
    return found


def _result(document: dict[str, Any] | None) -> CellResult:
    if document is None:
        return CellResult(CellOutcome.KILLED, f"its result was lost {_TRIES} times", 3, next="see the workers' logs")
    return CellResult.of(document)
