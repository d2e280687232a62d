"""The logs that the probe wrote on real VMMs: what each hand-off was, what is on record of it, and nothing else."""

from functools import lru_cache
from pathlib import Path

import pytest

from pvhdbg.decode.boot_state import BootState
from pvhdbg.machine.capture import decoded
from pvhdbg.machine.probe_log import read_log
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome, Verdict
from pvhdbg.spec.deviations import DEVIATIONS, Deviation
from pvhdbg.targets.recorded import RecordedTarget

LOGS = Path(__file__).parents[1] / "data" / "probe-logs"
XEN = ("xen-4.17-dom0", "xen-4.20-dom0", "xen-4.20-dom0-module", "xen-4.17-domu", "xen-4.20-domu")
ON_KVM = {
    "firecracker-1.12.1": "Firecracker 1.12.1",
    "libkrun": "libkrun",
    "libkrun-module": "libkrun",
    "alioth-0.12": "Alioth 0.12",
}
NAMED = {**dict.fromkeys(XEN), **ON_KVM}  # cpuid names Xen; KVM names none
ALIOTH = {"PVH-DS-FLAT", "PVH-ES-FLAT", "PVH-SS-FLAT", "PVH-FSGS", "PVH-CR0-ET"}
KNOWN = {
    "xen-4.17-dom0": {"SI-RSDP-TABLES"},
    "xen-4.17-domu": {"SI-MM-SORTED"},
    "xen-4.20-domu": {"SI-MM-SORTED"},
    "firecracker-1.12.1": {"SI-RSDP-ZERO"},
    "libkrun": {"SI-RSDP-ZERO", "SI-MM-PAGES"},
    "libkrun-module": {"SI-RSDP-ZERO", "SI-MM-PAGES"},
    "alioth-0.12": ALIOTH,
}


@lru_cache
def boot(name: str, vmm: str | None = None) -> BootState:
    snapshot, warnings = read_log(str(LOGS / f"{name}.log"), vmm)
    assert all("2 boots" in warning for warning in warnings)  # a domain of 64 MiB and one of 256 MiB
    return decoded(RecordedTarget(snapshot, name), snapshot, "v1")


@lru_cache
def verdicts(name: str, vmm: str | None = None) -> dict[str, Verdict]:
    return {verdict.rule.id: verdict for verdict in judge(boot(name, vmm))}


def ids(name: str, outcome: Outcome, vmm: str | None = None) -> set[str]:
    return {id for id, verdict in verdicts(name, vmm).items() if verdict.outcome is outcome}


def test_every_log_is_in_the_readme_and_in_this_test() -> None:
    logs = {path.stem for path in LOGS.glob("*.log")}
    assert logs == set(NAMED)
    readme = (LOGS / "README.md").read_text()
    assert all(f"`{name}.log`" in readme for name in logs)


@pytest.mark.parametrize(("name", "vmm"), NAMED.items())
def test_a_log_whose_vmm_is_named_holds_what_is_on_record_and_no_violation(name: str, vmm: str | None) -> None:
    assert ids(name, Outcome.KNOWN, vmm) == KNOWN.get(name, set())
    assert ids(name, Outcome.FAIL, vmm) == set()


@pytest.mark.parametrize("name", ON_KVM)
def test_a_log_that_does_not_name_its_vmm_fails_with_the_record_as_a_hint(name: str) -> None:
    found = ids(name, Outcome.FAIL) | ids(name, Outcome.REMARK)
    assert ids(name, Outcome.KNOWN) == set()
    assert found == KNOWN[name]
    for id in found:
        assert f"for {ON_KVM[name].removesuffix('.1')}" in verdicts(name)[id].reason
        assert "--vmm" in verdicts(name)[id].reason
    assert bool(ids(name, Outcome.FAIL)) is (name != "firecracker-1.12.1")


def test_a_version_that_was_not_measured_is_not_excused() -> None:
    verdict = verdicts("alioth-0.12", "Alioth 0.13")["PVH-DS-FLAT"]
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason == "ALIOTH-DS-LIMIT has this on record for Alioth 0.12; Alioth 0.13 was not measured"


def test_a_version_that_was_not_observed_leaves_it_undecided() -> None:
    verdict = verdicts("alioth-0.12", "Alioth")["PVH-DS-FLAT"]
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reason.endswith("not observed here: version")


def test_a_record_of_another_vmm_excuses_nothing() -> None:
    assert verdicts("libkrun", "Firecracker 1.12.1")["SI-MM-PAGES"].outcome is Outcome.FAIL


@pytest.mark.parametrize("deviation", [one for one in DEVIATIONS if not one.firmware], ids=lambda deviation: deviation.key)
def test_the_record_of_a_vmm_without_a_firmware_excuses_only_what_a_log_shows(deviation: Deviation) -> None:
    seen = set()
    versions = set()
    for name, vmm in NAMED.items():
        verdict = verdicts(name, vmm)[deviation.rule]
        if verdict.deviation is deviation:
            seen |= {violation.kind or violation.found for violation in verdict.violations}
            versions.add(boot(name, vmm).snapshot.vmm.release()[:2])
    assert seen == set(deviation.found or ())
    assert not deviation.since or deviation.since in versions


# --- what each VMM did, from its lines alone ----------------------------------------------------------------------


@pytest.mark.parametrize("name", XEN)
def test_xen_keeps_its_own_abi(name: str) -> None:
    registers = boot(name).snapshot.registers
    assert [registers[one] for one in ("cs", "ss", "ds", "es", "fs", "gs", "eax", "cr4", "efer")] == [0] * 9
    assert registers["cr0"] == 0x11
    assert boot(name).snapshot.vmm.name == "Xen"
    assert boot(name).snapshot.vmm.version == name.split("-")[1]


@pytest.mark.parametrize("name", XEN[:3])
def test_dom0_gets_a_version_0_structure_without_a_map(name: str) -> None:
    raw = boot(name).start_info.raw
    assert (raw.version, raw.flags) == (0, 3)
    assert boot(name).start_info.v1 is None
    assert raw.rsdp_paddr % 16
    assert (raw.nr_modules == 1) is name.endswith("module")


def test_the_xsdt_of_dom0_is_a_copy_of_address_0_in_4_17_only() -> None:
    verdict = verdicts("xen-4.17-dom0")["SI-RSDP-TABLES"]
    assert "S\\xff\\x00\\xf0" in verdict.violations[0].found
    assert "ramdisk" not in verdict.reason
    assert verdicts("xen-4.20-dom0")["SI-RSDP-TABLES"].outcome is Outcome.PASS


@pytest.mark.parametrize("name", XEN[3:])
def test_a_domain_gets_version_1_and_five_unsorted_entries(name: str) -> None:
    start = boot(name).start_info
    assert start.raw.version == 1
    entries = [entry.addr for entry in start.memory_map]  # type: ignore[union-attr]
    assert len(entries) == 5
    assert entries != sorted(entries)


@pytest.mark.parametrize("name", ["firecracker-1.12.1", "libkrun", "libkrun-module"])
def test_no_rsdp_is_named(name: str) -> None:
    assert boot(name).start_info.raw.rsdp_paddr == 0


@pytest.mark.parametrize("name", ["libkrun", "libkrun-module"])
def test_the_last_ram_of_libkrun_is_a_byte_too_long(name: str) -> None:
    last = boot(name).start_info.memory_map[-1]  # type: ignore[index]
    assert last.addr + last.size == 0x10000001


def test_the_limits_of_alioth_and_its_ram_over_the_vga_window() -> None:
    state = boot("alioth-0.12")
    assert {state.segments[name].limit for name in ("ds", "es", "ss")} == {0x0FFFFFFF}
    assert state.segments["cs"].limit is None
    assert state.registers["cr0"] == 1
    ram = [(entry.addr, entry.addr + entry.size) for entry in state.start_info.memory_map if entry.type == 1]  # type: ignore[union-attr]
    assert any(start <= 0xA0000 and end >= 0x100000 for start, end in ram)
