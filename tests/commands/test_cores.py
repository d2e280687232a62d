"""The commands on cores and snapshots that were made by hand: what is refused, with which words, and what is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from pvhdbg.decode import snapshot_file
from pvhdbg.model import Vmm
from pvhdbg.rules.examples import Example, at_entry
from pvhdbg.spec.revisions import V1
from tests.support.cli_runner import HELLO, Cli, Machine
from tests.support.core_writer import build_core, prstatus64, qemu_note

SCHEMA = json.loads((Path(snapshot_file.__file__).parents[1] / "report" / "schemas" / "snapshot-1.json").read_text())
SECRET = "token=hunter2"


def snapshot_of(example: Example) -> str:
    return snapshot_file.encode(example.boot(V1).snapshot)


@pytest.fixture
def files(cli: Cli) -> Cli:
    """A folder with a core and a snapshot in it."""
    cli.file("core", build_core())
    cli.file("a.pvhsnap", snapshot_of(at_entry(vmm=Vmm("QEMU", "7.2.22"), command_line=f"ro {SECRET}\0".encode())))
    return cli


@pytest.mark.parametrize("command", ["check", "regs", "info"])
def test_a_core_that_is_not_at_an_entry(files: Cli, command: str) -> None:
    files(command, "core").complaint(3, "was not captured at a PVH entry", "--here", "protected mode")
    assert files(command, "core", "--here").code in (0, 1)


def test_a_core_shows_its_registers(files: Cli) -> None:
    shown = files("regs", "core", "--here", "--format", "json").ok().json()
    assert (shown["registers"]["ebx"], shown["registers"]["efer"], shown["segments"]["gdt"]["base"]) == ("0x2000", None, "0x1000")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (build_core(header={"machine": 183}), ("AArch64", "x86")),
        (build_core()[:-1], ("truncated", "dump-guest-memory")),
        (build_core(header={"phnum": 0xFFFE}), ("65534 program headers",)),
        (build_core(load={"filesz": 1 << 62}), ("truncated",)),
        (build_core(b""), ("no registers",)),
        (b"KDUMP   " + bytes(100), ("kdump", "compression")),
    ],
)
def test_a_bad_core_is_one_complaint(files: Cli, data: bytes, words: tuple[str, ...]) -> None:
    files.file("bad", data)
    for command in ("check", "info", "regs"):
        files(command, "bad").complaint(2, *words)


@pytest.mark.parametrize("words", [("--append", "x"), ("--machine", "q35"), ("--entry", "0x100000"), ("--reset",)])
def test_a_core_takes_no_machine_options(files: Cli, words: tuple[str, ...]) -> None:
    files("check", "core", *words).complaint(2, words[0], "a core is only read")


def test_a_core_is_no_kernel(files: Cli) -> None:
    files("run", "core").complaint(2, "is a core", "pvhdbg check core")
    files("fwcfg", "core").complaint(2, "recording")


def test_a_core_without_qemus_note(files: Cli) -> None:
    files.file("plain", build_core(prstatus64()))
    shown = files("regs", "plain", "--here", "--format", "json").ok().json()
    assert shown["registers"]["cr0"] is None
    assert shown["segments"]["gdt"] is None


def test_a_kernel_that_is_not_the_cores(files: Cli) -> None:
    files.file("at", build_core(qemu_note()))
    ran = files("check", "at", "--kernel", HELLO, "--format", "json")
    assert any("differs from the core's memory" in one for one in ran.json()["warnings"])


def test_a_core_becomes_a_snapshot(files: Cli) -> None:
    files("snapshot", "save", "core", "--here", "-o", "b.pvhsnap").ok()
    document = json.loads((files.folder / "b.pvhsnap").read_text())
    jsonschema.validate(document, SCHEMA)
    assert (
        files("regs", "b.pvhsnap", "--format", "json").ok().json()
        == files("regs", "core", "--here", "--format", "json").ok().json()
    )


# --- export -------------------------------------------------------------------------------------------------------


def test_export_and_import(files: Cli) -> None:
    assert "an ELF core of" in files("snapshot", "export", "a.pvhsnap", "-o", "b").ok().out
    shown = files("info", "b", "--format", "json").ok().json()
    assert shown["start_info"]["command_line"] == f"ro {SECRET}"
    piped = files.folder / "c"
    with open(piped, "w") as stream:
        files("snapshot", "export", "a.pvhsnap", "-o", "-", stdout=stream).ok()
    assert piped.read_bytes() == (files.folder / "b").read_bytes()


def test_export_of_what_is_no_snapshot(files: Cli) -> None:
    files("snapshot", "export", "core", "-o", "b").complaint(2, "is an ELF core already")
    files("snapshot", "export", "none.pvhsnap", "-o", "b").complaint(2, "none.pvhsnap")
    files("snapshot", "export", "a.pvhsnap", "-o", "none/b").complaint(2, "none/b")
    assert not (files.folder / "b").exists()


def test_zeros_that_nobody_observed_are_told(files: Cli) -> None:
    files.file("gap.pvhsnap", snapshot_of(at_entry(unobserved=("rdi",))))
    assert "rdi" in files("snapshot", "export", "gap.pvhsnap", "-o", "b").ok().out


def test_an_output_that_takes_no_more(files: Cli) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    files("snapshot", "export", "a.pvhsnap", "-o", "/dev/full").complaint(2, "cannot be written")


# --- redaction ----------------------------------------------------------------------------------------------------


def test_a_saved_snapshot_can_be_redacted_later(files: Cli) -> None:
    before = files("check", "a.pvhsnap", "--format", "json").json()
    files("snapshot", "save", "a.pvhsnap", "--redact", "cmdline", "-o", "b.pvhsnap").ok()
    after = files("check", "b.pvhsnap", "--format", "json").json()
    assert SECRET in before["start_info"]["command_line"]
    assert after["start_info"]["command_line"] == "*" * len(f"ro {SECRET}")
    assert [one["outcome"] for one in before["verdicts"]] == [one["outcome"] for one in after["verdicts"]]
    assert after["sources"]["command line"] == "redacted"


@pytest.mark.boot
def test_redacted_at_once(cli: Cli) -> None:
    cli("snapshot", "save", HELLO, "--append", f"ro {SECRET}", "--redact", "cmdline", "-o", "a.pvhsnap").ok()
    text = (cli.folder / "a.pvhsnap").read_text()
    document = json.loads(text)
    jsonschema.validate(document, SCHEMA)
    assert SECRET not in text
    snapshot = snapshot_file.decode(text)
    assert not any(SECRET.encode() in piece.data for piece in snapshot.memory.pieces)
    command = snapshot.vmm.command
    assert command is not None
    assert command[command.index("-append") + 1] == "*" * len(f"ro {SECRET}")
    assert snapshot.kernel is not None
    assert len(snapshot.kernel.sha256 or "") == 64


def test_only_known_parts_are_redacted(files: Cli) -> None:
    files("snapshot", "save", "a.pvhsnap", "--redact", "memory", "-o", "b").complaint(2, "memory")


# --- older files --------------------------------------------------------------------------------------------------


def test_a_file_without_the_newer_parts_still_reads(files: Cli) -> None:
    document = json.loads((files.folder / "a.pvhsnap").read_text())
    jsonschema.validate(document, SCHEMA)
    del document["vmm"]["command"]
    files.file("old.pvhsnap", json.dumps(document))
    jsonschema.validate(document, SCHEMA)
    assert files("check", "old.pvhsnap", "--format", "json").json() == files("check", "a.pvhsnap", "--format", "json").json()


def test_an_attached_machines_command_is_not_guessed(cli: Cli, machine: Callable[..., Machine]) -> None:
    stub = machine()
    cli("snapshot", "save", stub.socket, "--kernel", HELLO, "-o", "a.pvhsnap").ok()
    assert json.loads((cli.folder / "a.pvhsnap").read_text())["vmm"]["command"] is None
