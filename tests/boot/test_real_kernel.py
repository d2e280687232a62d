"""A real Debian kernel on real machines; the oracle is what the kernel itself prints about what it was handed."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.vmm.qemu import QemuOptions, start
from tests.support.cli_runner import pvhdbg, report

pytestmark = pytest.mark.boot

BOOT_TIME = 60.0  # seconds; usual is 2
E820 = re.compile(r"BIOS-e820: \[mem 0x([0-9a-f]{16})-0x([0-9a-f]{16})\] (.+)")
E820_TYPES = {"usable": 1, "reserved": 2, "ACPI data": 3, "ACPI NVS": 4, "unusable": 5}
CMDLINE = "console=ttyS0 earlyprintk=serial,ttyS0 ignore_loglevel panic=-1 pvhdbg.mark=7"


def outcomes(document: dict[str, Any], outcome: str) -> set[str]:
    return {verdict["rule"] for verdict in document["verdicts"] if verdict["outcome"] == outcome}


@dataclass(frozen=True)
class Machine:
    """A machine to boot, by its options for both pvhdbg and the QEMU that boots it to the end."""

    machine: str
    memory: str
    initrd: bool
    append: bool

    def __str__(self) -> str:
        return f"{self.machine}-{self.memory}{'-initrd' if self.initrd else ''}{'-append' if self.append else ''}"


MACHINES = [
    Machine("pc", "256M", initrd=True, append=True),
    Machine("pc", "5G", initrd=False, append=True),
    Machine("pc,acpi=off", "512M", initrd=True, append=True),
    Machine("q35", "256M", initrd=False, append=True),
    Machine("q35", "5G", initrd=True, append=True),
    Machine("q35,acpi=off", "512M", initrd=False, append=True),
    Machine("microvm", "256M", initrd=True, append=True),
    Machine("microvm", "5G", initrd=False, append=True),
    Machine("microvm,acpi=off", "512M", initrd=True, append=True),
    Machine("pc", "512M", initrd=False, append=False),
    Machine("q35", "512M", initrd=True, append=False),
    Machine("microvm", "512M", initrd=False, append=False),
]


@pytest.fixture(scope="session")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty newc archive, padded to an odd size: enough for a kernel to report its RAMDISK."""
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    name = b"TRAILER!!!\0"
    fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name), 0]
    entry = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    path.write_bytes(entry.ljust(150_001, b"\0"))
    return path


def options_of(machine: Machine, initrd: Path) -> list[str | Path]:
    words: list[str | Path] = ["--machine", machine.machine, "--memory", machine.memory]
    if machine.initrd:
        words += ["--initrd", initrd]
    if machine.append:
        words += ["--append", CMDLINE]
    return words


def kernel_log(kernel: Path, machine: Machine, initrd: Path, done: Callable[[str], bool]) -> str:
    """Boot to where `done` is satisfied by the serial port, and return what the kernel printed."""
    options = QemuOptions(
        kernel=kernel,
        machine=machine.machine,
        memory=machine.memory,
        initrd=initrd if machine.initrd else None,
        append=CMDLINE,
        qemu=None,
    )
    from pvhdbg.targets.address import StubAddress
    from pvhdbg.targets.remote import RemoteTarget
    from pvhdbg.targets.target import Leave

    with start(options) as qemu:
        RemoteTarget.connect(StubAddress(path=qemu.gdb_socket)).close(Leave.RUNNING)
        deadline = time.monotonic() + BOOT_TIME
        while time.monotonic() < deadline:
            log = qemu.serial_log.read_text(errors="replace")
            if done(log) or qemu.poll() is not None:
                return log
            time.sleep(0.05)
        pytest.fail(f"the kernel did not print enough within {BOOT_TIME:g} s: {log[-500:]}")


def printed_enough(log: str) -> bool:
    """start_kernel's own line, behind all that setup_arch says; on a loaded host microvm's clocks stop the kernel soon after."""
    return "Kernel command line: " in log or "Kernel panic" in log


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_what_was_decoded_is_what_the_kernel_says(vmlinux: Path, initrd: Path, machine: Machine) -> None:
    document = report(vmlinux, *options_of(machine, initrd), "--select", "PVH-EBX")
    info = document["start_info"]
    log = kernel_log(vmlinux, machine, initrd, printed_enough)

    # The map, as early boot prints it; the kernel sorts, and drops what is empty.
    printed = [(int(a, 16), int(b, 16) - int(a, 16) + 1, E820_TYPES[kind.strip()]) for a, b, kind in E820.findall(log)]
    decoded = sorted((int(e["addr"], 16), int(e["size"], 16), e["type"]) for e in info["memory_map"] if int(e["size"], 16))
    # Linux appends the ISA hole itself (arch/x86/platform/pvh/enlighten.c).
    isa_hole = (0xA0000, 0x60000, 2)
    assert merged(printed) == merged([*decoded, isa_hole])

    line = re.search(r"Command line: (.*)", log)
    assert line is not None
    assert info["command_line"] == (line[1].strip() if machine.append else "")

    rsdp = re.search(r"ACPI: RSDP 0x([0-9A-F]{16})", log)
    if rsdp is None:  # acpi=off; but on q35 SeaBIOS then builds tables of its own
        assert "acpi=off" in machine.machine
        assert info["rsdp"] is None
        assert info["rsdp_paddr"] == "0x0"
    else:
        assert int(info["rsdp"]["address"], 16) == int(rsdp[1], 16)
        listed = {int(table, 16) for root in info["rsdp"]["root_tables"] for table in root["tables"]}
        facp = re.search(r"ACPI: FACP 0x([0-9A-F]{16})", log)
        assert facp is not None
        assert int(facp[1], 16) in listed

    ramdisk = re.search(r"RAMDISK: \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]", log)
    assert (ramdisk is not None) == machine.initrd
    if ramdisk is not None:
        (module,) = info["modules"]
        start = int(module["paddr"], 16)
        # The kernel prints whole pages.
        assert (start, (start + int(module["size"], 16) + 0xFFF) & ~0xFFF) == (int(ramdisk[1], 16), int(ramdisk[2], 16) + 1)
        assert module["kind"] == "cpio (newc)"


def merged(entries: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Type by address, as ranges: what overlaps takes the higher type, as e820__update_table() does."""
    edges = sorted({edge for start, size, _ in entries for edge in (start, start + size)})
    ranges: list[tuple[int, int, int]] = []
    for low, high in pairwise(edges):
        kinds = [kind for start, size, kind in entries if start <= low and high <= start + size]
        if not kinds:
            continue
        kind = max(kinds)
        if ranges and ranges[-1][0] + ranges[-1][1] == low and ranges[-1][2] == kind:
            ranges[-1] = (ranges[-1][0], high - ranges[-1][0], kind)
        else:
            ranges.append((low, high - low, kind))
    return ranges


# --- the verdicts that the issue names ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_pc(vmlinux: Path) -> dict[str, Any]:
    return report(vmlinux, "--machine", "pc")


def test_pc_conforms_with_the_task_register_as_the_only_known_deviation(on_pc: dict[str, Any]) -> None:
    assert on_pc["exit_code"] == 0
    assert outcomes(on_pc, "known") == {"PVH-TR-LIMIT"}
    assert outcomes(on_pc, "fail") == outcomes(on_pc, "unknown") == set()
    assert on_pc["vmm"]["firmware"] == "SeaBIOS + pvh.bin"
    assert on_pc["entry"]["found_by"] == "ELF note"


def test_strict_makes_it_fail(vmlinux: Path) -> None:
    assert report(vmlinux, "--machine", "pc", "--strict", expect=1)["exit_code"] == 1


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_the_other_machines_violate_nothing_that_is_not_on_record(vmlinux: Path, initrd: Path, machine: str) -> None:
    document = report(vmlinux, "--machine", machine)
    assert outcomes(document, "unknown") == set()
    assert "PVH-TR-LIMIT" in outcomes(document, "known")
    assert outcomes(document, "fail") == set()


def test_what_qboot_does_is_on_record(vmlinux: Path, initrd: Path) -> None:
    """What it leaves in fields that it never writes differs from build to build, and may by chance be 0."""
    document = report(vmlinux, "--machine", "microvm,acpi=off", "--initrd", initrd, "--", "-bios", "qboot.rom", expect=0)
    assert document["vmm"]["firmware"] == "qboot"
    assert {"SI-MM-TYPE", "SI-MM-SIZE0", "PVH-TR-LIMIT"} <= outcomes(document, "known")
    assert "PVH-EAX-MB" in outcomes(document, "remark")
    assert outcomes(document, "fail") == set()
    assert "SI-MOD-RESERVED" not in outcomes(document, "remark")


def test_the_firmware_is_told_by_what_it_did_and_not_by_the_machine(vmlinux: Path) -> None:
    document = report(vmlinux, "--machine", "pc", "--", "-bios", "qboot.rom")
    assert document["vmm"]["firmware"] == "qboot"


def test_over_gdb_the_verdicts_are_the_same(vmlinux: Path, on_pc: dict[str, Any]) -> None:
    document = report(vmlinux, "--machine", "pc", "--via", "gdb")
    assert document["verdicts"] == on_pc["verdicts"]
    assert document["start_info"] == on_pc["start_info"]
    assert document["segments"] == on_pc["segments"]
    assert document["registers"] == on_pc["registers"]


def test_the_bzimage_gives_the_same_and_says_so(vmlinuz: Path, on_pc: dict[str, Any]) -> None:
    document = report(vmlinuz, "--machine", "pc")
    assert document["verdicts"] == on_pc["verdicts"]
    assert "bzImage" in document["warnings"][0]


def test_a_snapshot_of_it_is_judged_the_same(vmlinux: Path, tmp_path: Path, on_pc: dict[str, Any]) -> None:
    saved = tmp_path / "boot.pvhsnap"
    pvhdbg("snapshot", "save", vmlinux, "-o", saved, "--machine", "pc")
    document = report(saved)
    # A snapshot holds no kernel file.
    assert document["verdicts"] == [one for one in on_pc["verdicts"] if not one["rule"].startswith("ELF-")]
    assert document["start_info"] == on_pc["start_info"]


def test_xen_shim_is_named_a_multiboot_entry(xen_shim: Path) -> None:
    document = report(xen_shim, expect=1)
    assert document["protocol"]["name"] == "multiboot1"
    assert outcomes(document, "remark") == {"PVH-ALT-MB1", "ELF-CLASS"}
    assert outcomes(document, "fail") == {"ELF-MULTIBOOT"}  # which is why


@pytest.mark.parametrize(("length", "magic"), [(4095, True), (4127, True), (4128, False), (4300, False)])
def test_a_long_command_line_overflows_pvh_bin(vmlinux: Path, length: int, magic: bool) -> None:
    document = report(vmlinux, "--machine", "pc", "--append", "x" * length, expect=0 if magic else 1)
    assert ("PVH-EBX-MAGIC" in outcomes(document, "fail")) == (not magic)
    assert ("SI-CMDLINE-LEN-QEMU" in outcomes(document, "remark")) == (magic and length >= 4096)
    assert ("SI-CMDLINE-LEN-QEMU" in outcomes(document, "fail")) == (not magic)
    found = {one["rule"]: one["violations"][0]["found"] for one in document["verdicts"] if one["violations"]}
    if not magic:
        assert found["SI-CMDLINE-LEN-QEMU"] == f"{length} characters, which run over start_info"
        assert f"the command line of {length} characters runs over it" in found["PVH-EBX-MAGIC"]


# --- attach -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def plain_qemu(*words: str | Path) -> Iterator[None]:
    """A QEMU as a user starts it, with none of our options."""
    command = ["qemu-system-x86_64", "-S", *words, "-display", "none", "-nic", "none", "-m", "512M"]
    with subprocess.Popen(command) as qemu:
        try:
            yield
        finally:
            qemu.kill()


def attached(*words: str, patience: float = 10.0) -> subprocess.CompletedProcess[str]:
    """`pvhdbg attach` to a QEMU that is just starting: again while it does not listen yet."""
    deadline = time.monotonic() + patience
    while True:
        command = [sys.executable, "-m", "pvhdbg", "attach", *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if "nothing answers" not in result.stderr or time.monotonic() > deadline:
            return result


def test_attach_with_nothing_but_the_port(vmlinux: Path, on_pc: dict[str, Any]) -> None:
    port = free_port()
    with plain_qemu("-gdb", f"tcp:127.0.0.1:{port}", "-kernel", vmlinux):
        result = attached(f":{port}", "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["entry"] == {"address": on_pc["entry"]["address"], "found_by": "fw_cfg", "symbol": None}
    assert document["start_info"] == on_pc["start_info"]
    # The file that the monitor names is the one in memory; its symbols are not looked at.
    attached_to, booted = ([one for one in of["verdicts"] if one["rule"] != "PVH-EIP-SYMBOL"] for of in (document, on_pc))
    assert attached_to == booted


def test_attach_without_the_file_leaves_its_rules_undecided(vmlinux: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "vmlinux"
    elsewhere.symlink_to(vmlinux)
    with start(QemuOptions(kernel=elsewhere, memory="512M")) as qemu:
        elsewhere.unlink()
        result = subprocess.run(
            [sys.executable, "-m", "pvhdbg", "attach", qemu.gdb_socket, "--format", "json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    document = json.loads(result.stdout)
    assert result.returncode == 0
    assert outcomes(document, "unknown") == {"PVH-EIP-NOTE", "PVH-LOAD-BYTES", "PVH-LOAD-BSS"}
    assert any("--kernel" in warning for warning in document["warnings"])


def test_reset_brings_a_running_guest_back_to_its_entry(vmlinux: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pvhdbg-") as folder:
        stub, serial = f"unix:{folder}/gdb", Path(folder) / "serial"
        serial.touch()
        with plain_qemu("-gdb", f"{stub},server=on,wait=off", "-kernel", vmlinux, "-append", CMDLINE, "-serial", f"file:{serial}"):
            assert attached(stub, "--leave", "running").returncode == 0
            deadline = time.monotonic() + BOOT_TIME
            while "Linux version" not in serial.read_text(errors="replace"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            past = attached(stub, "--timeout", "5")
            assert past.returncode == 3
            assert "past its entry" in past.stderr
            assert "--reset" in past.stderr
            back = attached(stub, "--reset", "--format", "json")
    assert back.returncode == 0, back.stderr
    assert outcomes(json.loads(back.stdout), "known") == {"PVH-TR-LIMIT"}
