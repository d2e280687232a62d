"""`pvhdbg why` on real deaths: each planted one must be explained rightly."""

import re
from pathlib import Path
from typing import Any

import pytest

from planted import judge
from planted.deaths import CRASHERS as DEATHS
from pvhdbg import guests
from pvhdbg.kernel.image import open_kernel
from pvhdbg.targets.run import run_until
from pvhdbg.targets.target import StopKind
from tests.support import debugged
from tests.support.cli_runner import TRIPLE_FAULT, Cli, Machine, kernel_elf
from tests.support.schemas import validator

pytestmark = pytest.mark.boot

CRASHERS = str(guests.path("crashers"))
STACK = 0xD0000000
MSR = 0xC0010117


def symbols() -> dict[str, int]:
    with open_kernel(CRASHERS) as image:
        names = [
            "wild_push",
            "after_paging",
            "faulting_wrmsr",
            "virtual_address",
            "endless_loop",
            "after_hlt",
            "zeros",
            "page_directory",
        ]
        return {name: image.symbols().virtual_address(name) for name in names}


def why(cli: Cli, subject: str | Path, *words: str, code: int = 0) -> Any:
    found = cli("why", subject, "--format", "json", "--for", "20", *words).ok(code).json()
    validator("why").validate(found)
    return found


def crash(cli: Cli, name: str) -> Any:
    found = why(cli, CRASHERS, "--append", f"crash={name}")
    (planted,) = (one for one in DEATHS if one.name == name)
    assert found["cause"] == planted.cause
    assert judge.unsaid(planted, found["verdict"], found["next"]) == []
    return found


def test_wild_esp(cli: Cli) -> None:
    at = symbols()
    found = crash(cli, "wild-esp")
    assert (found["kind"], found["cause"], found["mode"]) == ("triple fault", "wild stack", "paged")
    assert (int(found["pc"], 16), found["symbol"]) == (at["wild_push"], "wild_push")
    assert f"the stack pointer is {STACK:#x}" in found["verdict"]
    assert found["address"]["class"] == "not mapped"
    assert int(found["address"]["address"], 16) == STACK - 4
    entry = at["page_directory"] + (STACK - 4 >> 22) * 4
    assert any(f"PD[{STACK - 4 >> 22}] at {entry:#x}: 0x0 not present" in line for line in found["address"]["walk"])
    assert [fault["vector"] for fault in found["faults"]] == [14, 8, None]
    assert "no entry for vector 14" in found["faults"][1]["words"]
    assert any("esp: unspecified" in promise for promise in found["promises"])
    assert found["instructions"] == found["path"][-1]["seq"] + 1
    assert found["path"][-1]["code"] == "50"  # push %eax


def test_page_fault(cli: Cli) -> None:
    at = symbols()
    found = crash(cli, "page-fault")
    assert (found["cause"], int(found["pc"], 16)) == ("unmapped code", at["after_paging"])
    assert found["address"]["class"] == "not mapped"
    assert "it would be RAM" in found["address"]["words"]
    assert f"PD[0] at {at['page_directory']:#x}: 0x0 not present" in found["address"]["walk"][1]
    assert found["path"][-1]["code"] == "0f22c0"  # mov %eax, %cr0
    assert "map the code" in found["next"]


def test_wrmsr(cli: Cli) -> None:
    found = crash(cli, "wrmsr")
    assert (found["cause"], int(found["pc"], 16)) == ("wrmsr", symbols()["faulting_wrmsr"])
    assert f"MSR {MSR:#x} does not take 0x1" in found["verdict"]
    assert [fault["vector"] for fault in found["faults"]] == [13, 8, None]


def test_virtual_address(cli: Cli) -> None:
    at = symbols()["virtual_address"]
    found = crash(cli, "virtual-address")
    assert (found["kind"], found["cause"], found["mode"]) == ("nowhere", "virtual address too early", "protected")
    assert found["address"]["class"] == "linked"
    landed = at + 7  # mov $imm32, %eax; jmp *%eax
    assert int(found["address"]["address"], 16) == 0xC0000000 + landed
    assert f"0xc0000000 above {landed:#x}" in found["verdict"]
    assert int(found["path"][-2]["pc"], 16) == at + 5
    assert any("paging: off at the entry" in promise for promise in found["promises"])


def test_endless_loop(cli: Cli) -> None:
    found = crash(cli, "endless-loop")
    assert (found["kind"], found["cause"], int(found["pc"], 16)) == ("loop", "endless loop", symbols()["endless_loop"])
    assert "one instruction that jumps to itself" in found["verdict"]
    assert found["path"][-1]["code"] == "ebfe"
    assert found["path"][-2]["code"] != "ebfe"


def test_hlt(cli: Cli) -> None:
    found = crash(cli, "hlt")
    assert (found["kind"], int(found["pc"], 16)) == ("halted", symbols()["after_hlt"] - 1)
    assert "interrupts off" in found["verdict"]
    assert not int(found["registers"]["eflags"], 16) >> 9 & 1


def test_zeros(cli: Cli) -> None:
    found = crash(cli, "zeros")
    assert found["kind"] == "zeros"
    assert int(found["path"][-1]["pc"], 16) == 0x400000
    assert int(found["path"][-2]["pc"], 16) == symbols()["zeros"] + 7  # xor; mov $imm32; jmp *%ecx
    assert found["address"]["class"] == "ram"


def test_a_kernel_for_64_bits_on_a_cpu_without_them(cli: Cli, vmlinux: Path) -> None:
    found = why(cli, vmlinux, "--cpu", "qemu32")
    assert (found["kind"], found["cause"], found["mode"]) == ("triple fault", "no long mode", "pae")
    assert "EFER.LME stayed 0" in found["verdict"]
    assert "--cpu" in found["next"]
    assert found["instructions"] < 100


@pytest.mark.parametrize(("offset", "rule"), [(0, "PVH-EBX-MAGIC"), (48, "SI-MM-PRESENT")])
def test_a_hand_off_that_linux_refuses(cli: Cli, machine: Any, vmlinux: Path, offset: int, rule: str) -> None:
    theirs: Machine = machine("-no-reboot", "-no-shutdown", "-m", "512M", kernel=str(vmlinux))
    with open_kernel(str(vmlinux)) as image:
        entry = image.kernel().entry
    assert entry is not None
    with theirs.debugger() as target:
        run_until(target, [entry], 20)
        target.write_memory(target.read_registers()["ebx"] + offset, bytes(4))
    found = why(cli, theirs.socket, "--kernel", str(vmlinux))
    assert found["cause"] == "stopped itself"
    assert found["path"][-1]["code"] == "0f0b"
    assert rule in found["verdict"]
    assert [fault["vector"] for fault in found["faults"]] == [6, 13, 8, None]


def test_a_triple_fault_that_reboots_somebody_elses_machine_is_caught_at_the_reset_vector(cli: Cli, machine: Any) -> None:
    theirs: Machine = machine(kernel=cli.file("k", kernel_elf(TRIPLE_FAULT)))
    found = why(cli, theirs.socket)
    assert (found["kind"], found["mode"]) == ("triple fault", "protected")
    assert (found["cause"], found["faults"][0]["kind"], found["faults"][0]["vector"]) == ("int", "software interrupt", 3)
    assert "no entry for vector 3" in found["verdict"]
    with theirs.debugger() as target:
        assert target.read_registers()["rip"] == 0xFFF0
        assert "single step" not in target.monitor("info status")


def test_a_watch_that_begins_behind_the_entry_does_not_judge_the_hand_off(cli: Cli, machine: Any) -> None:
    theirs: Machine = machine(kernel=str(guests.path("long_mode")))
    cli("trace", theirs.socket, "--until", "in_long_mode").ok()
    found = why(cli, theirs.socket, "--here")
    assert (found["kind"], found["mode"], found["symbol"], found["handoff"]) == ("halted", "long", "halt+0x1", [])
    assert "after the beginning of the watch" in found["verdict"]


@pytest.mark.parametrize(
    ("crash", "cause", "words"),
    [
        ("wild-esp", "wild stack", "`push eax`: a write at 0xcffffffc: not present"),
        ("page-fault", "wild jump", "fetching the instruction at "),
        ("wrmsr", "shutdown", "The instruction there is `wrmsr`"),
    ],
)
def test_a_machine_that_is_dead_already_is_told_by_what_is_left(cli: Cli, machine: Any, crash: str, cause: str, words: str) -> None:
    theirs: Machine = machine("-no-reboot", "-no-shutdown", "-append", f"crash={crash}", kernel=CRASHERS)
    with theirs.debugger() as target:
        target.resume()
        assert target.wait(10).kind is StopKind.SHUTDOWN
        before = target.monitor("info registers")
    ran = cli("why", theirs.socket, "--here", "--format", "json", "--for", "5").ok()
    assert ran.seconds < 5
    found = ran.json()
    validator("why").validate(found)
    assert (found["kind"], found["cause"], found["faults"], found["path"]) == ("shutdown", cause, [], [])
    assert words in found["verdict"]
    assert "How it came there was not recorded" in found["verdict"]
    assert "still the loader's" not in found["verdict"]  # the guest loaded one: what was at the entry is not known
    with theirs.debugger() as target:
        assert target.monitor("info registers") == before
        assert "single step" not in target.monitor("info status")


def test_a_guest_that_ends_qemu_and_one_that_lives(cli: Cli) -> None:
    exit_device = ("--", *debugged.EXIT_DEVICE)
    found = why(cli, str(guests.path("hello")), *exit_device)
    assert found["kind"] == "exited"
    assert re.fullmatch(r"The guest ended QEMU, \d+ instructions after the entry: exit status 33\.", found["verdict"])
    idle = b"\x42\xeb\xfd"  # 1: inc %edx; jmp 1b: it comes back to the same state after 2^32 rounds only
    alive = cli("why", cli.file("idle", kernel_elf(idle)), "--for", "1").ok(3)
    assert "It did not die" in alive.out


def test_an_interrupt_that_nobody_waits_for(cli: Cli) -> None:
    sti_hlt = b"\xfb\xf4\xeb\xfd"  # the firmware's timer comes, and finds the firmware's real-mode vectors for an IDT
    found = why(cli, cli.file("k", kernel_elf(sti_hlt)))
    assert (found["cause"], found["faults"][0]["kind"], found["faults"][0]["vector"]) == ("interrupt", "interrupt", 8)
    assert "still the loader's IDT" in found["verdict"]
    assert "before sti" in found["next"]


def test_kvm_and_bad_wishes_are_refused(cli: Cli) -> None:
    cli("why", CRASHERS, "--for", "-1").complaint(2, "not a duration")
    cli("why", "/nonexistent/kernel").complaint(2, "no file")
