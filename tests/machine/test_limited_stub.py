"""A stub with Firecracker's limits: general registers, Z1, s, c and m; no control registers, no monitor, and the end when we leave.

The stub is a relay in front of a real QEMU, and the same guests are followed through QEMU's whole stub for comparison.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pvhdbg.guests import path as guest
from tests.support.cli_runner import Cli, Machine, Ran, eventually
from tests.support.limited_stub import LimitedStub

pytestmark = pytest.mark.boot
LONG_MODE, CRASHERS = str(guest("long_mode")), str(guest("crashers"))


@contextmanager
def limited(kernel: str, append: str = "") -> Iterator[tuple[str, Machine]]:
    machine = Machine("-append", append, "-no-reboot", kernel=kernel)
    try:
        with LimitedStub(machine.socket, machine.folder) as stub:
            yield stub.address, machine
    finally:
        machine.close()


def at_prompt(cli: Cli, kernel: str, *lines: str, append: str = "") -> Ran:
    words = [word for line in lines for word in ("-ex", line)]
    with limited(kernel, append) as (address, machine):
        ran = cli("repl", address, "--kernel", kernel, "--batch", *words)
        eventually(lambda: machine.process.poll() is not None, "the VMM lives on after the debugger has left", 20)
    return ran


def test_the_prompt_shows_code_memory_and_steps(cli: Cli) -> None:
    lines = ("si", "x /2w 0x100000", "disas", "break enable_paging", "continue", "si", "regs")
    out = at_prompt(cli, LONG_MODE, *lines).ok().out
    assert "ends when the debugger leaves" in out.split("=>")[0]  # before anything is done
    assert re.search(r"=> 0x100005 <pvh_start\+0x5>: +89 1d", out)
    assert re.search(r"0x100000: +0x109010bc +0x001d8900", out)
    assert re.search(r"^32-bit protected mode\n<pvh_start[^>]*>:\n", out, re.MULTILINE)  # followed from the entry
    assert re.search(r"breakpoint 1, 0x100030 <enable_paging>, mode not observed", out)  # it ran freely
    assert re.search(r"cr0 \?{8}", out)  # what is followed is not shown as observed


def test_until_a_mode_follows_the_control_registers(cli: Cli) -> None:
    ran = at_prompt(cli, CRASHERS, "until paged", "si", append="crash=page-fault")
    assert re.search(r"^paged after [\d.]+ s$", ran.out, re.MULTILINE)
    ran = at_prompt(cli, LONG_MODE, "until enable_pae", "until long")
    assert "the machine ran freely: its mode is not known" in ran.err


def test_a_trace_steps_and_finds_the_milestones_of_the_whole_stub(cli: Cli) -> None:
    with limited(CRASHERS, "crash=page-fault") as (address, _):
        ran = cli("trace", address, "--kernel", CRASHERS, "--for", "60").ok()
    assert "engine step, because the stub has no monitor" in ran.out
    whole = cli("trace", CRASHERS, "--append", "crash=page-fault", "--engine", "log").ok()
    found = [re.findall(r"^ +[\d,]+  (\S+(?: \S+)?)  ", one.out, re.MULTILINE) for one in (ran, whole)]
    assert {"cr3", "cr0.pg"} <= set(found[0])
    assert [name for name in found[0] if name in found[1]] == [name for name in found[1] if name in found[0]]


@pytest.mark.parametrize(
    ("crash", "verdict", "last"),
    [
        ("wrmsr", "The guest ended the VMM", "wrmsr"),
        ("hlt", "The CPU halted for good", "hlt"),
        ("zeros", "memory that was never written", "add [eax], al"),
    ],
)
def test_why_tells_the_end_by_steps(cli: Cli, crash: str, verdict: str, last: str) -> None:
    with limited(CRASHERS, f"crash={crash}") as (address, _):
        ran = cli("why", address, "--kernel", CRASHERS, "--for", "30").ok()
    assert verdict in " ".join(ran.out.split())
    path = re.findall(r"^ +\d+ protected +0x[0-9a-f]+  (.*?)(?:  .*)?$", ran.out, re.MULTILINE)
    assert path[-1] == last
    assert path.count("add [eax], al") <= 1
    assert "no exception was seen" in ran.out


def test_milestones_at_the_prompt(cli: Cli) -> None:
    ran = at_prompt(cli, CRASHERS, "milestones", append="crash=page-fault")
    assert re.findall(r"^ +\d+  (\S+)  ", ran.out, re.MULTILINE) == ["entry", "idt", "cr3", "cr0.pg"]


def test_why_looks_at_a_cpu_that_had_halted_before(cli: Cli) -> None:
    """A step would never return there, and no monitor reports it."""
    with limited(CRASHERS, "crash=hlt") as (address, _):
        lines = ("-ex", "continue", "-ex", "why", "-ex", "regs")
        ran = cli("repl", address, "--kernel", CRASHERS, "--timeout", "1", "--batch", *lines)
    assert "The CPU halted for good, 0 instructions after" in " ".join(ran.out.split())
    assert re.search(r"eip 00100129", ran.out)  # it was left where it was


def test_a_trace_whose_guest_dies_prints_what_it_had(cli: Cli) -> None:
    with limited(CRASHERS, "crash=wrmsr") as (address, _):
        ran = cli("trace", address, "--kernel", CRASHERS, "--what", "pc", "--tail", "3", "--for", "30").ok()
    assert "faulting_wrmsr" in ran.out
    assert "the machine is gone: the guest ended it" in ran.out


def test_check_works_and_says_that_the_vmm_ends(cli: Cli) -> None:
    with limited(LONG_MODE) as (address, machine):
        ran = cli("check", address, "--kernel", LONG_MODE, "--leave", "running").ok()
        eventually(lambda: machine.process.poll() is not None, "the VMM lives on")
    assert "ends when the debugger leaves, whatever --leave says" in ran.out
    assert "cr0 was not observed: this stub shows general registers only" in ran.out
