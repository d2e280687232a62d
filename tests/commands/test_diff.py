"""diff on real machines: a snapshot, a kernel that is started, a gdbstub of somebody else's QEMU."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_runner import HELLO, Cli, Start, scratch


@pytest.fixture(scope="module")
def snapshot() -> Iterator[Path]:
    """`hello` with 512 MiB on the default machine."""
    with scratch() as folder:
        Cli(folder)("snapshot", "save", HELLO, "-o", folder / "a.pvhsnap").ok()
        yield folder / "a.pvhsnap"


def found(document: dict[str, Any], weight: str) -> dict[str, tuple[str, str]]:
    return {one["at"]: (one["a"], one["b"]) for one in document["differences"] if one["weight"] == weight}


@pytest.mark.boot
def test_the_same_boot_twice_is_the_same(cli: Cli, snapshot: Path) -> None:
    ran = cli("diff", snapshot, HELLO).ok()
    assert ran.out.splitlines()[-1] == "the same where it matters (exit 0)"
    assert "What" not in ran.out


@pytest.mark.boot
def test_what_was_changed_is_what_differs(cli: Cli, snapshot: Path) -> None:
    initrd = cli.file("initrd", b"070701" + bytes(5000))
    words = ("--memory", "1G", "--append", "one two", "--initrd", initrd, "--machine", "q35")
    ran = cli("diff", snapshot, HELLO, *words, "--format", "json", "--report", "text=diff.txt", "--report", "html=diff.html").ok(1)
    matters = found(ran.json(), "matters")
    assert matters.pop("command line") == ("“”", "“one two”")
    assert matters.pop("nr_modules") == ("0", "1")
    assert matters
    assert all(two == "RAM" for _, two in matters.values())  # the rest is the memory that was added
    assert "rsdp_paddr" in found(ran.json(), "free")
    text = (cli.folder / "diff.txt").read_text()
    assert text.index("What matters") < text.index("command line") < text.index("What the ABI leaves free")
    assert ">The same where" not in (page := (cli.folder / "diff.html").read_text())
    assert "“<mark>one two</mark>”" in page


@pytest.mark.boot
def test_another_firmware_differs_in_what_is_free_and_in_what_is_on_record(cli: Cli, snapshot: Path) -> None:
    document = cli("diff", snapshot, HELLO, "--machine", "microvm", "--format", "json", "--", "-bios", "qboot.rom").json()
    assert {"rbx", "rsp", "gdt"} <= found(document, "free").keys()
    assert not {"cr0", "cr4", "eflags", "cs.limit", "cs.base"} & found(document, "matters").keys()


def test_a_stub_takes_the_options_of_a_stub(cli: Cli, snapshot: Path, machine: Start) -> None:
    stub = machine("-append", "x")
    ran = cli("diff", snapshot, stub.socket, "--kernel", HELLO, "--format", "json").ok(1)
    assert found(ran.json(), "matters")["command line"] == ("“”", "“x”")
    assert stub.running()


@pytest.mark.boot
def test_options_that_neither_side_takes(cli: Cli, snapshot: Path) -> None:
    cli("diff", snapshot, snapshot, "--machine", "q35").complaint(2, "--machine applies to neither")
    cli("diff", snapshot, snapshot, "--", "-device", "x").complaint(2, "words after --")
    cli("diff", snapshot, "missing.pvhsnap").complaint(2)
    cli("diff", snapshot, cli.file("cut.pvhsnap", snapshot.read_text()[:500])).complaint(2, "snapshot")
    cli("diff", snapshot, HELLO, "--select", "NO-SUCH", "--qemu", "/nonexistent").complaint(2, "rule")


@pytest.mark.boot
def test_what_a_snapshot_does_not_hold_is_not_seen(cli: Cli, snapshot: Path) -> None:
    document = json.loads(snapshot.read_text())
    del document["registers"]["cr4"]
    ran = cli("diff", snapshot, cli.file("b.pvhsnap", json.dumps(document)), "--format", "json").ok()
    assert found(ran.json(), "unseen").keys() == {"cr4", "PVH-CR4-ZERO"}
    cli("diff", snapshot, "b.pvhsnap", "--strict").ok(4)
