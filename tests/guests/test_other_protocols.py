"""other_protocols: each way to enter a kernel is named for what it is, on a real machine, and none of it is taken for PVH."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pvhdbg
from pvhdbg import guests
from pvhdbg.decode.kernel_file import survey
from pvhdbg.errors import NotBootable
from pvhdbg.loaders.qemu import QEMU
from pvhdbg.loaders.xen_libelf import XEN
from pvhdbg.model import Snapshot
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import MachineRule, Outcome
from pvhdbg.rules.other_protocols import CHAPTER

pytestmark = pytest.mark.boot

Boot = Callable[..., Any]
PATH = str(guests.path("other_protocols"))
ENTERED_STATUS, UNKNOWN_STATUS = 33, 35
MULTIBOOT1_HEADER = (0x1BADB002).to_bytes(4, "little")

# as= -> the signature, its rule, and where its mark is in memory: a register and an offset from it
STATES = {
    "multiboot1": ("multiboot1", "PVH-ALT-MB1", "rbx", 0),
    "multiboot2": ("multiboot2", "PVH-ALT-MB2", "rbx", 4),
    "linux32": ("linux32", "PVH-ALT-LINUX32", "rsi", 0x202),
    "linux64": ("linux64", "PVH-ALT-LINUX64", "rsi", 0x202),
    "xen-pv": ("xen-pv", "PVH-ALT-PV", "rsi", 0),
}
KERNEL_MAP = 0xFFFFFFFF80000000
NAMING = {rule.id for rule in CHAPTER}


def named(report: Report, key: str, rule: str) -> None:
    """Fail unless the report names that protocol, by that rule alone, and judges nothing as PVH."""
    protocol = report.boot.other_protocol
    assert protocol is not None
    assert protocol.key == key
    verdicts = [one for one in report.verdicts if isinstance(one.rule, MachineRule)]  # those of the file are its own affair
    assert {one.rule.id for one in verdicts if one.outcome is Outcome.REMARK} == {rule}
    assert {one.outcome for one in verdicts} == {Outcome.REMARK, Outcome.PASS, Outcome.NOT_APPLICABLE}
    assert {one.rule.id for one in verdicts if one.outcome is not Outcome.NOT_APPLICABLE} == NAMING
    assert protocol.title in report.conclusion
    assert report.exit_code == 1


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_named_and_without_its_mark_in_memory_it_is_not(boot: Boot, state: str) -> None:
    key, rule, register, offset = STATES[state]
    guest = boot("other_protocols", append=f"quiet as={state}")
    machine = guest.capture("second_entry")
    named(Report(machine, judge(machine)), key, rule)
    assert (machine.snapshot.entry.found_by, machine.snapshot.entry.symbol) == ("--entry", "second_entry")

    mark = machine.registers[register] + offset
    mark -= KERNEL_MAP if mark >= KERNEL_MAP else 0
    kept = guest.target.read_memory(mark, 4)
    guest.target.write_memory(mark, b"\xff\xff\xff\xff")
    assert guest.capture(here=True).other_protocol is None
    guest.target.write_memory(mark, kept)

    assert guest.finish() == (ENTERED_STATUS, [f"entered as {state}"])


def test_xen_pvs_pointer_is_a_virtual_one() -> None:
    boot = pvhdbg.check(PATH, entry="second_entry", append="as=xen-pv").boot
    assert boot.registers["rsi"] > KERNEL_MAP
    assert boot.other_protocol is not None


def test_linuxs_selectors_are_those_of_its_protocol() -> None:
    for state in ("linux32", "linux64"):
        registers = pvhdbg.check(PATH, entry="second_entry", append=f"as={state}").boot.registers
        assert [registers[name] for name in ("cs", "ds", "es", "ss")] == [0x10, 0x18, 0x18, 0x18]


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_qemu_itself_enters_by_the_multiboot_header_and_not_by_the_note(machine: str) -> None:
    report = pvhdbg.check(PATH, machine=machine, append="as=linux32")
    named(report, "multiboot1", "PVH-ALT-MB1")
    snapshot: Snapshot = report.boot.snapshot
    assert snapshot.kernel is not None
    assert snapshot.entry.found_by == "fw_cfg"
    assert snapshot.entry.address != snapshot.kernel.entry


def test_what_each_loader_does_is_foretold(boot: Boot) -> None:
    guest, kernel = boot("other_protocols"), survey(Path(PATH).read_bytes())
    loading = QEMU.load(kernel)
    assert (loading.protocol, loading.entry) == ("multiboot1", guest.address("multiboot_entry"))
    assert (XEN.load(kernel).protocol, XEN.load(kernel).entry) == ("pvh", guest.address("pvh_start"))
    assert guest.capture().snapshot.entry.address == loading.entry


def test_without_the_header_the_note_is_used(tmp_path: Path) -> None:
    data = Path(PATH).read_bytes()
    assert data[:8192].count(MULTIBOOT1_HEADER) == 1
    kernel = tmp_path / "kernel.elf"
    kernel.write_bytes(data.replace(MULTIBOOT1_HEADER, bytes(4)))
    report = pvhdbg.check(str(kernel))
    assert report.exit_code == 0
    assert report.boot.other_protocol is None
    assert (report.boot.snapshot.entry.found_by, report.boot.snapshot.entry.symbol) == ("ELF note", "pvh_start")
    # ... and from there, too, it goes on to the state that it was asked for.
    named(pvhdbg.check(str(kernel), entry="second_entry", append="as=linux64"), "linux64", "PVH-ALT-LINUX64")


def test_without_the_option_it_is_multiboot_1(boot: Boot) -> None:
    assert boot("other_protocols").finish() == (ENTERED_STATUS, ["entered as multiboot1"])


def test_a_protocol_that_is_not_known(boot: Boot) -> None:
    status, said = boot("other_protocols", append="as=linux16").finish()
    assert (status, said) == (UNKNOWN_STATUS, ["as= names no protocol that is known here"])


def test_a_file_without_a_note_is_still_booted_by_its_header(tmp_path: Path) -> None:
    note = struct.pack("<III", 4, 4, 18)
    data = Path(PATH).read_bytes()
    assert data.count(note) == 1
    kernel = tmp_path / "kernel.elf"
    kernel.write_bytes(data.replace(note, struct.pack("<III", 4, 4, 17)))
    with pytest.raises(NotBootable, match="QEMU boots it by its multiboot header"):
        pvhdbg.check(str(kernel), static_only=True)
    report = pvhdbg.check(str(kernel))
    named(report, "multiboot1", "PVH-ALT-MB1")
    assert next(one.outcome for one in report.verdicts if one.rule.id == "ELF-NOTE-18") is Outcome.FAIL
    named(pvhdbg.check(str(kernel), entry="multiboot_entry"), "multiboot1", "PVH-ALT-MB1")
