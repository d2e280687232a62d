"""`pvhdbg wait` and `check --until`: what came first, by the exit code, and a death explained in every format."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pvhdbg
from pvhdbg import guests
from tests.support.cli_runner import Cli, Machine, kernel_elf

pytestmark = pytest.mark.boot

SCHEMAS = Path(pvhdbg.__file__).parent / "report/schemas"
SCHEMA = json.loads((SCHEMAS / "wait-1.json").read_text())
CRASHERS, LONG_MODE = str(guests.path("crashers")), str(guests.path("long_mode"))


def wait(cli: Cli, *words: str, code: int = 0) -> Any:
    found = cli("wait", *words, "--format", "json").ok(code).json()
    jsonschema.validate(found, SCHEMA)
    return found


def test_what_comes_first_is_the_exit_code(cli: Cli) -> None:
    found = wait(cli, LONG_MODE, "--until", "in_long_mode")
    assert (found["outcome"], found["cause"]) == ("reached", None)
    assert "(in_long_mode) in 64-bit long mode" in found["place"]
    found = wait(cli, CRASHERS, "--append", "crash=page-fault", "--until", "after_hlt", "--memory", "64M", code=1)
    assert (found["outcome"], found["kind"], found["cause"], found["mode"]) == ("died", "triple fault", "unmapped code", "paged")
    assert found["faults"][0].startswith("#PF page fault at 0x10010a (after_paging): fetching the instruction")
    assert found["serial"] == ["crash: page-fault"]
    counts = cli.file("counts", kernel_elf(b"\x42\xeb\xfd"))
    found = wait(cli, counts, "--until", "0x200000", "--for", "0.3", "--memory", "64M", code=3)
    assert (found["outcome"], found["kind"], found["mode"]) == ("time", "alive", "protected")


def test_a_death_in_words(cli: Cli) -> None:
    ran = cli("wait", CRASHERS, "--append", "crash=hlt", "--until", "long").ok(1)
    text = " ".join(ran.out.split())
    assert "the guest died before it reached long: The CPU halted for good" in text
    assert "(hlt+0x1) in 32-bit protected mode" in text
    assert "crash: hlt" in text
    assert "next: " in text
    assert ran.seconds < 3
    assert "load_cr3 was reached: 0x1000" in cli("wait", LONG_MODE, "--until", "load_cr3").ok().out


def test_check_judges_the_hand_off_and_then_lets_it_run(cli: Cli) -> None:
    junit = cli.folder / "out.xml"
    found = cli("check", LONG_MODE, "--until", "long", "--format", "json").ok().json()
    jsonschema.validate(found, json.loads((SCHEMAS / "report-1.json").read_text()))
    assert (found["verdicts"][-1]["rule"], found["verdicts"][-1]["outcome"]) == ("UNTIL", "pass")
    ran = cli(
        "check",
        CRASHERS,
        "--append",
        "crash=wild-esp",
        "--until",
        "after_hlt",
        "--report",
        f"junit={junit}",
        "--report",
        "html=out.html",
    ).ok(1)
    assert 'id="milestones"' in (cli.folder / "out.html").read_text()
    text = " ".join(ran.out.split())
    assert "1 expectation NOT met" in text
    assert "a write at 0xcffffffc: not present" in text
    assert "VIOLATE" not in text
    assert "wild_push" in junit.read_text()
    counts = cli.file("counts", kernel_elf(b"\x42\xeb\xfd"))
    text = " ".join(cli("check", counts, "--until", "0x200000", "--for", "0.3").ok(1).out.split())
    assert "not within 0.3 s: it was at 0x10000" in text


def test_somebody_elses_machine_is_left_at_the_goal(cli: Cli, machine: Any) -> None:
    theirs: Machine = machine(kernel=LONG_MODE)
    found = wait(cli, theirs.socket, "--until", "load_gdt")
    assert "(load_gdt) in compatibility mode" in found["place"]
    with theirs.debugger() as target:
        assert target.read_registers()["rip"] == int(found["place"].split()[0], 16)
    found = wait(cli, theirs.socket, "--here", "--until", "long")
    assert found["outcome"] == "reached"


def test_a_real_kernel(cli: Cli, vmlinux: Path) -> None:
    found = wait(cli, str(vmlinux), "--until", "start_kernel")
    assert "(start_kernel) in 64-bit long mode" in found["place"]


def test_wrong_words_are_refused(cli: Cli) -> None:
    cli("wait", CRASHERS).complaint(2, "--until")
    cli("wait", CRASHERS, "--until", "no_such_symbol").complaint(2, "no symbol no_such_symbol")
    cli("wait", CRASHERS, "--until", "0x1" + "0" * 16).complaint(2, "not an address")
    cli("wait", CRASHERS, "--until", "long", "--for", "0").complaint(2, "not a duration")
    cli("check", CRASHERS, "--for", "3").complaint(2, "--until")
    saved = cli.folder / "boot.pvhsnap"
    cli("snapshot", "save", CRASHERS, "-o", saved).ok()
    cli("check", saved, "--until", "long").complaint(2, "does not run")
    cli("wait", saved, "--until", "long").complaint(2, "does not run")
