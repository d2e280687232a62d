"""`--milestone serial:REGEX`: when a line was written, held against the instructions that wrote it."""

import json
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvhdbg import guests
from pvhdbg.driver import bounded_search, serial_milestones
from pvhdbg.driver.bounded_search import PATIENCE, TooSlow, search
from pvhdbg.driver.serial_milestones import SerialMilestones
from tests.support.cli_runner import Cli, Machine, kernel_elf

CRASHERS = str(guests.path("crashers"))
SLOW = "(a+)+$"
COM1 = 0x3F8


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(events: list[dict[str, Any]]) -> int:
    """The number of instructions up to the one that ends the first line on COM1."""
    registers = {"rax": 0, "rdx": 0}
    for event in events:
        if event["code"] == "ee" and registers["rdx"] & 0xFFFF == COM1 and registers["rax"] & 0xFF == ord("\n"):
            return int(event["seq"]) + 1
        registers.update({name: int(value, 16) for name, value in event.get("changes", {}).items() if name in registers})
    raise AssertionError("no line was ended")


@pytest.mark.boot
@pytest.mark.parametrize("engine", ["log", "step"])
def test_the_line_lies_between_the_two_numbers(cli: Cli, engine: str) -> None:
    file = cli.folder / "t.jsonl"
    words = ("--append", "crash=endless-loop", "--engine", engine, "--what", "state", "--milestone", "serial:endless.loop$")
    cli("trace", CRASHERS, *words, "--until", "3000", "-o", file).ok()
    found = rows(file)
    (said,) = (row for row in found if "milestone" in row and row["milestone"].startswith("serial:"))
    assert "pc" not in said
    assert said["detail"] == "crash: endless-loop"
    assert said["seq"] <= written([row for row in found if "code" in row]) <= said["until"] < 3000
    assert "the guest wrote it (crash: endless-loop)" in cli("trace", file).ok().out
    assert "serial:endless" in cli("timeline", file).ok().out


@pytest.mark.boot
def test_a_line_ends_a_trace_that_is_to_end_there(cli: Cli) -> None:
    text = cli("trace", CRASHERS, "--append", "crash=endless-loop", "--until", "serial:^crash", "--what", "pc").ok().out
    assert "everything requested was seen" in text
    text = cli("trace", CRASHERS, "--append", "crash=hlt", "--until", "serial:^crash", "--milestone", "serial:never").ok().out
    assert "serial:^crash was not reached" not in text
    text = cli("trace", CRASHERS, "--append", "crash=hlt", "--until", "serial:never", "--engine", "step").ok(3).out
    assert "serial:never was not reached" in text
    text = cli("trace", CRASHERS, "--append", "crash=hlt", "--milestone", "serial:crash", "--engine", "breakpoints").ok().out
    assert "the guest wrote it" in text


def test_bad_wishes_of_the_serial_port(cli: Cli, machine: object) -> None:
    cli("trace", CRASHERS, "--milestone", "serial:[").complaint(2, "not a regular expression")
    cli("trace", CRASHERS, "--until", "serial:").complaint(2, "has no regular expression")
    cli("trace", CRASHERS, "--from", "serial:x").complaint(2, "not a place to begin at")
    cli("trace", CRASHERS, "--until", "serial:x", "--what", "calls").complaint(2, "does not watch the serial port")
    cli("trace", CRASHERS, "--until", "serial:x", "--engine", "breakpoints").complaint(2, "between its stops")
    cli("trace", CRASHERS, "--milestone", "serial:x", "--", "-serial", "null").complaint(2, "which -serial redirects")
    theirs: Machine = machine(kernel=CRASHERS)  # type: ignore[operator]
    cli("trace", theirs.socket, "--milestone", "serial:x").complaint(2, "a machine that is started here")


@pytest.mark.boot
def test_an_expression_that_takes_years_is_given_up(cli: Cli) -> None:
    # mov edx, COM1; mov ecx, 64; mov al, 'a'; out dx, al; loop; mov al, '!'; out dx, al; mov al, 10; out dx, al; cli; hlt
    code = b"\xba\xf8\x03\0\0\xb9\x40\0\0\0\xb0\x61\xee\xe2\xfd\xb0\x21\xee\xb0\x0a\xee\xfa\xf4"
    ran = cli("trace", cli.file("says.elf", kernel_elf(code)), "--milestone", f"serial:{SLOW}", "--milestone", "serial:a!$").ok()
    assert f"note: serial:{SLOW} takes more than {PATIENCE:g} s on a line" in ran.out
    assert "serial:a!$" in ran.out
    assert ran.seconds < 8
    # A line is searched before its end is there, too: this one matches no beginning of it.
    toml = cli.file("e.toml", "[[milestone]]\nserial = '(a+)+b$'\n")
    cli("check", cli.folder / "says.elf", "--expect", toml).complaint(2, "takes too long")


def test_a_search_is_bounded_and_leaves_the_timer_alone() -> None:
    before, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    since = time.monotonic()
    with pytest.raises(TooSlow):
        search(re.compile(SLOW), "a" * 60 + "!")
    assert PATIENCE <= time.monotonic() - since < 3
    assert search(re.compile("b+"), "abc")
    assert not search(re.compile("d"), "abc")
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(left, abs=10)


def test_many_searches_put_nobody_elses_timer_off() -> None:
    rang: list[int] = []
    left = signal.setitimer(signal.ITIMER_REAL, 0.2)[0]
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        until = time.monotonic() + 5
        while not rang and time.monotonic() < until:
            search(re.compile("(a+)+$"), "a" * 14 + "!")
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, before)
    assert rang


@pytest.mark.parametrize("many", [b"a" * 20 + b"!\n", b"\n"])
def test_lines_that_cost_a_little_each_have_an_end_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bytes) -> None:
    monkeypatch.setattr(serial_milestones, "_BUDGET", 0.3)
    monkeypatch.setattr(bounded_search, "PATIENCE", 5)  # on a loaded host a single search is not to be given up
    log = tmp_path / "serial"
    log.write_bytes(b"")
    qemu = SimpleNamespace(serial_log=log, command=("qemu", "-S"))
    looks = SerialMilestones(SimpleNamespace(qemu=qemu), {"serial:x": re.compile(SLOW + "|x")}, ahead=True)  # type: ignore[arg-type]
    log.write_bytes(many * (4 << 20 if many == b"\n" else 1000))
    begun = time.monotonic()
    looks.look(5)
    assert looks.finish(9) == []
    assert time.monotonic() - begun < 3
    assert looks.complete
    assert looks.warnings == ["serial:x has taken 0.3 s on the guest's output: pvhdbg stopped looking for it"]
