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
# Behind the instructions that are followed one by one 300 handled faults of five instructions each; the count is right only where each is.
DIES = f"""mov $10040, %ecx\n 1: dec %ecx\n jnz 1b\n behind: {FLAT_STACK} {OWN_GDT} {OWN_IDT} mov $300, %ebp
    1: ud2\n dec %ebp\n jnz 1b\n lidt none\n ud2\n handler: addl $2, (%esp)\n iret\n none: .word 0\n .long 0"""
INSTRUCTIONS = 20_081 + 342 + 300 * 5
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


def test_the_prompt_and_the_command_say_the_same(cli: Cli, tmp_path: Path) -> None:
    """Also where the machine has run by steps and breakpoints: its recorder has seen that."""
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, DIES)))
    theirs = by_command(cli, kernel)
    assert (theirs["kind"], theirs["instructions"]) == ("triple fault", INSTRUCTIONS)
    same(at_the_prompt(cli, kernel), theirs)
    same(at_the_prompt(cli, kernel, "stepi 5", "b 0x100008", "c", "si"), theirs)


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


def test_the_recorder_is_left_out_where_it_does_not_tell_of_this_boot(cli: Cli) -> None:
    """It counts from the first boot's entry, and `--no-recorder` starts QEMU without it."""
    theirs = by_command(cli, CRASHERS, *HALTS)
    reset = at_the_prompt(cli, CRASHERS, "stepi 9", "reset", "until 0x100000", words=HALTS)
    without = at_the_prompt(cli, CRASHERS, words=(*HALTS, "--no-recorder"))
    for found in (reset, without):
        assert (found["verdict"], found["instructions"]) == (theirs["verdict"], theirs["instructions"])
        assert theirs["last_functions"]
        assert not found["last_functions"]


@pytest.mark.gdb
def test_gdb_and_the_command_say_the_same(cli: Cli, tmp_path: Path) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, DIES)))
    gdb = Gdb(f"set pvh kernel {kernel}", "pvh start", "pvh why --format json")
    assert gdb.complaints() == []
    found, theirs = json.loads(gdb["pvh why --format json"]), by_command(cli, kernel, "--deterministic")
    assert found["instructions"] == INSTRUCTIONS
    assert [one["functions"] for one in found["last_functions"]] == [one["functions"] for one in theirs["last_functions"]]
    for key in ("kind", "cause", "instructions", "pc", "mode", "path", "faults", "handoff"):
        assert found[key] == theirs[key]
