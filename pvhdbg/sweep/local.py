"""Cells on this computer: several processes at a time."""

from __future__ import annotations

import selectors
import time
from collections.abc import Generator, Iterator

from pvhdbg.sweep.cell import CellTask, SweepCell
from pvhdbg.sweep.result import CellResult
from pvhdbg.sweep.worker import CHILD, CellWorker

_LONGEST = 1.0  # seconds between two looks at the clock

Done = tuple[SweepCell, CellResult]


class LocalEngine:
    """`jobs` processes, until it is closed. A cell that dies, or takes too long, takes its process with it and nothing else."""

    def __init__(self, jobs: int, module: str = CHILD) -> None:
        self.jobs = jobs
        self._workers = [CellWorker(module) for _ in range(jobs)]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()

    def run(self, tasks: Iterator[CellTask]) -> Generator[Done, None, None]:
        """The results, in the order in which they come. A consumer that stops ends all boots. Raises VmmFailed."""
        idle, busy = [*self._workers], list[CellWorker]()
        selector = selectors.DefaultSelector()
        try:
            while True:
                while idle and (task := next(tasks, None)) is not None:
                    worker = idle.pop()
                    worker.begin(task)
                    selector.register(worker.fileno(), selectors.EVENT_READ, worker)
                    busy.append(worker)
                if not busy:
                    return
                for worker, result in _arrived(selector, busy):
                    busy.remove(worker)
                    idle.append(worker)
                    yield result
        finally:
            selector.close()
            for worker in busy:
                worker.close()


def _arrived(selector: selectors.BaseSelector, busy: list[CellWorker]) -> list[tuple[CellWorker, Done]]:
    """The results that have come, after a wait of bounded length."""
    found: list[tuple[CellWorker, Done]] = []
    left = min(worker.deadline for worker in busy) - time.monotonic()
    ready: list[CellWorker] = [key.data for key, _ in selector.select(max(min(left, _LONGEST), 0))]
    now = time.monotonic()
    for worker in [*busy]:
        if worker not in ready and now < worker.deadline:
            continue
        task, number = worker.task, worker.fileno()
        assert task is not None
        result = worker.step() if worker in ready else None
        if result is None and now >= worker.deadline:
            result = worker.late()
        if result is not None:
            selector.unregister(number)
            found.append((worker, (task.cell, result)))
    return found
