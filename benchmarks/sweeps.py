"""What a sweep costs beside its boots.

    python -m benchmarks.sweeps [--empty 10000 100000] [--real 40] [--dask 500]

--empty: cells that boot nothing: the coordinator's CPU time for each, its memory, and the file's size. --real: cells that
only wait, and real boots, with one process and with more: the ratio of the rates. --dask: empty cells on real workers, one of which is killed in the middle,
one is slow (nice, and stopped half of the time), and one has another QEMU version.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

from pvhdbg.guests import path as guest
from pvhdbg.sweep.local import LocalEngine
from pvhdbg.sweep.plan import SweepPlan, planned
from pvhdbg.sweep.running import SweepCounts, SweepEngine, carried_out, found_qemus, hashed_files, tasks_of
from pvhdbg.sweep.store import SweepRun, SweepStore, created
from tests.support.dask_cluster import DaskCluster, another_qemu

ROOT = Path(__file__).parent.parent
EMPTY = "benchmarks.empty_cells"
CPUS = len(os.sched_getaffinity(0))
WORKERS = 3


def swept(
    store: SweepStore, plan: SweepPlan, engine: SweepEngine, came: Callable[[SweepCounts], None] = lambda _: None
) -> SweepCounts:
    """A whole run; the engine is closed."""
    run = _run(store, plan)
    with closing(engine):
        return carried_out(store, run, tasks_of(plan, store, run, hashed_files(plan)), engine, lambda _: None, came)


def _run(store: SweepStore, plan: SweepPlan) -> SweepRun:
    return store.run(str(store.begin(plan.document(), plan.count(), "bench", "here", hashed_files(plan), found_qemus(plan))))


def empty_plan(folder: Path, cells: int) -> SweepPlan:
    """A plan of that many cells, a multiple of 100."""
    (folder / "kernel").write_bytes(b"none")
    axes = {"command_lines": [f"case={number}" for number in range(cells // 100)], "cpus": list(range(1, 101))}
    return planned({"kernels": ["kernel"], "cells": cells, **axes}, {}, str(folder), "bench")


def empty(cells: int, folder: Path) -> None:
    """In a process of its own, since the most memory that a process has had is asked for."""
    plan = empty_plan(folder, cells)
    path = folder / "empty.db"
    cpu, began = time.process_time(), time.monotonic()
    with created(str(path)) as store:
        counts = swept(store, plan, LocalEngine(CPUS, EMPTY))
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    assert counts.complete
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = path.stat().st_size / cells
    print(f"| {cells} | {1000 * cpu / cells:.3f} ms | {most:.0f} MiB | {size:.0f} | {cells / took:.0f} |", flush=True)


def _start(store: SweepStore, plan: SweepPlan, engine: LocalEngine) -> None:
    """Let each process boot something: their start is not measured."""
    for _ in engine.run(islice(tasks_of(plan, store, _run(store, plan), hashed_files(plan)), 2 * engine.jobs)):
        pass


def sleeping(folder: Path) -> None:
    """Cells that only wait: how much of N times the rate of one process N processes give, however busy the CPUs are."""
    rates = {}
    for jobs in (1, 2, 8, 16):
        cells = 25 * jobs
        plan = planned({"kernels": [str(guest("hello"))], "command_lines": [f"sleep {n}" for n in range(cells)]}, {}, "", "bench")
        with created(str(folder / f"{jobs}.db")) as store, closing(LocalEngine(jobs, EMPTY)) as engine:
            _start(store, plan, engine)
            began = time.monotonic()
            assert swept(store, plan, engine).complete
            rates[jobs] = cells / (time.monotonic() - began)
        print(
            f"cells that wait, -j {jobs}: {rates[jobs]:.1f} a second, {rates[jobs] / rates[1] / jobs:.2f} of {jobs} times -j 1",
            flush=True,
        )


def real(cells: int, folder: Path) -> None:
    """Real boots: the rate with one process for each CPU over the rate with one, for each CPU."""
    plan = planned({"kernels": [str(guest("hello"))], "memory": [f"{64 + n}M" for n in range(cells)]}, {}, "", "bench")
    ratios, work = [], []
    with created(str(folder / "real.db")) as store:
        for _ in range(3):
            rates, seconds = {}, {}
            for jobs in (1, CPUS):
                with closing(LocalEngine(jobs)) as engine:
                    _start(store, plan, engine)
                    began, before = time.monotonic(), _cpu()
                    assert not swept(store, plan, engine).bad
                    rates[jobs] = cells / (time.monotonic() - began)
                seconds[jobs] = (_cpu() - before) / cells
            ratios.append(rates[CPUS] / rates[1] / CPUS)
            work.append(seconds[CPUS] / seconds[1])
            print(f"real cells a second: {rates[1]:.1f} with -j 1, {rates[CPUS]:.1f} with -j {CPUS}", flush=True)
    print(
        f"of {CPUS} CPUs' rate: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"CPU time of a cell, with the start of its process: {seconds[1]:.2f} s; with -j {CPUS} {statistics.median(work):.2f} times that"
    )
    size = (folder / "real.db").stat().st_size
    print(f"bytes of the file for each real cell and run: {size / cells / 3 / 2:.0f}")


def _cpu() -> float:
    """CPU seconds of this process and of all that it started and that have ended."""
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def cluster(cells: int, folder: Path) -> None:
    """`cells` cells on a cluster that has troubles; some of them ask for a QEMU version that only one worker has."""
    from pvhdbg.sweep.cluster import DaskEngine  # not in the memory that is measured above

    kernel = folder / "kernel"
    kernel.write_bytes(os.urandom(1 << 20))
    apart = cells // 10
    document = {
        "kernels": [str(kernel)],
        "qemus": ["", "qemu-system-x86_64@99.1"],
        "command_lines": [f"slow {number}" for number in range(cells - apart)],
        "only": [{"qemus": ""}, {"qemus": "*@99.1", "command_lines": [f"slow {number}" for number in range(apart)]}],
    }
    plan = planned(document, {}, "", "bench")
    assert plan.count() == cells
    place = folder / "dask"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with DaskCluster(place, environment) as dask, created(str(folder / "dask.db")) as store:
        for name in ("one", "lost", "slow"):
            dask.start(name)
        dask.start("other", {"PATH": another_qemu(place / "bin", "99.1.2")})
        ended = threading.Event()
        threading.Thread(target=_slow_down, args=(dask.workers["slow"], ended), daemon=True).start()

        def came(counts: SweepCounts) -> None:
            if counts.came > cells // 2 and dask.workers["lost"].poll() is None:
                dask.workers["lost"].kill()

        cpu, began = time.process_time(), time.monotonic()
        engine = DaskEngine(dask.address, hashed_files(plan), found_qemus(plan), "tests.support.sweep_child")
        counts = swept(store, plan, engine, came)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        ended.set()
        assert dask.workers["lost"].poll() is not None
        results = list(store.results(1))
    assert len({one.key for one in results}) == len(results) == cells == counts.came
    assert not counts.bad
    assert not counts.twice
    places: dict[str, int] = {}
    for one in results:
        name = one.place.split()[0]
        places[name] = places.get(name, 0) + 1
        assert (name == "other") == bool(one.cell.qemu)
    print(
        f"{cells} cells on {len(places)} workers in {took:.0f} s, {1000 * cpu / cells:.1f} ms of the coordinator for each: {places}"
    )


def _slow_down(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Stop a worker half of the time."""
    os.setpriority(os.PRIO_PROCESS, process.pid, 10)
    while not ended.wait(0.5) and process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        ended.wait(0.5)
        process.send_signal(signal.SIGCONT)


def main() -> int:
    os.environ["PYTHONPATH"] = str(ROOT)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--empty", type=int, nargs="*", default=[10_000, 100_000], help="numbers of empty cells")
    parser.add_argument("--real", type=int, default=40, help="number of real cells; 0 for none")
    parser.add_argument("--dask", type=int, default=500, help="number of cells on a cluster; 0 for none")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.here:
        with tempfile.TemporaryDirectory(prefix="pvhdbg-bench-") as folder:
            empty(wanted.empty[0], Path(folder))
        return 0
    if wanted.empty:
        print("| empty cells | coordinator's CPU time for each | its memory at most | bytes of the file for each | a second |")
        print("|---|---|---|---|---|", flush=True)
    for cells in wanted.empty:
        subprocess.run([sys.executable, "-m", "benchmarks.sweeps", "--here", "--empty", str(cells)], check=True, cwd=ROOT)
    if wanted.real:
        with tempfile.TemporaryDirectory(prefix="pvhdbg-bench-") as folder:
            sleeping(Path(folder))
    for number, work in ((wanted.real, real), (wanted.dask, cluster)):
        if number:
            with tempfile.TemporaryDirectory(prefix="pvhdbg-bench-") as folder:
                work(number, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
