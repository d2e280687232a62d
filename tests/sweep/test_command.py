"""`pvhdbg sweep` with real boots."""

import json
import os
import re
import shlex
import shutil
import signal
import xml.etree.ElementTree as ET

import pytest
from lxml import etree

from pvhdbg.commands.declare import Context
from pvhdbg.commands.line import parse
from pvhdbg.errors import BadInput
from pvhdbg.guests import path as guest
from pvhdbg.report.style import PLAIN
from pvhdbg.sweep.store import opened
from tests.report.test_junit import schema as junit_schema
from tests.support.cli_runner import Cli, eventually
from tests.support.schemas import valid

PLAN = """
kernels = ["hello.elf", "fragile.elf"]
machines = ["pc", "microvm"]
memory = ["64M"]
"""


@pytest.fixture
def folder(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A folder with two guests and a plan; it is the current one."""
    monkeypatch.chdir(cli.folder)
    for name in ("hello", "fragile"):
        shutil.copy(guest(name), cli.folder / f"{name}.elf")
    cli.file("sweep.toml", PLAN)
    return cli


def ran(line: str, code: int = 0, format: str = "text") -> str:
    """A command's answer, in this process: a new one for each takes longer than what it does."""
    command, values = parse(shlex.split(line))
    answer = command(values, Context())
    assert answer.exit_code == code
    return answer.render(format, PLAIN)


@pytest.mark.boot
def test_a_sweep_from_its_plan_to_its_reports(folder: Cli) -> None:
    planned = valid(ran("sweep sweep.toml --dry-run", format="json"))
    assert (planned["cells"], planned["run"], planned["expected"]) == (4, None, None)
    assert folder.files() == ["fragile.elf", "hello.elf", "sweep.toml"]

    done = folder("sweep", "sweep.toml", "-j", "1").ok()
    assert re.match(r"pvhdbg: sweeping 4 cells: 2 kernels x 2 machines in run 1 of sweep\.db; about \d+ s\n", done.err)
    assert "4 cells: 4 conforms" in done.out
    assert "kernels      microvm   pc\nfragile.elf  conforms  conforms\n" in done.out
    assert folder.files() == ["fragile.elf", "hello.elf", "sweep.db", "sweep.toml"]
    document = valid(ran("sweep report", format="json"))
    assert document["outcomes"] == {"conforms": 4}
    assert {one["vmm"].partition(" ")[0] for one in document["results"]} == {"QEMU"}
    assert all("PVH-TR-LIMIT" in {verdict["rule"] for verdict in one["verdicts"]} for one in document["results"])

    html = ran("sweep report", format="html")
    for one in document["results"]:
        assert html.count(f'href="#c{one["cell"]}"') == html.count(f'id="c{one["cell"]}"') == 1
    assert html.count("<pre>") == html.count("(exit 0)") == 4

    # The same once more, judged strictly: the known deviations fail now.
    folder.file("sweep.toml", PLAN + "strict = true\n[[exclude]]\nmachines = 'micro*'\nkernels = 'fragile.elf'\n")
    assert "3 cells: 3 violated" in ran("sweep sweep.toml -j 1", 1)
    changed = valid(ran("sweep diff -2 -1", 1, "json"))
    assert (changed["compared"], changed["only_a"], len(changed["changed"])) == (3, 1, 3)
    assert {(one["before"], one["after"]) for one in changed["changed"]} == {("conforms", "violated")}
    assert ran("sweep diff 2 2") == "0 of 3 cells changed from run 2 to run 2\n"

    ran("sweep export --run 1 -o one.jsonl")
    assert len([json.loads(line) for line in (folder.folder / "one.jsonl").read_text().splitlines()]) == 4
    ran("sweep export --as junit -o two.xml")
    written = (folder.folder / "two.xml").read_bytes()
    for name in ("junit-10.xsd", "junit-4.xsd"):
        junit_schema(name).assertValid(etree.fromstring(written))
    suite = ET.fromstring(written)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert "PVH-TR-LIMIT" in str(suite[0][0].text)
    rows = valid(ran("sweep query 'select machine, count(*) from cells group by 1'", format="json"))
    assert rows["rows"] == [["microvm", "3"], ["pc", "4"]]


@pytest.mark.boot
def test_a_rule_that_is_judged_differently_is_named(folder: Cli) -> None:
    """Another kernel under the same name: the file's hash and the rule that changed are told."""
    ran("sweep --kernel hello.elf --memory 64M -j 1")
    shutil.copy(guest("other_protocols"), "hello.elf")
    ran("sweep --kernel hello.elf --memory 64M -j 1", 1)
    text = ran("sweep diff -2 -1", 1)
    assert "note: hello.elf has another content\n" in text
    assert re.search(r"^    ELF-MULTIBOOT: pass -> fail$", text, re.MULTILINE)


@pytest.mark.boot
def test_goals_expectations_and_mutations_are_judged(folder: Cli) -> None:
    shutil.copy(guest("long_mode"), folder.folder / "long_mode.elf")
    folder.file("long.toml", '[[milestone]]\nreaches = "long"\nmax_instructions = 20000\n')
    plan = 'kernels = ["long_mode.elf"]\nmemory = ["64M"]\ngoals = ["", "long"]\nexpectations = ["", "long.toml"]\n'
    folder.file(
        "goals.toml", plan + '[[only]]\ngoals = ""\nexpectations = "long.toml"\n[[only]]\ngoals = "long"\nexpectations = ""\n'
    )
    assert "2 cells: 2 conforms" in ran("sweep goals.toml -j 1")
    rows = valid(ran("sweep query 'select missed, instructions > 10 from milestone'", format="json"))["rows"]
    assert rows == [["", "1"], ["", "1"]]
    mutations = "--mutate '' --mutate esp-zero --mutate cr2-garbage --mutate module-cmdline"
    stressed = ran(f"sweep --kernel fragile.elf --memory 64M --append relies=esp-zero --until survived -j 1 {mutations}", 1)
    assert "4 cells: 2 conforms, 1 violated, 1 not tried" in stressed
    ran("sweep export -o stressed.jsonl")
    dead = json.loads((folder.folder / "stressed.jsonl").read_text().splitlines()[2])
    assert dead["axes"]["mutations"] == "esp-zero"
    assert dead["verdicts"][0]["rule"] == "STRESS-ESP-ZERO"


@pytest.mark.boot
def test_a_cell_that_cannot_be_booted_is_told_and_the_others_are_judged(folder: Cli) -> None:
    found = valid(ran("sweep --kernel hello.elf --machine pc --machine nosuch --memory 64M -j 1", 1, "json"))
    assert found["outcomes"] == {"conforms": 1, "not observed": 1}
    folder.file("small.toml", 'kernels = ["hello.elf"]\nmemory = ["64M"]\ncell_memory = "64M"\n')
    small = valid(ran("sweep small.toml -j 1", 1, "json"))
    assert small["outcomes"].keys() <= {"not observed", "killed"}


def _kept(folder: Cli) -> int:
    """How many results are in the file."""
    with opened(str(folder.folder / "sweep.db")) as store:
        return store.run("last").done


@pytest.mark.boot
def test_ctrl_c_keeps_what_came_and_resume_goes_on(folder: Cli) -> None:
    memory = [word for size in range(64, 80) for word in ("--memory", f"{size}M")]
    words = ("sweep", "--kernel", "hello.elf", *memory, "-j", "1")
    with folder.start(*words) as process:
        assert process.stderr is not None
        process.stderr.readline()
        eventually(lambda: _kept(folder) > 1, "nothing comes", 20)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(20) == 130
    (done_words,) = [line for line in said.splitlines() if "--resume" in line]
    done = int(done_words.partition(" of 16 cells are in sweep.db; go on with the same and --resume")[0].rsplit(" ", 1)[-1])
    assert 0 < done < 16
    assert os.listdir(folder.tmp) == []
    line = shlex.join(words)
    with pytest.raises(BadInput, match="begun with another plan"):
        ran(f"{shlex.join(words[:-4])} --resume -j 1")
    short = valid(ran(f"{line} --resume", format="json"))
    assert (short["run"], short["done"], short["outcomes"]) == (1, 16, {"conforms": 16})
    with pytest.raises(BadInput, match="is complete"):
        ran(f"{line} --resume")


@pytest.mark.boot  # the version of QEMU is asked for
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sweep", "names no kernel"),
        ("sweep nosuch.toml", "cannot be read"),
        ("sweep --kernel hello.elf -j 0", "not a number of processes"),
        ("sweep --kernel nosuch.elf", "cannot be read"),
        ("sweep --kernel hello.elf --qemu nosuch", "nosuch is not here"),
        ("sweep --kernel hello.elf --qemu qemu-system-x86_64@1.0", "1.0 was asked for"),
        ("sweep --kernel hello.elf --resume", "holds no run"),
        ("sweep report", "is not there"),
        ("sweep report --db hello.elf", "not a file of sweeps"),
        ("sweep --kernel hello.elf -o fragile.elf", "not a file of sweeps"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Cli, line: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        ran(line)
    assert said in refused.value.what
    assert refused.value.todo
