"""The processes around cells, with cells that boot nothing: one that dies or hangs takes nothing with it."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pvhdbg.sweep.cell import CellBounds, CellTask, SweepCell
from pvhdbg.sweep.local import LocalEngine
from pvhdbg.sweep.plan import planned
from pvhdbg.sweep.result import CellOutcome, CellResult
from pvhdbg.sweep.running import carried_out, tasks_of
from pvhdbg.sweep.store import created
from tests.support.cli_runner import ROOT, eventually

CHILD = "tests.support.sweep_child"


def tasks(*words: str, hang: float = 60.0) -> Iterator[CellTask]:
    """A task for each command line. `hang` is how long one that hangs may take, in seconds."""
    return (CellTask(SweepCell("none", append=word), {}, CellBounds(seconds=hang if word == "hang" else 60.0)) for word in words)


def swept(tasks: Iterator[CellTask]) -> dict[str, CellResult]:
    """What came of the cells, by their command line."""
    with closing(LocalEngine(2, CHILD)) as engine:
        return {cell.append: result for cell, result in engine.run(tasks)}


def test_a_cell_that_dies_takes_nothing_with_it() -> None:
    words = ["a", "die", "b", "die 2", *(f"c {number}" for number in range(20))]
    found = swept(tasks(*words))
    assert found.keys() == set(words)
    assert {word for word, one in found.items() if one.outcome is CellOutcome.KILLED} == {"die", "die 2"}
    assert found["die"].conclusion == "the cell's process ended by signal 9"
    assert sum(one.outcome is CellOutcome.CONFORMS for one in found.values()) == 22


def test_modules_in_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "runpy", "pvhdbg", "tests"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert swept(tasks("a"))["a"].outcome is CellOutcome.CONFORMS
    assert not (tmp_path / "run").exists()


def test_a_cell_that_hangs_is_ended_in_time() -> None:
    began = time.monotonic()
    found = swept(tasks("a", "hang", "b", hang=1.5))
    assert found["hang"].outcome is CellOutcome.LATE
    assert found["hang"].conclusion == "not done within 1.5 s"
    assert found["a"].outcome is found["b"].outcome is CellOutcome.CONFORMS
    assert 1.5 <= time.monotonic() - began < 60


def test_a_consumer_that_stops_ends_the_processes() -> None:
    with closing(LocalEngine(2, CHILD)) as engine:
        coming = engine.run(tasks("a", "hang", *("slow" for _ in range(1000))))
        _, first = next(coming)
        _, second = next(coming)
        coming.close()
    for one in (first, second):
        eventually(lambda pid=one.place: not Path(f"/proc/{pid}").exists(), "a process is left")  # type: ignore[misc]


def test_a_process_whose_sweep_is_killed_ends() -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        coming = LocalEngine(1, CHILD).run(tasks("a", "hang"))
        os.write(writing, next(coming)[1].place.encode() + b"\n")
        next(coming)
        os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        pid = pipe.readline().strip()
        os.kill(child, 9)
        os.waitpid(child, 0)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "a process is left")


def test_a_process_whose_result_was_left_unread_ends() -> None:
    ours, its = socket.socketpair()
    words = [sys.executable, "-m", CHILD, str(its.fileno())]
    with its:
        process = subprocess.Popen(words, pass_fds=(its.fileno(),), cwd=ROOT, stderr=subprocess.DEVNULL)
    (task,) = tasks("a")
    ours.sendall(json.dumps(task.document()).encode() + b"\n")
    assert select.select([ours], [], [], 60)[0]
    ours.close()
    assert process.wait(60) == 1


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    plan = planned({"kernels": ["none"], "command_lines": [f"c {number}" for number in range(50)]}, {}, "", "sweep.toml")
    stopping = _Stopping(20)
    with created(str(tmp_path / "s.db")) as store:
        run = store.run(str(store.begin(plan.document(), 50, "1.0", "here", [], [])))
        with closing(stopping), pytest.raises(KeyboardInterrupt):
            carried_out(store, run, tasks_of(plan, store, run, []), stopping, lambda _: None)
    with created(str(tmp_path / "s.db")) as store:
        run = store.run("last")
        assert (run.done, run.ended) == (20, None)
        left = list(tasks_of(plan, store, run, []))
        assert len(left) == 30
        with closing(LocalEngine(2, CHILD)) as engine:
            counts = carried_out(store, run, iter(left), engine, lambda _: None)
        assert (counts.before, counts.came, counts.complete, counts.twice) == (20, 30, True, 0)
        assert len(list(store.results(run.id))) == 50
        assert store.run("last").ended is not None


class _Stopping(LocalEngine):
    """An engine whose user presses Ctrl-C after some cells."""

    def __init__(self, after: int) -> None:
        super().__init__(2, CHILD)
        self._after = after

    def run(self, tasks: Iterator[CellTask]):  # type: ignore[no-untyped-def]
        for number, one in enumerate(super().run(tasks)):
            if number == self._after:
                raise KeyboardInterrupt
            yield one
