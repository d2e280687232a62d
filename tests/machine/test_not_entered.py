"""Machines that do not come to a PVH entry, and entries that a user names: real QEMUs, real firmware, real kernels."""

import dataclasses
import gzip
from pathlib import Path

import pytest

from pvhdbg import api
from pvhdbg.decode.boot_state import decode
from pvhdbg.model import Memory, NeedMemory
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.examples import at_entry
from pvhdbg.spec.revisions import V1
from pvhdbg.spec.x86 import CR0, CR4, EFER
from tests.support import real_kernel
from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Start, outcomes
from tests.support.elf_writer import NoteSpec, build_elf
from tests.support.limited_stub import LimitedStub
from tests.support.programs import need
from tests.support.real_kernel import noted_entry

pytestmark = pytest.mark.boot
PROBE = str(Path(HELLO).with_name("probe.elf"))
BAD_LOADER = str(Path(HELLO).with_name("bad_loader.elf"))


@pytest.fixture(scope="module")
def ovmf() -> Path:
    return real_kernel.or_skip(real_kernel.ovmf)


def test_ovmf_is_named(cli: Cli, machine: Start, ovmf: Path) -> None:
    cli("check", HELLO, "--timeout", "3", "--", "-bios", ovmf).complaint(3, "OVMF", "own firmware")
    stub = machine("-bios", str(ovmf))
    ended = cli("check", stub.socket, "--kernel", HELLO, "--timeout", "6", "--leave", "running")
    ended.complaint(3, "OVMF")
    assert "past its entry" not in ended.err
    again = cli("check", stub.socket, "--kernel", HELLO, "--timeout", "3")  # it is in long mode by now
    again.complaint(3, "OVMF")
    assert "past its entry" not in again.err


def test_a_machine_type_from_before_pvh_is_named(cli: Cli) -> None:
    cli("check", HELLO, "--machine", "pc-i440fx-3.1", "--timeout", "2").complaint(3, "machine type", "no PVH", "newer machine type")


def test_the_binary_that_loads_no_elf64_is_named(cli: Cli) -> None:
    need("qemu-system-i386")
    cli("check", HELLO, "--qemu", "qemu-system-i386").complaint(3, "qemu-system-i386 loads 32-bit ELFs only", "qemu-system-x86_64")


def test_a_bzimage_of_somebody_elses_qemu(cli: Cli, machine: Start, vmlinuz: Path) -> None:
    stub = machine("-m", "256M", kernel=str(vmlinuz))
    said = cli("check", stub.socket).complaint(3, "Linux boot protocol", "0x10000", "pvhdbg extract")
    assert "--reset" not in said
    again = cli("check", stub.socket, "--reset").complaint(3, "Linux boot protocol")
    assert "--reset" not in again


def test_reset_is_not_advised_to_who_used_it(cli: Cli, machine: Start) -> None:
    """Nor for a boot that was followed from its first instruction, and passed no such address."""
    guest = str(Path(HELLO).with_name("long_mode.elf"))
    stub = machine(kernel=guest)
    for words in ((stub.socket, "--reset"), (guest,)):
        said = cli("check", *words, "--entry", "0x300000", "--timeout", "1.5").complaint(3, "did not reach 0x300000", "long mode")
        assert "--reset" not in said
        assert "past its entry" not in said
    later = cli("check", stub.socket, "--entry", "0x300000", "--timeout", "1").complaint(3, "past its entry")
    assert "--reset" in later


def test_a_reset_that_would_end_qemu_is_refused_before(cli: Cli, machine: Start) -> None:
    stub = machine("-no-reboot")
    cli("check", stub.socket, "--reset").complaint(3, "-no-reboot", "would end it")
    assert stub.running()
    cli("check", stub.socket).ok()


# --- --entry ------------------------------------------------------------------------------------------------------


def test_the_vmms_own_entry_that_is_named_stays_its_own(cli: Cli, machine: Start, vmlinux: Path) -> None:
    own = cli("check", vmlinux, "--format", "json").ok().json()
    named = cli("check", vmlinux, "--entry", own["entry"]["address"], "--format", "json").ok().json()
    assert outcomes(named) == outcomes(own)
    assert outcomes(named)["PVH-TR-LIMIT"] == "known"
    stub = machine()
    attached = cli("check", stub.socket, "--entry", hex(HELLO_ENTRY), "--format", "json").ok().json()  # no file: found by fw_cfg
    assert (attached["entry"]["found_by"], outcomes(attached)["PVH-TR-LIMIT"]) == ("fw_cfg", "known")


def test_an_entry_that_a_guest_makes_is_not_the_vmms(cli: Cli) -> None:
    report = api.check(BAD_LOADER, entry="second_entry", append="defect=none")
    assert report.boot.snapshot.entry.found_by == "--entry"
    hidden = build_elf(multiboot=True, bits=32, machine=3, notes=((NoteSpec(desc=(0x100040).to_bytes(4, "little")),),))
    noted = api.check(cli.file("hidden", hidden), entry="0x100000")  # QEMU enters by multiboot, there
    assert noted.boot.snapshot.entry.found_by == "fw_cfg"


# --- a hypervisor's guest -----------------------------------------------------------------------------------------

SVME = 1 << EFER["SVME"]


def by_outcome(**changes: object) -> dict[str, Outcome]:
    return {one.rule.id: one.outcome for one in judge(at_entry(**changes).boot(V1))}


def test_what_a_hypervisor_may_force_is_undecided() -> None:
    seen = by_outcome(efer=SVME, cr0=0x11 | 1 << CR0["TS"], cr4=1 << CR4["MCE"])
    assert seen["PVH-CR0-REST"] is seen["PVH-CR4-ZERO"] is Outcome.UNKNOWN
    without = by_outcome(cr0=0x11 | 1 << CR0["TS"], cr4=1 << CR4["MCE"])
    assert without["PVH-CR0-REST"] is without["PVH-CR4-ZERO"] is Outcome.FAIL
    more = by_outcome(efer=SVME, cr0=0x11 | 1 << CR0["TS"] | 1 << CR0["WP"], cr4=1 << CR4["MCE"] | 1 << CR4["PAE"])
    assert more["PVH-CR0-REST"] is more["PVH-CR4-ZERO"] is Outcome.FAIL


def test_a_protocol_that_memory_decides_is_undecided_where_memory_is_hidden() -> None:
    entered = at_entry(ebx=0, ebp=0, edi=0).boot(V1).snapshot
    decoded = decode(dataclasses.replace(entered, memory=Memory.hidden("for a test"), backing=None), V1)
    assert not isinstance(decoded, NeedMemory)
    seen = {one.rule.id: one for one in judge(decoded)}
    assert (seen["PVH-ALT-LINUX32"].outcome, seen["PVH-ALT-LINUX32"].reason) == (Outcome.UNKNOWN, "for a test")
    assert seen["PVH-ALT-MB1"].outcome is Outcome.PASS  # its registers say so


def test_a_hypervisors_guest_fails_by_nothing_that_is_the_hypervisors(cli: Cli, machine: Start, xen_gz: Path) -> None:
    """Xen enters its dom0. The stub shows the registers of dom0, and the memory of the machine that Xen runs on."""
    xen = cli.file("xen", gzip.decompress(xen_gz.read_bytes()))
    append = "console=com1 cpuidle=off dom0=pvh dom0_mem=256M"
    words = ("-M", "q35", "-cpu", "EPYC", "-m", "512M", "-device", "amd-iommu", "-initrd", PROBE, "-append", append)
    stub = machine(*words, kernel=xen)
    before = cli("check", stub.socket, "--kernel", PROBE, "--format", "json").ok(1).json()  # stops where QEMU enters Xen
    assert (before["protocol"]["name"], before["entry"]["found_by"]) == ("multiboot1", "fw_cfg")
    assert any("another kernel" in one for one in before["warnings"])
    entered = cli("check", stub.socket, "--kernel", PROBE, "--entry", hex(noted_entry(Path(PROBE))), "--format", "json").ok().json()
    assert entered["vmm"]["name"] is None
    again = cli("check", stub.socket, "--kernel", PROBE, "--format", "json").ok().json()
    assert again["entry"]["found_by"] == "ELF note"
    for document in (entered, again):
        found = outcomes(document)
        assert {found[rule] for rule in found if rule.startswith(("PVH-CS", "PVH-DS", "PVH-TR", "PVH-CR0-P"))} == {"pass"}
        assert found["PVH-ALT-MB1"] == "pass"
        undecided = {"PVH-CR0-REST", "PVH-CR4-ZERO", "PVH-LOAD-RAM", "PVH-EBX-SET", "PVH-EBX-MAGIC", "SI-RSDP-SIG", "SI-MM-TYPE"}
        assert {found[rule] for rule in undecided} == {"unknown"}
        assert set(found.values()) <= {"pass", "unknown", "not_applicable"}
        assert not [one for one in document["warnings"] if "another kernel" in one]
        assert any("seen from outside" in one for one in document["warnings"])
    assert outcomes(again)["PVH-LOAD-BYTES"] == "unknown"
    cli("check", stub.socket).complaint(3, "hypervisor runs", "past its entry", "--nested")


def test_a_stub_without_cr0_leaves_undecided_what_depends_on_it_and_nothing_else(cli: Cli, machine: Start) -> None:
    """The same machine by a stub like Firecracker's, which ends it afterwards."""
    stub = machine()
    whole = cli("check", stub.socket, "--kernel", HELLO, "--format", "json").ok().json()
    with LimitedStub(stub.socket, stub.folder) as limited:
        document = cli("check", limited.address, "--format", "json", "--kernel", HELLO).ok().json()
    assert any("protected mode with paging off is assumed" in one for one in document["warnings"])
    assert document["entry"]["found_by"] == "ELF note"
    before, after = outcomes(whole), outcomes(document)
    changed = {one["rule"]: one for one in document["verdicts"] if before[one["rule"]] != after[one["rule"]]}
    assert {one["outcome"] for one in changed.values()} == {"unknown"}
    by_cr0 = {rule for rule, one in changed.items() if one["reason"].startswith("cr0 was not observed")}
    assert by_cr0 == {"PVH-CR0-PE", "PVH-CR0-PG", "PVH-CR0-REST", "PVH-CR0-ET"}
    rest = {one["reason"].partition(":")[0] for rule, one in changed.items() if rule not in by_cr0}
    named = {"cr4 was not observed", "efer was not observed", "where the machine has RAM was not observed"}
    assert rest == named | {"cs", "ds", "es", "ss", "fs", "tr"}
    assert stub.process.wait(5) == 0


@pytest.mark.parametrize(
    ("words", "found_by"), [([], "first stop"), (["--kernel", HELLO, "--entry", hex(HELLO_ENTRY)], "ELF note")]
)
def test_the_entry_of_a_stub_without_a_monitor(cli: Cli, machine: Start, words: list[str], found_by: str) -> None:
    stub = machine()
    with LimitedStub(stub.socket, stub.folder) as limited:
        document = cli("check", limited.address, *words, "--format", "json").ok().json()
    assert (document["entry"]["found_by"], document["entry"]["address"]) == (found_by, hex(HELLO_ENTRY))
