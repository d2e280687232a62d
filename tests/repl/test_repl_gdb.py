"""The prompt with a real GDB that holds the stub: what is not a command goes there, and the commands go on through it."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_runner import HELLO, Start, eventually
from tests.support.prompt import LONG_MODE, Talk, talking


@pytest.fixture(scope="module")
def held(gdb: str) -> Iterator[Talk]:
    """`long_mode` at its entry, held by GDB; tests only look."""
    with talking(LONG_MODE) as one:
        said(one, "p 1")
        yield one


def said(one: Talk, line: str) -> str:
    """What GDB prints for a line."""
    one.written.clear()
    assert one(line) == ""
    return "".join(one.written)


def gdbs() -> list[int]:
    """GDBs that this process started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text() == "gdb\n" and int((entry / "stat").read_text().split()[3]) == os.getpid():
                found.append(int(entry.name))
        except (OSError, ValueError):
            pass  # it ended meanwhile
    return found


@pytest.mark.boot
@pytest.mark.gdb
def test_gdb_takes_over_where_the_commands_left_off() -> None:
    with talking(LONG_MODE) as one:
        verdicts = one("check")
        one("b far_jump")
        one("si 2")
        assert one.it.machine.gdb is None
        assert re.fullmatch(r"\$1 = .*0x10000b <pvh_start\+11>\n", said(one, "p $rip"))
        assert one.it.machine.gdb is not None
        assert one("check").splitlines()[-1] == verdicts.splitlines()[-1]
        assert one("info registers rip") == "rip      0x10000b  <pvh_start+0xb>\n"
        assert one("c").startswith("breakpoint 1, ")
        assert "<in_long_mode>: " in one("si")
        assert one("mode").startswith("64-bit long mode")
        assert said(one, "info symbol $pc") == "in_long_mode in section .text\n"
        assert "print_fields" in said(one, "gdb info address print_fields")
        assert one("until print_fields").startswith("stopped: ")
        assert one("restart").startswith("booted again")


@pytest.mark.boot
@pytest.mark.gdb
def test_a_walk_into_a_mode_does_without_gdb_for_a_while() -> None:
    with talking(LONG_MODE) as one:
        said(one, "set $mine = 5")
        said(one, "gdb hbreak print_fields")
        gdb = one.it.machine.gdb
        text = one("until long-mode")
        assert "<in_long_mode>: " in text
        assert float(text.split()[2]) < 10
        assert one.it.machine.gdb is gdb
        assert said(one, "p $mine") == "$1 = 5\n"
        assert one("c").startswith("stopped: 0x1000d6 <print_fields>")  # at GDB's own breakpoint
        one.it.machine.qemu.close()  # type: ignore[union-attr]
        assert one.it.news() is not None or one.wrong("si")
        assert "the machine is gone" in one.wrong("until long-mode")


@pytest.mark.boot
def test_gdbs_own_runs(held: Talk) -> None:
    before = held("info registers rip")
    text = said(held, "nexti")
    assert re.search(r"0x0*100005 in pvh_start \(\)", text)
    assert re.search(r"0x0*10000b in pvh_start", said(held, ""))  # an empty line steps on
    assert held("info registers rip") != before
    assert "*eip" in held("regs")
    assert said(held, "set $pc = 0x100000") == ""
    assert held("info registers rip") == before


@pytest.mark.boot
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("p nosuch", "No symbol"),
        ("p 1 +", "syntax error"),
        ("list", "No symbol table is loaded"),
        ("bogus", "is not a command, and GDB does not know it either"),
        ("chekc", "did you mean check?"),
        ("gdb", "usage: gdb LINE"),
        ("gdb x/4x 0xffffffffffff0000", "Cannot access memory"),
        ("b nosuch", "no symbol nosuch"),
    ],
)
def test_gdbs_errors_are_one_line_in_its_own_words(held: Talk, line: str, words: str) -> None:
    assert words in held.wrong(line)
    assert held("entry").startswith("entry 0x100000")


@pytest.mark.boot
def test_words_and_abbreviations(held: Talk) -> None:
    assert held("seg").splitlines()[0].split() == ["sel", "base", "limit", "flags", "meaning"]  # GDB does not know it
    assert held("info breakpoints") == "no breakpoints\n"
    assert "symbol" in held.it.complete("info sym")
    assert "pvh_start" in held.it.complete("p pvh_st")
    assert held.it.complete("unt") == ["until"]


@pytest.mark.boot
@pytest.mark.gdb
def test_ctrl_c_reaches_a_guest_that_gdb_runs() -> None:
    with talking(HELLO, via="gdb") as one:
        assert one.it.machine.gdb is not None
        one.interrupted("gdb continue")
        assert "SIGINT" in "".join(one.written)
        assert re.search(r"<halt(\+0x2)?>", one("info registers rip"))
        assert one.interrupted("c").startswith("interrupted: ")


@pytest.mark.gdb
def test_gdb_dies(machine: Start) -> None:
    stub = machine()
    with talking(stub.socket, "attach", kernel=HELLO) as one:
        said(one, "p 1")
        for pid in gdbs():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: one.it.machine.gdb is None or not one.it.machine.gdb.gdb_alive(), "GDB lives")
        assert "the machine is held without it now" in str(one.it.news())
        assert one("info registers rip").startswith("rip      0x100000")
        assert said(one, "p 2") == "$1 = 2\n"
        stub.process.kill()
        stub.process.wait()
        eventually(lambda: one.it.machine.gone is not None or one.it.news(), "its end is not seen")
        assert "the machine is gone" in one.wrong("regs")
        assert "the machine is gone" in one.wrong("p 1")
