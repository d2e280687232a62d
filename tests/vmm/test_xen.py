"""Xen itself as the loader: the probe as dom0 under `probe --run xen`, and one boot that the probe and a debugger outside both see."""

import gzip
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.machine.probe_log import read_log
from pvhdbg.model import BackingKind, NeedMemory, Snapshot, Unavailable
from pvhdbg.targets.recorded import open_snapshot
from tests.support.cli_runner import Cli, Machine, eventually
from tests.support.other_vmms import firecracker, xen_image

pytestmark = [pytest.mark.boot, pytest.mark.slow]
PROBE = str(guest("probe"))
OPTIONS = "console=com1 loglvl=all guest_loglvl=all cpuidle=off dom0=pvh dom0_mem=256M"
LINE = "console=hvc0 hello"
RELEASE = re.compile(r"xen-(4\.[0-9]+)")


def image() -> Path:
    return xen_image()


def test_the_probe_under_xen(cli: Cli) -> None:
    """Every fact of the hand-off that a guest can see."""
    path = image()
    release = RELEASE.match(path.name)[1]  # type: ignore[index]
    found = cli("probe", "--run", "xen", "--binary", str(path), "--append", LINE, "--format", "json").ok().json()
    assert found["vmm"]["name"] == "Xen"
    assert found["vmm"]["version"].startswith(f"{release}.")
    registers: dict[str, Any] = found["registers"]
    assert {registers[name] for name in ("eax", "ecx", "edx", "esi", "edi", "ebp", "esp", "cr2", "cr3", "cr4", "efer")} == {"0x0"}
    assert (registers["cr0"], registers["eip"], registers["eflags"]) == ("0x11", "0x100000", "0x2")
    assert {segment["selector"] for segment in found["segments"].values() if "selector" in segment} == {"0x0"}
    start = found["start_info"]
    assert (start["magic"], start["version"], start["flags"]) == ("0x336ec578", 0, "0x3")
    assert (start["command_line"], start["nr_modules"], start["memory_map"]) == (LINE, 0, None)
    assert int(start["rsdp_paddr"], 16) > 1 << 20
    outcomes = {verdict["rule"]: verdict["outcome"] for verdict in found["verdicts"]}
    assert "fail" not in outcomes.values()
    assert outcomes["SI-RSDP-TABLES"] == ("known" if release == "4.17" else "pass")
    assert outcomes["SI-VERSION-0"] in ("pass", "not_applicable")


# --- two witnesses of one boot ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Xen in QEMU, before its first instruction."""
    kernel = tmp_path_factory.mktemp("xen") / "xen"
    kernel.write_bytes(gzip.decompress(image().read_bytes()))
    words = ("-M", "q35", "-cpu", "EPYC", "-device", "amd-iommu", "-m", "1024", "-no-reboot", "-append", OPTIONS)
    with closing(Machine(*words, "-initrd", f"{PROBE} {LINE}", kernel=str(kernel))) as started:
        yield started


def test_the_probe_and_the_vmcb_agree_field_by_field(cli: Cli, machine: Machine) -> None:
    outside = str(cli.folder / "outside.pvhsnap")
    nested = ("--nested", "--kernel", PROBE, "--timeout", "60")
    ran = cli("check", machine.socket, *nested, "--vmm", f"Xen {RELEASE.match(image().name)[1]}").ok()  # type: ignore[index]
    assert "guest of a hypervisor, by its VMCB" in ran.out
    assert "cr0.TS may be the hypervisor's own" in ran.out
    assert "cr4.MCE may be the hypervisor's own" in ran.out
    assert "FAIL" not in ran.out
    undecided = re.findall(r"^UNKNOWN [^\n]*\n((?:        [A-Z0-9-]+[^\n]*\n)+)", ran.out, re.MULTILINE)
    assert [part.split() for part in undecided] == [
        ["PVH-CR0-REST"],
        ["PVH-CR4-ZERO"],
    ]  # what the hypervisor may force, and nothing else
    # The machine stands at the vmrun until it is told to run.
    cli("snapshot", "save", machine.socket, *nested, "-o", outside).ok()
    assert re.search(r"^  tr +0000 +00000000 +00000067 +00008b00", cli("regs", machine.socket, *nested).ok().out, re.MULTILINE)
    info = cli("info", machine.socket, *nested, "--format", "json").ok().json()["start_info"]
    assert (info["command_line"], info["version"]) == (LINE, 0)
    ebx = hex(seen_from(outside).registers["ebx"])
    assert "336ec578" in cli("xp", machine.socket, "/2w", ebx, *nested).ok().out
    assert "256 MiB" not in cli("memmap", machine.socket, *nested, "--leave", "running").out  # version 0 has no map
    kinds = {one.start: one for one in seen_from(outside).backing or ()}
    ram = kinds[max(start for start in kinds if start <= 0x100000)]
    assert ram.kind is BackingKind.RAM
    assert (kinds[max(kinds)].kind, kinds[max(kinds)].end) == (BackingKind.UNKNOWN, 1 << 64)
    compare(seen_from(outside), log_of(machine))


def log_of(machine: Machine) -> Snapshot:
    """What the probe printed once the machine ran on."""
    log = machine.folder / "serial"
    eventually(lambda: len(set(re.findall(rb"PVHPROBE1 \w+ (\w{4}) end ", log.read_bytes()))) == 2, "the probe does not end", 60)
    snapshot, warnings = read_log(str(log))
    assert warnings == []
    return snapshot


def seen_from(path: str) -> Snapshot:
    return open_snapshot(path).snapshot


FORCED = {"cr0": 1 << 3, "cr4": 1 << 6, "efer": 1 << 12}  # TS, MCE, SVME: what a hypervisor may force


def compare(outside: Snapshot, inside: Snapshot) -> None:
    registers = [name for name in inside.registers if name in set(outside.registers)]
    assert len(registers) > 20
    for name in registers:
        assert outside.registers[name] & ~FORCED.get(name, 0) == inside.registers[name], name
    assert (outside.segments.gdt, outside.segments.idt) == (inside.segments.gdt, inside.segments.idt)
    tr = outside.segments["tr"]
    assert (tr.selector, tr.base, tr.limit, tr.flags) == (0, 0, 0x67, 0x8B00)
    assert inside.segments["tr"].limit is None  # which only the outside sees
    flags = {name: (outside.segments[name].limit, outside.segments[name].flags) for name in ("cs", "ds", "es", "ss")}
    assert flags == {"cs": (0xFFFFFFFF, 0xC09B00), **dict.fromkeys(("ds", "es", "ss"), (0xFFFFFFFF, 0xC09300))}
    for name in ("cs", "ds", "es", "ss", "fs", "gs"):
        assert (outside.segments[name].selector, outside.segments[name].base) == (inside.segments[name].selector, 0), name
    compared = 0
    for piece in inside.memory.pieces:
        try:
            seen = outside.memory.read(piece.address, len(piece.data))
        except (NeedMemory, Unavailable):
            continue
        assert seen == piece.data, hex(piece.address)
        compared += len(piece.data)
    assert compared >= 40  # start_info at least


# --- what else is on this machine ---------------------------------------------------------------------------------


def test_the_probe_under_firecracker(cli: Cli) -> None:
    found = cli("probe", "--run", "firecracker", "--binary", str(firecracker()), "--format", "json").ok().json()
    assert (found["vmm"]["name"], found["vmm"]["version"]) == ("Firecracker", "1.12.1")
    outcomes = {verdict["rule"]: verdict["outcome"] for verdict in found["verdicts"]}
    assert (outcomes["SI-RSDP-ZERO"], found["summary"]["fail"]) == ("known", 0)


def test_no_hypervisor_is_said(cli: Cli) -> None:
    with closing(Machine()) as plain:
        cli("check", plain.socket, "--nested", "--timeout", "1").complaint(3, "no hypervisor with a vmrun", "-cpu EPYC")
        cli("check", plain.socket, "--nested", "--here").complaint(2, "--nested")
    cli("check", PROBE, "--nested").complaint(2, "--nested cannot be used")
