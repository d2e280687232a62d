"""Guests that live in a loop are not called dead by `why`, and those in a loop that nothing can end are."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from healthy.guests import SAMPLES, SMALL, small
from healthy.watch import watch
from pvhdbg.targets.run import run
from pvhdbg.targets.target import StopKind
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.engines.examiner import Examiner
from tests.support import debugged
from tests.support.cli_runner import Cli, kernel_elf
from tests.support.small_kernels import assembled

pytestmark = pytest.mark.boot

STACK = "mov $0x90000, %esp\n"
EXIT = "mov $0xf4, %dx\n xor %eax, %eax\n out %al, %dx\n hlt\n"  # isa-debug-exit
EXIT_DEVICE = ("--", *debugged.EXIT_DEVICE)

COUNTS_IN_MEMORY = "1: incl 0x80000\n jmp 1b"
# for (int i = 0; i < LIMIT; i++); as GCC translates it with -O0. The registers are the same in each round.
DELAY = f"""{STACK} push %ebp\n mov %esp, %ebp\n sub $16, %esp
movl $0, -4(%ebp)\n jmp 2f\n 1: addl $1, -4(%ebp)\n 2: cmpl $LIMIT, -4(%ebp)\n jle 1b\n"""
WAITS_FOR_PORT = "mov $0x3fd, %dx\n 1: in %dx, %al\n test $0x01, %al\n jz 1b\n hlt"
WAITS_FOR_NO_DEVICE = "1: in $0x37, %al\n test $0x20, %al\n jnz 1b\n hlt"
WAITS_FOR_MEMORY = "1: pause\n cmpl $0, 0x80000\n je 1b\n hlt"
WAITS_FOR_APIC = "1: cmpl $5, 0xfee00390\n jne 1b\n hlt"
FLOATS = "fninit\n fldz\n fld1\n 1: fadd %st, %st(1)\n jmp 1b"
STORES_TO_A_DEVICE = "1: movl $0, 0xfee000b0\n jmp 1b"

JUMPS_TO_ITSELF = "cli\n 1: jmp 1b"
PAUSES = "1: pause\n cli\n jmp 1b"
CALLS = f"{STACK} 1: call 2f\n jmp 1b\n 2: push %ebp\n mov %esp, %ebp\n nop\n pop %ebp\n ret"
IN_REGISTERS = "1: xor %eax, %eax\n lea 5(%eax), %ecx\n test %ecx, %ecx\n jnz 1b"


def why(cli: Cli, tmp_path: Path, text: str, code: int, *words: str, seconds: str = "1.0") -> Any:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, text)))
    return json.loads(cli("why", kernel, "--format", "json", "--for", seconds, *words).ok(code).out)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (COUNTS_IN_MEMORY, "4 bytes in memory at 0x80000 that the loop itself changes"),
        (DELAY.replace("LIMIT", "0x7FFFFFFE"), "that the loop itself changes"),
        (WAITS_FOR_PORT, "port 0x3fd (COM1's line status) to change, which reads 0x60"),
        (WAITS_FOR_NO_DEVICE, "port 0x37 to change, which reads 0xff as of a port without a device"),
        (WAITS_FOR_MEMORY, "4 bytes in memory at 0x80000 to change, which now holds 0x0"),
        (WAITS_FOR_APIC, "4 bytes in memory at 0xfee00390 (the local APIC) to change"),
        (FLOATS, "it is in a loop of 2 instructions"),
        (STORES_TO_A_DEVICE, "it is in a loop of 2 instructions"),
    ],
)
def test_a_loop_in_which_something_can_change_is_not_a_death(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    found = why(cli, tmp_path, text, 3)
    assert (found["kind"], found["cause"]) == ("alive", "in a loop")
    assert told in found["verdict"]
    assert "was there at every look for " in found["verdict"]
    assert "endless loop" not in found["cause"]


@pytest.mark.parametrize(("text", "count"), [(JUMPS_TO_ITSELF, 1), (PAUSES, 3), (CALLS, 7), (IN_REGISTERS, 4)])
def test_a_loop_in_which_nothing_can_change_is_one(cli: Cli, tmp_path: Path, text: str, count: int) -> None:
    found = why(cli, tmp_path, text, 0, seconds="20")
    assert (found["kind"], found["cause"]) == ("loop", "endless loop")
    assert "one instruction that jumps to itself" in found["verdict"] or f"{count} instructions that come back" in found["verdict"]


def test_a_delay_loop_is_waited_for(cli: Cli, tmp_path: Path) -> None:
    found = why(cli, tmp_path, DELAY.replace("LIMIT", "300000000") + EXIT, 0, *EXIT_DEVICE, seconds="25")
    assert (found["kind"], "exit status 1" in found["verdict"]) == ("exited", True)


def test_a_loop_with_a_second_cpu_that_runs_is_not_a_death(cli: Cli, tmp_path: Path) -> None:
    """The boot CPU starts the other one, and parks."""
    start = """mov $0x8000, %edi\n movl $0x0000feeb, (%edi)
        movl $0xc4500, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b
        movl $0xc4608, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b\n 1: jmp 1b"""
    found = why(cli, tmp_path, start, 3, "--cpus", "2")
    assert found["kind"] == "alive"


def test_check_until_waits_for_a_loop_to_the_end_of_its_time(cli: Cli, tmp_path: Path) -> None:
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, WAITS_FOR_PORT)))
    ran = cli("check", kernel, "--until", "0x100100", "--for", "2")
    ran.ok(1)
    assert ran.seconds > 2
    assert "port 0x3fd (COM1's line status) to change" in ran.out + ran.err


@pytest.mark.parametrize("rounds", [9_990, 10_030, 10_400, 10_550, 10_700, 10_900, 150_000])
def test_a_death_just_behind_the_instructions_that_are_followed_with_states(cli: Cli, tmp_path: Path, rounds: int) -> None:
    text = f"mov ${rounds}, %ecx\n 1: dec %ecx\n jnz 1b\n lidt 0x80000\n int3"
    kernel = cli.file("k", kernel_elf(assembled(tmp_path, text)))
    ran = cli("why", kernel, "--format", "json", "--for", "20").ok()
    found = ran.json()
    assert (found["kind"], found["cause"]) == ("triple fault", "int")
    assert found["instructions"] in (2 * rounds + 3, None)
    assert found["instructions"] is not None or rounds > 100_000
    assert ran.seconds < 15


def test_the_death_of_a_second_cpu_is_not_called_a_wish_of_the_first(cli: Cli, tmp_path: Path) -> None:
    """The second CPU begins at 0x8000 in real mode: lidt of zeros, ud2."""
    start = """movl $0x1e010f66, 0x8000\n movl $0x0b0f8100, 0x8004\n movl $0, 0x8100\n movl $0, 0x8104
        movl $0xc4500, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b
        movl $0xc4608, 0xfee00300\n 1: pause\n jmp 1b"""
    found = why(cli, tmp_path, start, 0, "--cpus", "2", seconds="20")
    assert found["kind"] in ("shutdown", "triple fault")
    assert "No fault was seen" not in found["verdict"]


@pytest.mark.parametrize("number", range(len(SMALL)), ids=list(SMALL))
def test_a_healthy_guest_is_accused_of_nothing(tmp_path: Path, number: int) -> None:
    """`make test-healthy` watches them for longer, and Linux, too."""
    guest = next(islice(small(tmp_path), SAMPLES + number, None))
    assert watch(guest, 1.0).wrong == ""


def test_a_guest_that_ends_qemu_during_a_look_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The look at a loop lets the guest run on for a moment; here it runs on until QEMU has gone."""

    def too_long(examiner: Examiner) -> Death | None:
        target = examiner._target  # noqa: SLF001 - what the examiner would talk to next
        while run(target, 30, may_vanish=True).stop.kind is not StopKind.EXITED:
            pass
        target.read_registers()
        return None

    monkeypatch.setattr(Examiner, "standing", too_long)
    guest = next(islice(small(tmp_path), SAMPLES + list(SMALL).index("delay loop of -O0"), None))
    assert watch(guest, 1.0).wrong == ""
