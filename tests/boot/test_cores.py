"""Cores that a real QEMU wrote: judged like the machine that they were taken of, except for what a core cannot hold."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import Leave
from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support.cli_runner import outcomes, pvhdbg, report
from tests.support.real_kernel import elf_entry

pytestmark = pytest.mark.boot

LOST = {"PVH-EFER-LMA", "PVH-TR-LIMIT"}  # EFER, and QEMU's version, which excuses the other


@dataclass(frozen=True)
class Taken:
    """A folder with what was taken of one machine: a whole core, a part of one, a snapshot and the live report."""

    folder: Path
    kernel: Path
    live: dict[str, Any]

    @property
    def core(self) -> Path:
        return self.folder / "core"

    @property
    def snapshot(self) -> Path:
        return self.folder / "a.pvhsnap"


@contextmanager
def taken(kernel: Path, **options: Any) -> Iterator[Taken]:
    """Boot `kernel` to its entry and take all of it there. The folder goes with its big files."""
    folder = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
    try:
        with start(QemuOptions(kernel=kernel, append="console=ttyS0 mark=7", **options)) as qemu:
            live = report(qemu.gdb_socket, "--kernel", kernel)
            pvhdbg("snapshot", "save", qemu.gdb_socket, "--kernel", kernel, "-o", folder / "a.pvhsnap")
            target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
            try:
                (folder / "monitor").write_text(target.monitor("info registers"))
                target.monitor(f"dump-guest-memory {folder}/core")
                target.monitor(f"dump-guest-memory {folder}/part 0x0 0x3000")
            finally:
                target.close(Leave.STOPPED)
        yield Taken(folder, kernel, live)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def hello() -> Iterator[Taken]:
    with taken(Path(guest("hello")), memory="32M", machine="q35", cpus=2) as one:
        yield one


def test_the_verdicts_are_those_of_the_live_machine(hello: Taken) -> None:
    live, core = outcomes(hello.live), outcomes(report(hello.core, "--kernel", hello.kernel))
    assert live.keys() == core.keys()
    assert {rule for rule in live if live[rule] != core[rule]} == LOST
    assert {core[rule] for rule in LOST} == {"unknown"}


def test_what_is_shown_is_what_the_monitor_shows(hello: Taken) -> None:
    shown = json.loads(pvhdbg("regs", hello.core, "--format", "json"))
    text = (hello.folder / "monitor").read_text()
    for name, value in re.findall(r"\b(E[A-D]X|E[SD]I|E[BS]P|EIP|EFL|CR[0234])=([0-9a-f]+)", text):
        assert int(shown["registers"][{"EFL": "eflags"}.get(name, name.lower())], 16) == int(value, 16), name
    rows = re.findall(r"^(ES|CS|SS|DS|FS|GS|LDT|TR) ?= ?([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)", text, re.MULTILINE)
    assert len(rows) == 8
    for name, *row in rows:
        one = shown["segments"][name.lower()]
        assert [int(one[part], 16) for part in ("selector", "base", "limit", "flags")] == [int(value, 16) for value in row], name
    assert (shown["registers"]["efer"], shown["a20"]) == (None, None)


def test_start_info_is_the_same(hello: Taken) -> None:
    shown = json.loads(pvhdbg("info", hello.core, "--format", "json"))
    assert shown["start_info"] == hello.live["start_info"]
    assert shown["start_info"]["command_line"] == "console=ttyS0 mark=7"
    assert shown["vmm"]["name"] == "QEMU"


def test_without_the_kernel_it_is_told_by_its_looks(hello: Taken) -> None:
    document = report(hello.core)
    assert document["entry"]["found_by"] == "first stop"
    assert "the core shows 2 CPUs: the first is judged" in document["warnings"]
    assert outcomes(document)["SI-OVERLAP"] == "unknown"


def test_what_a_part_of_memory_does_not_hold_is_undecided_and_never_violated(hello: Taken) -> None:
    document = report(hello.folder / "part", "--here", "--select", "SI,PVH-EBX")
    found = outcomes(document)
    assert "fail" not in found.values()
    assert found["SI-RSDP-SIG"] == "unknown"  # the RSDP is in the BIOS area
    assert found["PVH-EBX-MAGIC"] == "pass"


def test_a_snapshot_holds_the_tables_and_the_first_code(hello: Taken) -> None:
    document = json.loads(hello.snapshot.read_text())
    held = [(int(piece["address"], 16), piece["size"]) for piece in document["memory"]]
    base, limit = (int(value, 16) for value in document["gdt"])
    for address, size in ((base, limit + 1), (0x100000, 8192), (0, 0x400)):
        assert any(start <= address and address + size <= start + length for start, length in held), hex(address)
    assert document["kernel"]["sha256"] is not None
    assert outcomes(report(hello.snapshot)).items() <= outcomes(hello.live).items()


def test_gdb_opens_what_is_exported(hello: Taken) -> None:
    core = hello.folder / "exported"
    assert "an ELF core" in pvhdbg("snapshot", "export", hello.snapshot, "-o", core)
    start_info = int(hello.live["registers"]["ebx"], 16)
    ran = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "info registers rip rbx eflags cs", "-ex", "x/i $pc", "-ex", f"x/1xw {start_info}",
         str(hello.kernel), str(core)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    shown = dict(re.findall(r"^(\w+) +(0x[0-9a-f]+)", ran.stdout, re.MULTILINE))
    live = hello.live["registers"]
    assert [int(shown[name], 16) for name in ("rip", "rbx", "eflags")] == [
        int(live[name], 16) for name in ("eip", "ebx", "eflags")
    ]  # fmt: skip
    assert "<pvh_start>" in ran.stdout
    assert "0x336ec578" in ran.stdout
    assert outcomes(report(core, "--kernel", hello.kernel)) == outcomes(hello.live)
    assert outcomes(report(core)) == outcomes(report(hello.snapshot))


def test_debians_kernel(vmlinux: Path) -> None:
    with taken(vmlinux, memory="128M") as one:
        live, core = outcomes(one.live), outcomes(report(one.core, "--kernel", vmlinux))
        assert {rule for rule in live if live[rule] != core.get(rule)} == LOST
        assert one.snapshot.stat().st_size < 100_000


def test_a_core_and_a_snapshot_of_a_kernel_in_long_mode(vmlinux: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
    startup_64 = elf_entry(vmlinux)  # where Linux is in long mode, and still at its physical address
    try:
        with start(QemuOptions(kernel=vmlinux, memory="128M")) as qemu:
            target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket))
            try:
                run_until(target, [startup_64], 20)
                code = target.read_memory(startup_64, 4).hex()
                cr3 = target.read_registers()["cr3"]
                target.monitor(f"dump-guest-memory {folder}/core")
            finally:
                target.close(Leave.STOPPED)
            pvhdbg("snapshot", "save", qemu.gdb_socket, "--kernel", vmlinux, "--here", "-o", folder / "a.pvhsnap")
        past = subprocess.run(
            [sys.executable, "-m", "pvhdbg", "check", folder / "core", "--kernel", vmlinux],
            capture_output=True,
            text=True,
            check=False,
        )
        assert past.returncode == 3
        assert "--here" in past.stderr
        shown = json.loads(pvhdbg("regs", folder / "core", "--here", "--format", "json"))
        assert int(shown["registers"]["rip"], 16) == startup_64
        assert shown["segments"]["cs"]["long"] == 1
        held = [(int(piece["address"], 16), piece["size"]) for piece in json.loads((folder / "a.pvhsnap").read_text())["memory"]]
        assert any(start <= cr3 & ~0xFFF and start + size >= (cr3 & ~0xFFF) + 4096 for start, size in held)
        pvhdbg("snapshot", "export", folder / "a.pvhsnap", "-o", folder / "exported")
        ran = subprocess.run(
            ["gdb", "-nx", "-batch", "-ex", f"core-file {folder}/exported", "-ex", "x/4xb $pc"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "".join(re.findall(r"\t0x(..)", ran.stdout)) == code
    finally:
        shutil.rmtree(folder, ignore_errors=True)
