"""A short round of each campaign with a fixed seed; `make fuzz` and `make torture` are the long ones. And that both can fail."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fuzz import figures, targets
from fuzz.corpus import files
from fuzz.mutate import Mutator
from fuzz.oracle import Failure, Finding, Oracle
from fuzz.target import Form, Output, Target
from tests.support.cli_runner import ROOT, scratch
from tests.support.sorting import examples
from torture import guest, rounds, two_sessions

_ROUNDS = 4
_INPUTS = {"sessions": 6, "gdb_sessions": 6, "reports": 30, "handoff": 60, "boots": 60, "probe_logs": 60}  # of slow targets
_SEED = 18


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.endswith("sessions") else name for name in targets.names()]
)
def test_a_reader_stands_its_corpus_and_some_mutations(name: str) -> None:
    target = targets.load(name)
    oracle = Oracle(target, slower=5)  # on a loaded machine
    seeds = [*target.seeds(), *(path.read_bytes() for path in files(name))]
    mutator = Mutator(Random(_SEED), seeds, target.words)
    for data in [*seeds, *(mutator.input() for _ in range(examples(_INPUTS.get(name, 150))))]:
        found = oracle.check(data)
        assert found is None, f"{found}\n{data!r}"


def _spins(data: bytes) -> Iterator[Output]:
    yield Output(Form.TEXT, data.decode("latin-1"))
    if data == b"spin":
        while True:
            pass
    if data == b"json":
        yield Output(Form.JSON, "{")
    if data == b"xml":
        yield Output(Form.XML, "<a>")
    if data == b"index":
        data[99]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"fine", None),
        (b"\x1b[2J", Failure.CONTROL),
        (b"json", Failure.MALFORMED),
        (b"xml", Failure.MALFORMED),
        (b"index", Failure.EXCEPTION),
        (b"spin", Failure.TIME),
    ],
)
def test_the_oracle_finds_every_kind_of_failure(data: bytes, kind: Failure | None) -> None:
    found: Finding | None = Oracle(Target(_spins, list), slower=0.1).check(data)
    assert (None if found is None else found.kind) is kind


def test_a_seed_makes_the_same_inputs_again() -> None:
    one, other = (Mutator(Random(7), [b"abc", b"0x10"]) for _ in range(2))
    assert [one.input() for _ in range(50)] == [other.input() for _ in range(50)]


def test_a_campaign_counts_its_inputs(tmp_path: Path) -> None:
    words = ["-m", "fuzz", "traces", "--seconds", "0.5", "--jobs", "1", "--plain", "--seed", "1", "--no-figures"]
    ran = subprocess.run(
        [sys.executable, *words, "--findings", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 findings (repeat with --seed 1)" in ran.stdout


@pytest.mark.boot
def test_some_kills_leave_nothing() -> None:
    random = Random(_SEED)
    with scratch() as folder:
        kernel = guest.write(folder, 200_000)
        for plan in [rounds.plan(random) for _ in range(_ROUNDS)]:
            assert rounds.run(plan, kernel).wrong == (), plan


@pytest.mark.boot
@pytest.mark.gdb
def test_two_sessions_at_one_stub() -> None:
    with scratch() as folder:
        assert two_sessions.run(two_sessions.SECOND[-1], folder) == ()


def test_the_page_shows_the_figures() -> None:
    text = figures.PAGE.read_text(encoding="utf-8")
    assert text.split(figures.BEGIN)[1].split(figures.END)[0].strip() == figures.tables().strip()
    assert json.loads(figures.FILE.read_text())["fuzz"]
