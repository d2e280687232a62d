"""draft_a_loader: a hand-off as the mail of 2015 wanted it conforms to that draft, and to nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pvhdbg
from pvhdbg import guests
from pvhdbg.decode.boot_state import DraftAInfo
from pvhdbg.report.document import Report
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.draft_a import CHAPTER

pytestmark = pytest.mark.boot

Boot = Callable[..., Any]
PATH = str(guests.path("draft_a_loader"))
ENTERED_STATUS, UNKNOWN_STATUS = 33, 35
MAGIC = 0xFF6BC1E2
ALTERNATIVES = {0x336EC578: "xEn3", 0x3BADB002: "multiboot"}
DA_RULES = {rule.id for rule in CHAPTER}


def check(**options: Any) -> Report:
    return pvhdbg.check(PATH, entry="second_entry", **options)


def outcomes(report: Report, outcome: Outcome) -> set[str]:
    return {one.rule.id for one in report.verdicts if one.outcome is outcome}


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
@pytest.mark.parametrize("width", [64, 32])
def test_each_layout_conforms_to_draft_a(tmp_path: Path, width: int, machine: str) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(os.urandom(5003))
    line = f"root=/dev/null layout={width} quiet"
    report = check(spec="draft-a", machine=machine, append=line, initrd=str(initrd))
    assert report.exit_code == 0
    assert outcomes(report, Outcome.FAIL) == outcomes(report, Outcome.UNKNOWN) == set()
    assert outcomes(report, Outcome.PASS) >= DA_RULES
    info: DraftAInfo = report.boot.draft_a
    assert info.width == width
    assert info.raw.magic.rstrip(b"\0") == (b"xen-4.6-x86_64" if width == 64 else b"xen-4.6-x86_32")
    assert info.raw.cmd_line.rstrip(b"\0") == line.encode()
    assert info.raw.mod_len == 5003
    assert info.raw.mod_start
    assert info.raw.console_detail == 2


def test_the_module_is_the_one_that_the_guest_was_given(boot: Boot, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(os.urandom(3001))
    guest = boot("draft_a_loader", append="layout=32", initrd=str(initrd))
    raw = guest.capture("second_entry", "draft-a").draft_a.raw
    assert guest.target.read_memory(raw.mod_start, raw.mod_len) == initrd.read_bytes()
    assert guest.finish() == (ENTERED_STATUS, ["xen-4.6-x86_32: layout=32"])


def test_without_a_module_there_is_none_and_64_bits_are_the_first_choice(boot: Boot) -> None:
    guest = boot("draft_a_loader")
    machine = guest.capture("second_entry", "draft-a")
    assert (machine.draft_a.width, machine.registers["eax"]) == (64, MAGIC)
    assert (machine.draft_a.raw.mod_start, machine.draft_a.raw.mod_len) == (0, 0)
    assert guest.finish() == (ENTERED_STATUS, ["xen-4.6-x86_64: "])


@pytest.mark.parametrize("eax", ALTERNATIVES)
@pytest.mark.parametrize("width", [64, 32])
def test_an_alternative_magic_is_named_and_is_all_that_is_wrong(eax: int, width: int) -> None:
    report = check(spec="draft-a", append=f"eax={eax:#x} layout={width}")
    assert report.boot.registers["eax"] == eax
    assert report.boot.draft_a.width == width
    assert outcomes(report, Outcome.FAIL) == {"DA-EAX"}
    (violation,) = next(one for one in report.verdicts if one.rule.id == "DA-EAX").violations
    assert violation.found.startswith(f"{eax:#x}: ")
    assert ALTERNATIVES[eax] in violation.found
    assert report.exit_code == 1


@pytest.mark.parametrize("eax", [MAGIC, *ALTERNATIVES])
@pytest.mark.parametrize("spec", ["v0", "v1"])
def test_by_the_shipped_abi_it_is_another_protocol(eax: int, spec: str) -> None:
    report = check(spec=spec, append=f"eax={eax:#x}")
    protocol = report.boot.other_protocol
    assert protocol is not None
    assert protocol.key == "draft-a"
    assert outcomes(report, Outcome.REMARK) == {"PVH-ALT-DRAFTA"}
    assert outcomes(report, Outcome.FAIL) == outcomes(report, Outcome.UNKNOWN) == set()
    assert report.exit_code == 1


def test_the_first_entry_is_a_correct_one_of_today() -> None:
    assert pvhdbg.check(PATH).exit_code == 0
    report = pvhdbg.check(PATH, spec="draft-a")
    assert {"DA-EAX", "DA-MAGIC"} <= outcomes(report, Outcome.FAIL)


def test_a_command_line_that_does_not_fit_is_cut() -> None:
    long = "layout=32 " + "x" * 2000
    report = check(spec="draft-a", append=long)
    assert report.exit_code == 0
    assert report.boot.draft_a.raw.cmd_line == long[:1023].encode() + b"\0"


@pytest.mark.parametrize("line", ["layout=16", "eax=0x2badb002", "eax=0xff6bc1e2 layout="])
def test_an_option_that_is_not_known(boot: Boot, line: str) -> None:
    status, (said,) = boot("draft_a_loader", append=line).finish()
    assert status == UNKNOWN_STATUS
    assert said.startswith("eax= and layout= know:")
