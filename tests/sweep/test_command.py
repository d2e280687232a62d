"""`pvhdbg sweep` with real boots."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ET

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.sweep.store import opened
from tests.support.cli_runner import Cli, eventually

PLAN = """
kernels = ["hello.elf", "fragile.elf"]
machines = ["pc", "microvm"]
memory = ["64M"]
"""


@pytest.fixture
def folder(cli: Cli) -> Cli:
    """A folder with two guests and a plan."""
    for name in ("hello", "fragile"):
        shutil.copy(guest(name), cli.folder / f"{name}.elf")
    cli.file("sweep.toml", PLAN)
    return cli


@pytest.mark.boot
def test_a_sweep_from_its_plan_to_its_reports(folder: Cli) -> None:
    planned = folder("sweep", "sweep.toml", "--dry-run", "--format", "json").ok().json()
    assert (planned["cells"], planned["run"], planned["expected"]) == (4, None, None)
    assert folder.files() == ["fragile.elf", "hello.elf", "sweep.toml"]

    ran = folder("sweep", "sweep.toml").ok()
    assert re.match(r"pvhdbg: sweeping 4 cells: 2 kernels x 2 machines in run 1 of sweep\.db; about \d+ s\n", ran.err)
    assert "4 cells: 4 conforms" in ran.out
    assert folder.files() == ["fragile.elf", "hello.elf", "sweep.db", "sweep.toml"]
    document = folder("sweep", "report", "--format", "json").ok().json()
    assert document["outcomes"] == {"conforms": 4}
    assert {one["vmm"].partition(" ")[0] for one in document["results"]} == {"QEMU"}
    assert all("PVH-TR-LIMIT" in {verdict["rule"] for verdict in one["verdicts"]} for one in document["results"])

    html = folder("sweep", "report", "--format", "html").ok().out
    for one in document["results"]:
        assert html.count(f'href="#c{one["cell"]}"') == html.count(f'id="c{one["cell"]}"') == 1
    assert html.count("<pre>") == 4
    assert html.count("(exit 0)") == 4

    # The same once more, judged strictly: the known deviations fail now.
    cli_plan = PLAN + "strict = true\n[[exclude]]\nmachines = 'micro*'\nkernels = 'fragile.elf'\n"
    folder.file("sweep.toml", cli_plan)
    strict = folder("sweep", "sweep.toml").ok(1)
    assert "; about " in strict.err.splitlines()[0]
    changed = folder("sweep", "diff", "-2", "-1", "--format", "json").ok(1).json()
    assert (changed["compared"], changed["only_a"], len(changed["changed"])) == (3, 1, 3)
    assert {(one["before"], one["after"]) for one in changed["changed"]} == {("conforms", "violated")}
    assert folder("sweep", "diff", "2", "2").ok().out == "0 of 3 cells changed from run 2 to run 2\n"

    lines = [json.loads(line) for line in folder("sweep", "export", "--run", "1").ok().out.splitlines()]
    assert len(lines) == 4
    suite = ET.fromstring(folder("sweep", "export", "--as", "junit").ok().out)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert "PVH-TR-LIMIT" in str(suite[0][0].text)
    rows = folder("sweep", "query", "select machine, count(*) from cells group by 1", "--format", "json").ok().json()
    assert rows["rows"] == [["microvm", "3"], ["pc", "4"]]


@pytest.mark.boot
def test_goals_expectations_and_mutations_are_judged(folder: Cli) -> None:
    shutil.copy(guest("long_mode"), folder.folder / "long_mode.elf")
    folder.file("long.toml", '[[milestone]]\nreaches = "long"\nmax_instructions = 20000\n')
    folder("sweep", "--kernel", "long_mode.elf", "--memory", "64M", "--expect", "long.toml").ok()
    folder("sweep", "--kernel", "long_mode.elf", "--memory", "64M", "--until", "long").ok()
    query = "select run, missed, instructions > 10 from milestone"
    rows = folder("sweep", "query", query, "--format", "json").ok().json()["rows"]
    assert rows == [["1", "", "1"], ["2", "", "1"]]
    mutations = [word for id in ("", "esp-zero", "cr2-garbage", "module-cmdline") for word in ("--mutate", id)]
    stressed = folder(
        "sweep", "--kernel", "fragile.elf", "--memory", "64M", "--append", "relies=esp-zero", "--until", "survived", *mutations
    )
    assert "4 cells: 2 conforms, 1 violated, 1 not tried" in stressed.ok(1).out
    (dead,) = folder("sweep", "export").ok().out.splitlines()[2:3]
    assert json.loads(dead)["axes"]["mutations"] == "esp-zero"
    assert json.loads(dead)["verdicts"][0]["rule"] == "STRESS-ESP-ZERO"


@pytest.mark.boot
def test_a_cell_that_cannot_be_booted_is_told_and_the_others_are_judged(folder: Cli) -> None:
    ran = folder(
        "sweep", "--kernel", "hello.elf", "--machine", "pc", "--machine", "nosuch", "--memory", "64M", "--format", "json"
    ).ok(1)
    assert ran.json()["outcomes"] == {"conforms": 1, "not observed": 1}
    folder.file("small.toml", PLAN + 'cell_memory = "64M"\n[[only]]\nkernels = "hello.elf"\nmachines = "pc"\n')
    small = folder("sweep", "small.toml", "--format", "json").ok(1).json()
    assert small["outcomes"].keys() <= {"not observed", "killed"}


def _kept(folder: Cli) -> int:
    """How many results are in the file."""
    with opened(str(folder.folder / "sweep.db")) as store:
        return store.run("last").done


@pytest.mark.boot
def test_ctrl_c_keeps_what_came_and_resume_goes_on(folder: Cli) -> None:
    memory = [word for size in range(64, 94) for word in ("--memory", f"{size}M")]
    words = ("sweep", "--kernel", "hello.elf", *memory, "-j", "1")
    with folder.start(*words) as process:
        assert process.stderr is not None
        process.stderr.readline()
        eventually(lambda: _kept(folder) > 3, "nothing comes", 20)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(20) == 130
    (done_words,) = [line for line in said.splitlines() if "--resume" in line]
    done = int(done_words.partition(" of 30 cells are in sweep.db; go on with the same and --resume")[0].rsplit(" ", 1)[-1])
    assert 0 < done < 30
    assert os.listdir(folder.tmp) == []
    folder(*words[:-4], "--resume", "-j", "1").complaint(2, "begun with another plan")
    short = folder(*words, "--resume", "--format", "json").ok().json()
    assert (short["run"], short["done"], short["outcomes"]) == (1, 30, {"conforms": 30})
    folder(*words, "--resume").complaint(2, "is complete")


@pytest.mark.boot  # the version of QEMU is asked for
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep"], "names no kernel"),
        (["sweep", "nosuch.toml"], "cannot be read"),
        (["sweep", "--kernel", "hello.elf", "-j", "0"], "not a number of processes"),
        (["sweep", "--kernel", "nosuch.elf"], "cannot be read"),
        (["sweep", "--kernel", "hello.elf", "--qemu", "nosuch"], "nosuch is not here"),
        (["sweep", "--kernel", "hello.elf", "--qemu", "qemu-system-x86_64@1.0"], "1.0 was asked for"),
        (["sweep", "--kernel", "hello.elf", "--resume"], "holds no run"),
        (["sweep", "report"], "is not there"),
        (["sweep", "report", "--db", "hello.elf"], "not a file of sweeps"),
        (["sweep", "--kernel", "hello.elf", "-o", "fragile.elf"], "not a file of sweeps"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Cli, words: list[str], said: str) -> None:
    folder(*words).complaint(2, said)
