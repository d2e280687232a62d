"""`why` at the prompt and in GDB, where QEMU was started there: it says what `pvhdbg why KERNEL` says, of the whole boot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import guests
from tests.in_gdb.test_gdb import Gdb
from tests.support.cli_runner import Cli, kernel_elf
from tests.support.small_kernels import FLAT_STACK, OWN_GDT, OWN_IDT, assembled

pytestmark = pytest.mark.boot

CRASHERS = str(guests.path("crashers"))
FAR = "mov $10040, %ecx\n 1: dec %ecx\n jnz 1b\n lidt 0x80000\n int3"
# 4500 handled faults of five instructions each; the count is right only where each of them is.
HANDLED = f"""{FLAT_STACK} {OWN_GDT} {OWN_IDT} mov $4500, %ebp
    1: ud2\n dec %ebp\n jnz 1b\n lidt none\n ud2\n handler: addl $2, (%esp)\n iret\n none: .word 0\n .long 0"""
COUNTS = "1: incl 0x80000\n jmp 1b"
HALTS = ("--append", "crash=hlt")
SECOND_CPU = ("--append", "crash=second-cpu", "--cpus", "2")
_THE_HOSTS = ("serial", "last_functions", "registers")  # what depends on when the host looked


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Both say the same of a death, with the same numbers."""
    assert {key: value for key, value in one.items() if key not in _THE_HOSTS} == {
        key: value for key, value in other.items() if key not in _THE_HOSTS
    }


def by_command(cli: Cli, kernel: str, *words: str, seconds: str = "20") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("why", kernel, "--format", "json", "--for", seconds, *words).out)
    return found


def at_the_prompt(cli: Cli, kernel: str, *lines: str, seconds: str = "20", words: tuple[str, ...] = ()) -> dict[str, Any]:
    typed = [word for line in (*lines, f"why --for {seconds} --format json") for word in ("-ex", line)]
    out = cli("repl", kernel, *words, *typed, "--batch").out
    found: dict[str, Any] = json.JSONDecoder().raw_decode(out, out.index("{\n"))[0]
    return found


@pytest.mark.parametrize(("text", "instructions"), [(FAR, 20_083), (HANDLED, 22_842)], ids=["far", "handled"])
def test_the_prompt_and_the_command_say_the_same(cli: Cli, tmp_path: Path, text: str, instructions: int) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, text)))
    found = at_the_prompt(cli, kernel)
    assert (found["kind"], found["instructions"]) == ("triple fault", instructions)
    same(found, by_command(cli, kernel))


def test_what_ran_before_the_command_is_known(cli: Cli, tmp_path: Path) -> None:
    """The machine has run by breakpoints and steps: its recorder has seen that."""
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, FAR)))
    found = at_the_prompt(cli, kernel, "stepi 5", "b 0x100008", "c", "si")  # to the int3, by a breakpoint behind the loop
    same(found, by_command(cli, kernel))


def test_the_death_of_a_second_cpu_at_the_prompt(cli: Cli) -> None:
    found = at_the_prompt(cli, CRASHERS, words=SECOND_CPU)
    other = by_command(cli, CRASHERS, *SECOND_CPU)
    for key in ("kind", "cause", "cpu", "pc", "mode", "next", "warnings"):
        assert found[key] == other[key]
    assert found["cpu"] == 1
    assert "start-up IPI with vector 0x8" in found["verdict"]
    assert re.sub(r"[\d,]+ instructions", "N", found["verdict"]) == re.sub(r"[\d,]+ instructions", "N", other["verdict"])


def test_a_loop_that_counts_in_memory_is_accused_of_nothing_at_the_prompt(cli: Cli, tmp_path: Path) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, COUNTS)))
    found = at_the_prompt(cli, kernel, seconds="1")
    assert (found["kind"], found["cause"]) == ("alive", "in a loop")
    assert "4 bytes in memory at 0x80000 that the loop itself changes" in found["verdict"]


def test_a_machine_that_was_reset_is_watched_without_the_recorder(cli: Cli) -> None:
    """Its recorder counts from the first boot's entry."""
    found = at_the_prompt(cli, CRASHERS, "stepi 9", "reset", "until 0x100000", words=HALTS)
    theirs = by_command(cli, CRASHERS, *HALTS)
    assert found["instructions"] == theirs["instructions"]
    assert found["verdict"] == theirs["verdict"]


def test_a_prompt_without_the_recorder_still_explains(cli: Cli) -> None:
    found = at_the_prompt(cli, CRASHERS, words=(*HALTS, "--no-recorder"))
    assert (found["cause"], found["last_functions"]) == ("halted", [])


@pytest.mark.gdb
def test_gdb_and_the_command_say_the_same(cli: Cli, tmp_path: Path) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, HANDLED)))
    gdb = Gdb(f"set pvh kernel {kernel}", "pvh start", "pvh why --format json")
    assert gdb.complaints() == []
    found, theirs = json.loads(gdb["pvh why --format json"]), by_command(cli, kernel, "--deterministic")
    assert found["instructions"] == 22_842
    assert [one["functions"] for one in found["last_functions"]] == [one["functions"] for one in theirs["last_functions"]]
    for key in ("kind", "cause", "instructions", "pc", "mode", "path", "faults", "handoff"):
        assert found[key] == theirs[key]
