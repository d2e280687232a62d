"""crashers: each death happens at its symbol, in the way that its name says, and leaves the machine to be looked at."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvhdbg import guests
from pvhdbg.errors import TargetTimeout
from pvhdbg.spec.x86 import CR0, EFLAGS
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import StopKind

pytestmark = pytest.mark.boot

Boot = Callable[..., Any]
NO_MEMORY, LINKED_AT, NEVER_WRITTEN = 0xD0000000, 0xC0000000, 0x400000  # as in crashers.S
UNKNOWN_STATUS = 35


def died(guest: Any, symbol: str) -> dict[str, int]:
    """The registers of a guest that ran from `symbol` into a triple fault."""
    guest.run_to(symbol)
    guest.target.resume()
    assert guest.target.wait(10).kind is StopKind.SHUTDOWN
    registers = guest.target.read_registers()
    return {name: registers[name] for name in registers}


@pytest.mark.parametrize(
    ("crash", "symbol", "at", "paging", "address"),
    [
        ("wild-esp", "wild_esp", "wild_push", True, NO_MEMORY - 4),
        ("page-fault", "page_fault", "after_paging", True, None),
        ("wrmsr", "wrmsr", "faulting_wrmsr", False, 0),
    ],
)
def test_a_fault_that_cannot_be_delivered(boot: Boot, crash: str, symbol: str, at: str, paging: bool, address: int | None) -> None:
    guest = boot("crashers", ends=False, append=f"quiet crash={crash} x")
    registers = died(guest, symbol)
    assert registers["rip"] == guest.address(at)
    assert registers["cr0"] >> CR0["PG"] & 1 == paging
    assert registers["cr2"] == (guest.address(at) if address is None else address)  # of a #GP there is none
    assert guest.qemu.serial_tail() == [f"crash: {crash}"]


def test_an_endless_loop(boot: Boot) -> None:
    guest = boot("crashers", ends=False, append="crash=endless-loop")
    guest.run_to("endless_loop")
    for _ in range(3):
        guest.target.step()
        assert guest.target.read_registers()["rip"] == guest.address("endless_loop")


def test_hlt_without_interrupts(boot: Boot) -> None:
    guest = boot("crashers", ends=False, append="crash=hlt")
    guest.run_to("hlt")
    deadline = time.monotonic() + 10
    while guest.target.read_registers()["rip"] != guest.address("after_hlt"):  # a step into hlt would not return, either
        assert time.monotonic() < deadline
        guest.target.resume()
        with pytest.raises(TargetTimeout):
            guest.target.wait(0.02)
        guest.target.interrupt()
    registers = guest.target.read_registers()
    assert guest.qemu.serial_tail() == ["crash: hlt"]
    assert not registers["eflags"] >> EFLAGS["IF"] & 1
    assert "HLT=1" in guest.target.monitor("info registers")


def test_a_jump_to_where_nothing_is_yet(boot: Boot) -> None:
    guest = boot("crashers", ends=False, append="crash=virtual-address")
    guest.run_to("virtual_address")
    guest.target.step()
    guest.target.step()
    registers = guest.target.read_registers()
    assert LINKED_AT + guest.address("virtual_address") < registers["rip"] < LINKED_AT + guest.address("endless_loop")
    assert not registers["cr0"] >> CR0["PG"] & 1


def test_a_jump_into_zeros(boot: Boot) -> None:
    guest = boot("crashers", ends=False, append="crash=zeros")
    guest.run_to("zeros")
    before = guest.target.read_memory(0, 1)
    run_until(guest.target, [NEVER_WRITTEN], 10)
    assert guest.target.read_memory(NEVER_WRITTEN, 4096) == bytes(4096)
    for count in range(1, 4):
        guest.target.step()
        assert guest.target.read_registers()["rip"] == NEVER_WRITTEN + 2 * count
    assert guest.target.read_memory(0, 1) == before  # what the adds add is 0


def test_without_the_option_it_is_the_wild_stack_pointer(boot: Boot) -> None:
    guest = boot("crashers", ends=False)
    assert guest.run_to("wild_esp", "page_fault")["rip"] == guest.address("wild_esp")


@pytest.mark.parametrize("line", ["crash=nosuch", "crash=hl", "crash=hltx", "crash="])
def test_a_death_that_is_not_known(boot: Boot, line: str) -> None:
    status, said = boot("crashers", append=line).finish()
    assert (status, said) == (UNKNOWN_STATUS, ["crash= names no death that is known here"])


def test_the_command_line_says_how_far_it_came() -> None:
    words = ["check", str(guests.path("crashers")), "--append", "crash=page-fault", "--entry", "after_hlt"]
    ran = subprocess.run(
        [sys.executable, "-m", "pvhdbg", *words], capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[2]
    )
    assert ran.returncode == 3
    assert "the guest ended before it reached" in ran.stderr
    assert "crash: page-fault" in ran.stderr
