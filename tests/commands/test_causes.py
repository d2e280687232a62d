"""The cause of a refusal or a failure, in words: each on the real file, and where QEMU decides, by the real QEMU."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import api
from pvhdbg.report.document import Report
from pvhdbg.rules.declare import Outcome, Verdict
from pvhdbg.spec.documents import DRAFT_A_MAIL
from pvhdbg.spec.elf import PT_NOTE
from tests.support import real_kernel
from tests.support.cli_runner import HELLO, Cli, Machine
from tests.support.elf_writer import NoteSpec, Piece, Program, build_elf

DRAFT_A_LOADER = str(Path(HELLO).with_name("draft_a_loader.elf"))


def verdict(report: Report, rule: str) -> Verdict:
    (found,) = (one for one in report.verdicts if one.rule.id == rule)
    return found


def file_verdicts(cli: Cli, kernel: str | Path) -> dict[str, Any]:
    return {one["rule"]: one for one in cli("elf", kernel, "--format", "json").json()["verdicts"]}


# --- what is not an error -----------------------------------------------------------------------------------------


def test_an_image_without_payload_is_called_so(cli: Cli) -> None:
    image = bytearray(0x4000)
    image[0x1F1] = 4
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = struct.pack("<H", 0x20C)
    ended = cli("check", cli.file("memtest.bin", bytes(image)))
    said = ended.complaint(2, "without a payload", "payload_length 0", "Linux protocol")
    assert "truncated" not in said


def test_memtest_is_such_an_image(cli: Cli) -> None:
    memtest = real_kernel.or_skip(real_kernel.memtest)
    cli("check", memtest).complaint(2, "without a payload")


@pytest.mark.boot
def test_the_file_of_another_machine_is_answered_by_the_loaders(cli: Cli) -> None:
    kernel = cli.file("arm", build_elf(machine=183))
    answers = {one["loader"]: one for one in cli("elf", kernel, "--format", "json").ok().json()["loaders"]}
    assert answers["qemu"]["refusal"] == "Error while loading elf kernel"
    assert answers["cloud-hypervisor"]["entry"] == "0x100000"
    assert file_verdicts(cli, kernel)["ELF-MACHINE"]["outcome"] == "fail"
    cli("check", kernel).complaint(3, "Error while loading elf kernel")  # by the real one
    cli("check", cli.file("none", build_elf(machine=183, notes=()))).complaint(1, "AArch64", "no usable PVH entry")


@pytest.mark.boot
def test_section_headers_that_are_cut_off_stop_nobody(cli: Cli) -> None:
    whole = Path(HELLO).read_bytes()
    at = struct.unpack_from("<Q", whole, 0x28)[0]
    kernel = cli.file("cut", whole[: at + 70])
    assert cli("check", kernel).ok().out
    assert "section header" in cli("elf", kernel).ok().out


@pytest.mark.boot
def test_a_file_without_segments_to_load_is_not_asked_for_again(cli: Cli) -> None:
    kernel = cli.file("noload", Program((Piece(type=PT_NOTE, content=NoteSpec().encode(), paddr=0),)).encode())
    report = api.check(kernel)
    assert [one.rule.id for one in report.verdicts if one.outcome is Outcome.UNKNOWN] == []
    assert "no PT_LOAD" in verdict(report, "PVH-LOAD-RAM").reason


def test_a_kernel_without_a_note_that_is_named_was_seen(cli: Cli, machine: Callable[..., Machine]) -> None:
    """By the user, or by QEMU's monitor."""
    kernel = cli.file("none", build_elf(notes=((NoteSpec(owner=b"GNU\0"),),)))
    for subject in (kernel, machine(kernel=kernel).socket):
        document = cli("check", subject, "--format", "json").ok(1).json()
        assert document["kernel"]["path"] == kernel
        assert not [one for one in document["warnings"] if "not seen" in one]
        assert not [one for one in document["verdicts"] if "was not seen" in (one["reason"] or "")]


# --- what to change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8])
def test_a_virtual_entry_is_told_its_physical_address(cli: Cli, vmlinux: Path, size: int) -> None:
    whole = bytearray(vmlinux.read_bytes())
    with_base = struct.pack("<III", 4, 8, 3) + b"Xen\0" + struct.pack("<Q", 0xFFFFFFFF80000000)
    assert with_base in whole  # Debian's own VIRT_BASE
    notes = (NoteSpec(3, desc=bytes.fromhex("00000080ffffffff")), NoteSpec(desc=(0xFFFFFFFF81000A30).to_bytes(8, "little")[:size]))
    load = Piece(content=bytes(0x1000), paddr=0x1000000, vaddr=0xFFFFFFFF81000000)
    note = Piece(type=PT_NOTE, content=b"".join(one.encode() for one in notes), paddr=0)
    found = file_verdicts(cli, cli.file("high", Program((load, note)).encode()))["ELF-ENTRY-RANGE"]["violations"][0]
    assert "VIRT_BASE is 0xffffffff80000000: subtract it: 0x1000a30" in found["fix"]


def test_an_alignment_of_0_is_mended_by_4(cli: Cli) -> None:
    fix = file_verdicts(cli, cli.file("zero", build_elf(align=0)))["ELF-NOTE-PALIGN"]["violations"][0]["fix"]
    assert "p_align 4" in fix
    assert "gnu.property" not in fix


@pytest.mark.boot
def test_xen_is_not_told_to_build_linux(cli: Cli, xen_gz: Path) -> None:
    said = cli("check", xen_gz).ok(1).out
    assert "multiboot 1, not PVH" in said
    assert "CONFIG_PVH" not in said
    early = cli("check", xen_gz, "--static-only").complaint(1, "QEMU boots it by its multiboot header")  # which the ELF inside has
    assert "CONFIG_PVH" not in early
    assert file_verdicts(cli, xen_gz)["ELF-MULTIBOOT"]["outcome"] == "not_applicable"  # there is no note for it to hide


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.boot
def test_bytes_are_written_as_text(cli: Cli) -> None:
    ran = cli("check", str(Path(HELLO).with_name("bad_loader.elf")), "--append", "defect=rsdp-signature", "--entry", "second_entry")
    assert "b'" not in ran.out
    assert "expected “RSD PTR ”" in ran.out


@pytest.mark.boot
def test_under_draft_a_its_own_words_are_quoted() -> None:
    report = api.check(DRAFT_A_LOADER, spec="draft-a", entry="second_entry")
    assert report.conclusion == "the hand-off conforms to Draft A of the PVH boot ABI (2015)"
    quoted = {one.rule.id: one.rule.clause.document for one in report.verdicts if one.outcome is Outcome.PASS}
    bound = {rule: document for rule, document in quoted.items() if rule.startswith(("PVH-CR0-P", "PVH-CS", "PVH-DS", "PVH-EFL"))}
    assert bound
    assert set(bound.values()) == {DRAFT_A_MAIL}
    assert verdict(api.check(HELLO), "PVH-CS-FLAT").rule.clause.document is not DRAFT_A_MAIL
