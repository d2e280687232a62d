"""Cells on a real Dask scheduler with real workers: none is lost, none is counted twice, each is where its QEMU is."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pvhdbg.errors import BadInput, VmmFailed
from pvhdbg.guests import path as guest
from pvhdbg.sweep import cluster
from pvhdbg.sweep.cluster import DaskEngine
from pvhdbg.sweep.plan import planned
from pvhdbg.sweep.running import SweepCounts, carried_out, found_qemus, hashed_files, tasks_of
from pvhdbg.sweep.store import created
from tests.support.cli_runner import ROOT, Cli
from tests.support.dask_cluster import DaskCluster, another_qemu

CHILD = "tests.support.sweep_child"
CELLS = 60


@pytest.fixture
def dask(cli: Cli) -> Iterator[DaskCluster]:
    """A scheduler with two workers, and a third whose QEMU says that it is version 99.1.2."""
    folder = cli.folder / "dask"
    folder.mkdir()
    with DaskCluster(folder, {**cli.env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}) as found:
        found.start("one")
        found.start("two")
        found.start("other", {"PATH": another_qemu(folder / "bin", "99.1.2")})
        yield found


@pytest.mark.boot
def test_a_lost_workers_cells_run_again_and_each_cell_is_where_its_qemu_is(
    dask: DaskCluster, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = cli.file("kernel", b"\x7fELF any content")
    document = {
        "kernels": [kernel],
        "qemus": ["", "qemu-system-x86_64@99.1"],
        "command_lines": [*(f"slow {number}" for number in range(CELLS)), "die"],
        "exclude": [{"qemus": "*@99.1", "command_lines": ["die", "slow ??"]}],
    }
    plan = planned(document, {}, "", "sweep.toml")
    files, qemus = hashed_files(plan), found_qemus(plan)
    engine = DaskEngine(dask.address, files, qemus, CHILD)

    def came(counts: SweepCounts) -> None:
        if counts.came > CELLS // 4:
            dask.workers["two"].kill()

    with closing(engine), created(str(cli.folder / "s.db")) as store:
        run = store.run(str(store.begin(plan.document(), plan.count(), "1.0", "here", files, qemus)))
        counts = carried_out(store, run, tasks_of(plan, store, run, files), engine, lambda _: None, came)
        assert dask.workers["two"].poll() is not None
        assert (counts.total, counts.came, counts.bad, counts.twice) == (CELLS + 1 + 10, CELLS + 1 + 10, 1, 0)
        results = list(store.results(run.id))
    assert len({one.key for one in results}) == len(results) == plan.count()
    assert {one.place.split()[0] for one in results if one.cell.qemu} == {"other"}
    places = {one.place.split()[0] for one in results if not one.cell.qemu and one.cell.append != "die"}
    assert places == {"one", "two"}
    shipped = [path.name for path in Path(cli.folder, "dask", "one").rglob("pvhdbg-sweep/*")]
    assert shipped == [files[0].sha256.hex()]

    shutil.copy(guest("hello"), cli.folder / "hello.elf")
    ran = cli("sweep", "--kernel", "hello.elf", "--memory", "64M", "--dask", dask.address, env={"PYTHONWARNINGS": ""}).ok()
    assert "1 cell: 1 conforms" in ran.out

    monkeypatch.setattr(cluster, "_NOBODY", 0.5)
    absent = planned({**document, "qemus": ["qemu-system-x86_64@98"], "exclude": []}, {}, "", "sweep.toml")
    with pytest.raises(VmmFailed, match=r"has pvhdbg .* and qemu-system-x86_64@98"):
        DaskEngine(dask.address, [], found_qemus(absent))


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    with pytest.raises(BadInput, match="no Dask scheduler answers"):
        DaskEngine("tcp://127.0.0.1:1", [], [])
