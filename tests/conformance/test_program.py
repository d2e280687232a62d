"""`python -m conformance` itself: what it finds on a real QEMU, what it refuses, how it ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pvhdbg
from conformance import boots, host, matrix
from conformance.__main__ import main
from conformance.boots import Case, Setup
from conformance.table import programs
from pvhdbg import guests
from pvhdbg.decode.acpi import Rsdp
from pvhdbg.errors import BadInput, VmmFailed
from pvhdbg.rules.declare import Outcome, Verdict
from pvhdbg.sweep.store import opened
from tests.support.cli_runner import ROOT


@pytest.fixture
def qemu(qemu: str) -> str:
    """The path of the installed QEMU."""
    found = shutil.which(qemu)
    assert found is not None
    return found


# --- real boots ---------------------------------------------------------------------------------------------------


def test_both_kinds_of_firmware_are_found_booted_and_written(qemu: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--qemu",
        qemu,
        "-j",
        "2",
        "--machine",
        "pc",
        "--memory",
        "256M",
        "--modules",
        "0",
        "8193",
        "--guest",
        "hello",
        "--no-vmms",
        "--db",
        str(tmp_path / "c.db"),
    ]
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "conformance.md").write_text("### All rules: QEMU 1.0\n")
    assert main([*words, "--output", str(docs)]) == 0
    page = (docs / "conformance.md").read_text()
    assert "| SeaBIOS + pvh.bin | `pc` | [KNOWN](rules.md#qemu-tr-limit) |" in page
    assert "qboot (`-bios " in page
    assert "- boots: 4" in page
    assert len(programs(page)) == 1
    assert (docs / "rules.md").read_text() == (ROOT / "docs" / "rules.md").read_text()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "booted 4 of 4" in shown.err
    assert "also had QEMU 1.0" in shown.err
    assert sorted(path.name for path in docs.iterdir()) == ["conformance.md", "rules.md", "vmms.md"]
    # Made again by what is in the file, without a boot.
    assert main([*words, "--output", str(tmp_path / "again"), "--resume"]) == 0
    assert (tmp_path / "again" / "conformance.md").read_text() == page
    assert "booted" not in capsys.readouterr().err
    with opened(str(tmp_path / "c.db")) as store:
        assert [run.cells for run in store.runs()] == [5, 4]


def test_microvms_tables_lie_where_its_ramdisk_ends(qemu: str, tmp_path: Path) -> None:
    """The evidence for two deviations: with one byte more of the ramdisk, the XSDT in the last page loses its first byte."""
    image = next(name for name in matrix.images(qemu) if _is_seabios_of_microvm(qemu, name, tmp_path))
    xsdt = _xsdt(qemu, image)
    reach = 2 * 4096 + xsdt % 4096  # bytes of a ramdisk that ends where the XSDT begins
    sound, spoilt, whole = (_on_microvm(qemu, image, size, tmp_path) for size in (reach, reach + 1, 3 * 4096))
    for verdicts in (sound, spoilt):
        assert "which ends in the 0x1000 reserved bytes behind its RAM" in verdicts["SI-MOD-RAM"].violations[0].found
    assert spoilt["SI-RSDP-TABLES"].violations[0].found.startswith("its signature is “ZSDT”, under a module")
    assert sound["SI-RSDP-TABLES"].outcome is whole["SI-RSDP-TABLES"].outcome is whole["SI-MOD-RAM"].outcome is Outcome.PASS


def _is_seabios_of_microvm(qemu: str, image: str, folder: Path) -> bool:
    if image == "bios-256k.bin":
        return False  # it does not boot there, and takes its time to show it
    return boots.boot(Case(Setup(qemu, "microvm", image), "hello", "256M", 0), folder, 10).firmware == "SeaBIOS + pvh.bin"


def _xsdt(qemu: str, image: str) -> int:
    report = pvhdbg.check(str(guests.path("hello")), qemu=qemu, machine="microvm", memory="256M", extra=("-bios", image))
    rsdp = report.boot.start_info.rsdp
    assert isinstance(rsdp, Rsdp)
    return rsdp.xsdt_address


def _on_microvm(qemu: str, image: str, size: int, folder: Path) -> dict[str, Verdict]:
    (folder / str(size)).write_bytes(b"Z" * size)
    boot = boots.boot(Case(Setup(qemu, "microvm", image), "hello", "256M", size), folder)
    return {verdict.rule.id: verdict for verdict in boot.verdicts}


def test_a_machine_without_a_hand_off_is_a_failure_and_no_verdict(qemu: str, tmp_path: Path) -> None:
    boot = boots.boot(Case(Setup(qemu, "none"), "hello", "256M", 0), tmp_path, 5)
    assert boot.failure
    assert boot.verdicts == ()


def test_an_interrupt_ends_it_and_every_qemu_and_writes_nothing(qemu: str, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    command = [sys.executable, "-m", "conformance", "--qemu", qemu, "-j", "2", "--machine", "pc", "--output", str(tmp_path / "out")]
    command += ["--db", str(tmp_path / "c.db")]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        while "hands over on" not in (line := program.stderr.readline()):
            assert line, "it ended by itself"
        program.send_signal(signal.SIGINT)
        assert "nothing was written" in program.stderr.read()
        assert program.wait(10) == 130
    assert not (tmp_path / "out").exists()
    deadline = time.monotonic() + 10
    while (left := [*temporary.iterdir(), *_with_in_environment(str(temporary))]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def _with_in_environment(text: str) -> list[Path]:
    """The processes that were started with `text` in their environment and still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (process / "environ").read_bytes():
                found.append(process)
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--qemu", "/nonexistent/qemu"], 3, "/nonexistent/qemu"),
        (["--qemu", sys.executable], 3, "give a QEMU for x86 with --qemu"),
        (["--guest", "nosuch"], 2, "there is no sample guest 'nosuch'"),
        (["--memory", "900000G"], 3, "this host does not give a guest 900000G"),
    ],
    ids=["no QEMU", "another program", "no guest", "too much memory"],
)
def test_what_cannot_be_done_is_said_in_two_lines(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output", str(tmp_path / "out"), "--db", str(tmp_path / "db" / "c.db")]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "next: " in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["-j", "0"], ["-j", "x"], ["--modules", "-1"], ["--memory", "12Q"], ["--qem", "x"]])
def test_a_wrong_argument_is_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: conformance" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--rules-only", "--output", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_memory_sizes_are_qemus() -> None:
    assert [host.size_of(text) for text in ("256M", "3g", "5G", "64", "2048K")] == [256 << 20, 3 << 30, 5 << 30, 64 << 20, 2 << 20]
    for wrong in ("", "G", "0M", "-1M", "1.5G", "١M"):
        with pytest.raises(BadInput):
            host.size_of(wrong)


def test_memory_that_fits_once_and_not_twice_asks_for_fewer_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "room_for", lambda memory, jobs: jobs == 1)
    with pytest.raises(VmmFailed) as refused:
        host.require(["5G"], 2)
    assert "-j" in refused.value.todo
    host.require(["5G"], 1)
