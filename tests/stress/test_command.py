"""`pvhdbg stress` as a user runs it, and the mutations of pytest's fixture."""

import json
import os
import xml.etree.ElementTree as ET

import pytest

import pvhdbg
from pvhdbg.errors import BadInput
from pvhdbg.guests import path as guest
from pvhdbg.stress.catalogue import MUTATIONS
from tests.support.cli_runner import Cli, kernel_elf
from tests.support.schemas import valid

FRAGILE = str(guest("fragile"))
SMALL = ("--memory", "64M", "--until", "survived", "--jobs", "2")


@pytest.mark.boot
def test_what_kills_is_named_with_its_cause_in_every_format(cli: Cli) -> None:
    ran = cli("stress", FRAGILE, *SMALL, "--append", "relies=esp-zero", "--only", "esp-zero,cr2-garbage,module-cmdline",
              "--report", "junit=junit.xml", "--report", "sarif=a.sarif", "--report", "html=a.html", "--format", "json").ok(1)  # fmt: skip
    document = valid(ran.out)
    fates = {one["ids"][0]: one["fate"] for one in document["mutations"]}
    assert fates == {"esp-zero": "dies", "cr2-garbage": "survives", "module-cmdline": "not tried"}
    assert "relied" in document["mutations"][0]["cause"]
    assert document["conclusion"] == "survives 1 of 2 mutations, 1 not tried"
    cases = {str(one.get("name")).split(":")[0]: one for one in ET.parse(cli.folder / "junit.xml").iter("testcase")}
    assert cases["STRESS-ESP-ZERO"].find("failure") is not None
    assert cases["STRESS-CR2-GARBAGE"].find("failure") is None
    assert cases["STRESS-MODULE-CMDLINE"].find("skipped") is not None
    results = json.loads((cli.folder / "a.sarif").read_text())["runs"][0]["results"]
    assert [one["ruleId"] for one in results if one["ruleId"].startswith("STRESS") and one["level"] == "error"] == [
        "STRESS-ESP-ZERO"
    ]
    assert "STRESS-ESP-ZERO" in (cli.folder / "a.html").read_text()
    cli.nothing_left()


@pytest.mark.boot
def test_sets_are_cut_down_to_what_kills_together(cli: Cli) -> None:
    words = ("--append", "relies=either", "--only", "registers-garbage,flags-garbage,cr2-garbage", "--rounds", "4")
    document = valid(cli("stress", FRAGILE, *SMALL, *words, "--format", "json").ok(1).out)
    assert {one["fate"] for one in document["mutations"]} == {"survives"}
    assert [sorted(one["ids"]) for one in document["sets"]] == [["flags-garbage", "registers-garbage"]]


@pytest.mark.boot
def test_a_file_of_expectations_allows_a_death(cli: Cli) -> None:
    file = cli.file(
        "boot.toml", '[machine]\nappend = "relies=rsdp-zero"\n[[stress]]\nallow = "rsdp-zero"\nreason = "it has no other way"\n'
    )
    text = cli("stress", FRAGILE, *SMALL, "--only", "rsdp-zero", "--expect", file).ok(0).out
    assert "allowed: it has no other way" in text
    assert "survives 0 of 1 mutations, 1 allowed" in text
    wrong = cli.file("wrong.toml", '[[stress]]\nallow = "rsdp-zer"\nreason = "x"\n')
    cli("stress", FRAGILE, *SMALL, "--expect", wrong).complaint(2, "rsdp-zer is not a mutation", "rsdp-zero")


@pytest.mark.boot
def test_a_guest_that_does_not_boot_unchanged_is_not_judged(cli: Cli) -> None:
    cli("stress", guest("hello"), "--until", "serial:NEVER", "--for", "5", "--only", "esp-zero").complaint(
        3, "unchanged", "nothing was changed"
    )
    cli("stress", guest("hello"), "--only", "esp-zero").complaint(2, "no rest_init", "--until")
    cli.nothing_left()


@pytest.mark.boot
@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_a_guest_that_needs_more_time_is_said_to(cli: Cli, accel: str) -> None:
    """Samples under KVM do not say that it waits in the loop that they found it in."""
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this machine has no KVM")
    counts = cli.file("counts", kernel_elf(b"\xff\x05\x00\x00\x08\x00\xeb\xf8"))  # incl 0x80000, and again
    ran = cli("stress", counts, "--machine", "microvm", "--memory", "64M", "--until", "0x200000", "--for", "1", "--accel", accel)
    ran.complaint(3, "the unchanged guest did not reach 0x200000: not within 1 s", "--for")
    assert ("loop" in ran.err) == (accel == "tcg")


@pytest.mark.boot
def test_the_goal_may_be_a_line_or_an_exit_status(cli: Cli) -> None:
    for goal in ("serial:survived", "exit:33"):
        words = ("--append", "relies=nothing", "--only", "esp-zero", "--until", goal, "--memory", "64M")
        text = cli("stress", FRAGILE, *words, "--", "-device", "isa-debug-exit,iobase=0xf4,iosize=4").ok(0).out
        assert "survives 1 of 1 mutations" in text


def test_wrong_words(cli: Cli) -> None:
    cli("stress").complaint(2, "needs a kernel file", "--list")
    cli("stress", FRAGILE, "--only", "esp-nil").complaint(2, "esp-nil is not a mutation", "esp-zero")
    cli("stress", FRAGILE, "--jobs", "0").complaint(2, "--jobs 0")
    cli("stress", FRAGILE, "--rounds", "-1").complaint(2, "--rounds -1")
    cli("stress", FRAGILE, "--until", "survived", "--for", "nan").complaint(2, "--for")


def test_the_list_names_the_clause_of_each(cli: Cli) -> None:
    listed = valid(cli("stress", "--list", "--format", "json").ok().out)["mutations"]
    assert [one["id"] for one in listed] == [one.id for one in MUTATIONS]
    assert all(one["clause"] for one in listed)
    assert cli("stress", "--list").ok().out.count("“") == len(MUTATIONS)


@pytest.mark.boot
def test_a_mutation_for_a_test_of_ones_own() -> None:
    with pvhdbg.launch(FRAGILE, memory="64M", append="relies=nothing", mutate=["esp-zero", "flags-garbage"]) as boot:
        assert boot.registers["rsp"] == 0
        assert boot.entry.registers["eflags"] & 0x400
        boot.until("survived")
    with pytest.raises(BadInput, match="module-cmdline cannot be done here: there is no module"):
        pvhdbg.launch(FRAGILE, memory="64M", mutate=["module-cmdline"])
    with pytest.raises(TypeError, match="list of ids"):
        pvhdbg.launch(FRAGILE, memory="64M", mutate="esp-zero")
