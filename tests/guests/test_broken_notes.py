"""broken_notes: what pvhdbg says of each defect, and what a real QEMU does with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pvhdbg
from pvhdbg.decode import elf
from pvhdbg.decode.kernel_file import survey
from pvhdbg.errors import PvhdbgError, VmmFailed
from pvhdbg.loaders.qemu import QEMU
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.files import judge_file
from pvhdbg.targets.run import run_until
from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support.broken_notes import BROKEN_NOTES, CHANCE, KILLED, REFUSED, BrokenNote, write_all
from tests.support.cli_runner import ROOT
from tests.support.debugged import debugged


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in write_all(tmp_path_factory.mktemp("broken"))}


def test_every_defect_has_a_file_of_its_own(files: dict[str, Path]) -> None:
    assert files.keys() == BROKEN_NOTES.keys()
    assert len({path.read_bytes() for path in files.values()}) == len(files) > 25
    assert len({note.defect for note in BROKEN_NOTES.values()}) == len(files)


@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_the_entry_that_is_found(files: dict[str, Path], name: str) -> None:
    found = elf.phys32_entry(elf.parse(files[name].read_bytes()))
    assert (None if found is None else found.address) == BROKEN_NOTES[name].entry


@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_the_rules_that_it_spoils(files: dict[str, Path], name: str) -> None:
    verdicts = judge_file(survey(files[name].read_bytes()))
    assert [one.rule.id for one in verdicts if one.outcome is Outcome.FAIL] == BROKEN_NOTES[name].rules.split() != []


def test_without_a_defect_such_a_kernel_is_sound() -> None:
    verdicts = judge_file(survey(BrokenNote("", "", "", None).build()))
    assert {one.outcome for one in verdicts} <= {Outcome.PASS, Outcome.NOT_APPLICABLE}


@pytest.mark.boot
@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_what_pvhdbg_says_of_it(files: dict[str, Path], name: str) -> None:
    note: BrokenNote = BROKEN_NOTES[name]
    if isinstance(note.qemu, int):  # QEMU enters it all the same: the hand-off is shown, and the file judged
        report = pvhdbg.check(str(files[name]))
        assert report.boot.snapshot.entry.address == note.qemu
        assert report.boot.snapshot.kernel is not None
        assert report.boot.snapshot.kernel.entry == note.entry
        assert note.rules.split() == [
            one.rule.id for one in report.verdicts if one.outcome is Outcome.FAIL and one.rule.id.startswith("ELF-")
        ]
        return
    with pytest.raises(PvhdbgError) as caught:
        pvhdbg.check(str(files[name]))
    assert note.said in caught.value.what
    assert caught.value.todo
    assert caught.value.exit_code == (1 if note.entry is None else 3)
    if note.entry is None:
        assert ("QEMU refuses it" in caught.value.what) == (note.qemu == REFUSED)
    else:
        assert isinstance(note.qemu, str)
        assert note.qemu in caught.value.what  # QEMU's own words


@pytest.mark.boot
@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_what_a_real_qemu_does_with_it(files: dict[str, Path], name: str) -> None:
    fate = BROKEN_NOTES[name].qemu
    if isinstance(fate, str):
        with pytest.raises(VmmFailed) as caught:
            start(QemuOptions(files[name]))
        assert fate in caught.value.what
    elif fate is not CHANCE:
        with debugged(QemuOptions(files[name])) as (_, target):
            assert run_until(target, [fate], 20) == fate


@pytest.mark.parametrize("name", BROKEN_NOTES)
def test_what_qemu_does_is_foretold(files: dict[str, Path], name: str) -> None:
    fate = BROKEN_NOTES[name].qemu
    loading = QEMU.load(survey(files[name].read_bytes()))
    assert (loading.undefined is not None) == (fate is CHANCE)
    assert (loading.crash is not None) == (fate == KILLED)
    if isinstance(fate, int):
        assert loading.entry == fate
    elif fate not in (CHANCE, KILLED):
        assert fate in str(loading.refusal)


def test_they_can_be_had_as_files(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "tests/support/broken_notes.py", str(tmp_path / "out")],
        capture_output=True, text=True, check=True, timeout=30, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert len(ran.stdout.splitlines()) == len(BROKEN_NOTES)
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(BROKEN_NOTES)
