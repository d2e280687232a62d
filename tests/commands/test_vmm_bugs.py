"""QEMU before 8.0 gives guests wrong EFLAGS: such a QEMU gets a CPU that avoids it, and what shows it is not blamed on the guest."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pvhdbg
from pvhdbg import guests
from pvhdbg.booted import qemu_version
from tests.support.cli_runner import Cli, kernel_elf
from tests.support.small_kernels import assembled

pytestmark = pytest.mark.boot

SCHEMAS = Path(pvhdbg.__file__).parent / "report/schemas"
# Behind what is followed one instruction a block: cmpxchg8b does not bring EFLAGS up to date; what popf loaded are then taken for
# the operand of the add.
CORRUPTED = """mov $0x90000, %esp\n lidt 0x80000\n mov $50000000, %ecx\n 1: dec %ecx\n jnz 1b\n push $2\n popf\n mov $0x1f5bf7c2, %ecx\n mov $0x1000, %edi
    add %ecx, %ecx\n xor %ecx, 0x80010\n cmpxchg8b 0x80020\n ud2"""
HELLO = str(guests.path("hello"))
REMEDY = "the machine was given the CPU qemu64,-cx16"
NEEDED = int(qemu_version().split(".")[0]) < 8


def answer(cli: Cli, *words: str, schema: str, code: int) -> Any:
    found = json.loads(cli(*words, "--format", "json").ok(code).out)
    jsonschema.validate(found, json.loads((SCHEMAS / schema).read_text()))
    return found


def test_what_shows_the_bug_is_not_the_guests_death(cli: Cli, tmp_path: Path) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, CORRUPTED)))
    found = answer(cli, "why", kernel, schema="why-1.json", code=3 if NEEDED else 0)
    assert (int(found["registers"]["eflags"], 16) >> 22 != 0) == NEEDED
    assert found["vmm_bug"] == ("qemu-cmpxchg-eflags" if NEEDED else None)
    assert (found["cause"] == "VMM's bug") == NEEDED
    assert ("A bug of QEMU's, not the guest's" in found["verdict"]) == NEEDED
    waited = answer(cli, "wait", kernel, "--until", "0x102000", schema="wait-1.json", code=3 if NEEDED else 1)
    assert waited["outcome"] == ("vmm bug" if NEEDED else "died")
    checked = cli("check", kernel, "--until", "0x102000").ok(3 if NEEDED else 1)
    assert ("A bug of QEMU's" in checked.err) == NEEDED


def test_a_machine_that_goes_on_avoids_the_bug_and_a_plain_check_does_not_change_it(cli: Cli) -> None:
    onward = answer(cli, "wait", HELLO, "--until", "protected", schema="wait-1.json", code=0)
    assert any(REMEDY in warning for warning in onward["warnings"]) == NEEDED
    own = answer(cli, "wait", HELLO, "--until", "protected", "--cpu", "max", schema="wait-1.json", code=0)
    assert any("add ,-cx16 to it" in warning for warning in own["warnings"]) == NEEDED
    assert not any(REMEDY in warning for warning in own["warnings"])
    avoided = answer(cli, "wait", HELLO, "--until", "protected", "--cpu", "max,-cx16", schema="wait-1.json", code=0)
    assert not any("cx16" in warning for warning in avoided["warnings"])
    plain = cli("check", HELLO, "--format", "json").ok(0)
    assert "cx16" not in plain.out
