"""`make test-fast` starts no QEMU, GDB or browser: such tests are left out, and one that is not marked cannot start them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli_runner import ROOT
from tests.support.programs import need

SCRATCH = """
import shutil, subprocess
import pytest
from hypothesis import given, settings, strategies as st
from tests.support.sorting import examples

@pytest.fixture
def qemu(): pass

@pytest.fixture
def machine(qemu): pass

@pytest.fixture(scope="module")
def early(): subprocess.run(["gdb", "--version"])

def test_by_a_fixture_of_a_fixture(machine): raise AssertionError("it ran")

@pytest.mark.boot
def test_by_a_mark(): raise AssertionError("it ran")

@pytest.mark.slow
def test_slow(): raise AssertionError("it ran")

def test_pure(): pass

@pytest.mark.parametrize("program", ["qemu-system-x86_64", "gdb"])
def test_forgotten(program):
    assert subprocess.run([program, "--version"]).returncode != 0

def test_forgotten_in_a_fixture(early): pass

seen = []

@given(st.integers())
@settings(max_examples=examples(400), database=None)
def test_property(number): seen.append(number)

def test_budget(): print(f"examples: {len(seen)}")
"""


def run(folder: Path, *words: str) -> str:
    """What pytest prints of the scratch tests, with the project's way to sort."""
    (folder / "test_scratch.py").write_text(SCRATCH)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  boot\n  gdb\n  slow\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.sorting",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--rootdir",
        str(folder),
    ]
    done = subprocess.run([*command, *words, str(folder)], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_marked_is_left_out_and_what_is_not_cannot_start_a_program(tmp_path: Path) -> None:
    said = run(tmp_path, "--fast")
    assert "it ran" not in said
    assert "3 deselected" in said
    assert set(re.findall(r"^PASSED \S+::(\w+)", said, re.MULTILINE)) == {"test_pure", "test_property", "test_budget"}
    assert set(re.findall(r"^FAILED \S+::(\S+)", said, re.MULTILINE)) == {
        "test_forgotten[qemu-system-x86_64]", "test_forgotten[gdb]", "test_forgotten_in_a_fixture",
    }  # fmt: skip
    assert "it started gdb, and is not marked so" in said
    assert int(re.findall(r"examples: (\d+)", said)[0]) < 60


@pytest.mark.slow
def test_a_forgotten_mark_fails_in_every_run(tmp_path: Path) -> None:
    said = run(tmp_path, "-k", "forgotten or property or budget")
    assert "3 failed, 2 passed" in said
    assert int(re.findall(r"examples: (\d+)", said)[0]) >= 400


def test_make_runs_the_fast_tests_so() -> None:
    need("make")
    shown = subprocess.run(["make", "-n", "test-fast"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert re.search(r"pytest .*--fast\b", shown)
