"""Waits of a test: they end with the goal, or at once with the cause of the guest's death."""

import os
import threading
import time
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.booted import Guest, launch
from pvhdbg.errors import BadInput, EntryNotReached, GuestDied, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.targets.target import Stop
from pvhdbg.tracing.milestones import TITLES
from tests.support.cli_runner import kernel_elf

pytestmark = pytest.mark.boot

AT_ONCE = 3.0  # seconds, on a machine that does all else, too; `make bench` holds it to one
NEVER = 0x200000  # an address that is not reached
SAY_X = bytes.fromhex("66ba f803 b058 ee")  # mov $0x3f8, %dx; mov $'X', %al; out: the last that it does before it dies
LATER = bytes.fromhex("b9 00000008 49 75fd")  # mov $0x8000000, %ecx; 1: dec %ecx; jnz 1b: behind what is followed
EXIT_DEVICE = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4")


def died(guest: Guest, wait: str = "until") -> str:
    """What the wait says of the death, which it has to tell soon after the last byte on the serial port."""
    with pytest.raises(GuestDied) as caught:
        _ = guest.until(NEVER, timeout=20) if wait == "until" else guest.serial.expect("never", timeout=20)
    took = time.time() - os.stat(guest.qemu.serial_log).st_mtime
    assert took < AT_ONCE, f"told after {took:.2f} s"
    assert guest.death is not None
    return caught.value.what


CRASHES = {
    "wild-esp": (
        "wild stack",
        "(wild_push) in 32-bit protected mode with 32-bit paging",
        "a write at 0xcffffffc: not present",
        "#PF page fault",
        "#DF double fault",
    ),
    "page-fault": (
        "unmapped code",
        "(after_paging) in 32-bit protected mode with 32-bit paging",
        "fetching the instruction",
        "not present",
        "#PF page fault",
    ),
    "wrmsr": ("wrmsr", "(faulting_wrmsr) in 32-bit protected mode", "MSR 0xc0010117 does not take 0x1", "#GP general protection"),
    "virtual-address": (
        "virtual address too early",
        "in 32-bit protected mode",
        "from 0x100121 (virtual_address+0x5)",
        "paging is still off",
    ),
    "endless-loop": ("endless loop", "(endless_loop) in 32-bit protected mode", "jumps to itself, with interrupts off"),
    "hlt": ("halted", "(hlt+0x1) in 32-bit protected mode", "`hlt` with interrupts off"),
    "zeros": ("zeros", "in 32-bit protected mode", "(zeros+0x7), to 0x400000", "never written"),
}


@pytest.mark.parametrize("wait", ["until", "expect"])
@pytest.mark.parametrize("crash", CRASHES)
def test_each_crash_is_told_at_once(crash: str, wait: str) -> None:
    with launch(guests.path("crashers"), append=f"crash={crash}", memory="64M") as guest:
        told = died(guest, wait)
        cause, *words = CRASHES[crash]
        assert guest.death is not None
        assert guest.death.cause == cause
        for word in words:
            assert word in told


DEATHS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "0f0b": (
        "triple fault",
        "stopped itself",
        (),
        ("triple fault", "#UD invalid opcode at 0x1", "in 32-bit protected mode", "`ud2`"),
    ),
    "cd21": ("software", "int", (), ("triple fault", "vector 33 itself")),
    "ebfe": ("loop", "endless loop", (), ("endless loop", "in 32-bit protected mode")),
    "faf4": ("halt", "halted", (), ("`hlt` with interrupts off",)),
    "66baf90c b006 ee ebfe": ("reset", "reset", (), ("rebooted", "port 0xcf9")),
    "66ba0406 66b80020 66ef ebfe": ("power-off", "power-off", (), ("shut itself down", "a power-off", "last seen at 0x1")),
    "66ba0505 b001 ee ebfe": (
        "pvpanic",
        "panic",
        ("-device", "pvpanic"),
        ("panicked", "its panic device", "in 32-bit protected mode"),
    ),
    "b010 e6f4 ebfe": (
        "exit",
        "exited",
        (*EXIT_DEVICE, "-action", "shutdown=poweroff"),
        ("ended QEMU", "exit status 33", "last seen at 0x1"),
    ),
}


@pytest.mark.parametrize("when", ["soon", "late"])
@pytest.mark.parametrize("code", DEATHS, ids=[one[0] for one in DEATHS.values()])
def test_each_other_death_is_told_at_once_soon_and_late(tmp_path: Path, code: str, when: str) -> None:
    _, cause, extra, words = DEATHS[code]
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_elf((LATER if when == "late" else b"") + SAY_X + bytes.fromhex(code)))
    with launch(kernel, memory="64M", extra=extra) as guest:
        told = died(guest, "until" if when == "soon" else "expect")
        assert guest.death is not None
        if (cause, guest.death.cause) == ("power-off", "shutdown"):
            cause = "shutdown"  # QEMU ended the guest before the log showed the instruction that asked for it
        assert guest.death.cause == cause
        for word in words:
            assert word in told
        if cause in (
            "reset",
            "power-off",
            "shutdown",
            "stopped itself",
        ):  # nothing runs any more: it is reported again, and not waited for
            with pytest.raises(GuestDied) as again:
                guest.until(NEVER, timeout=5)
            assert again.value.what.split(": ", 1)[1] == told.split(": ", 1)[1]


def test_a_qemu_that_is_killed(tmp_path: Path) -> None:
    """That is not the guest's death."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_elf(bytes.fromhex("42 ebfd")))  # it counts on and on

    def wait() -> None:
        with launch(kernel, memory="64M") as guest:
            timer = threading.Timer(0.6, os.kill, (guest.qemu.pid, 9))
            timer.start()
            since = time.monotonic()
            try:
                guest.until(NEVER, timeout=20)
            finally:
                assert time.monotonic() - since < 0.6 + AT_ONCE
                timer.join()

    with pytest.raises(VmmFailed, match="QEMU was killed by SIGKILL"):
        wait()


def test_what_may_still_come_is_waited_for(tmp_path: Path) -> None:
    """A loop that reads a port with interrupts off may end; only the end of the time tells."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_elf(bytes.fromhex("e464 ebfc")))  # 1: in $0x64, %al; jmp 1b
    with launch(kernel, memory="64M") as guest:
        since = time.monotonic()
        with pytest.raises(EntryNotReached, match=r"port 0x64 .the keyboard controller's status. to change"):
            guest.until(NEVER, timeout=1.5)
        assert time.monotonic() - since >= 1.4
        guest.target.write_register("rip", 0x100002)
        assert guest.until(0x100000, timeout=5)["rip"] == 0x100000


def test_a_guest_that_lives_and_does_not_come(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_elf(bytes.fromhex("42 ebfd")))
    with launch(kernel, memory="64M") as guest:
        with pytest.raises(EntryNotReached, match=r"within 0\.7 s: it was at 0x10000.* in 32-bit protected mode"):
            guest.until(NEVER, timeout=0.7)
        with pytest.raises(TargetTimeout, match=r"did not write 'never' within 0\.1 s"):
            guest.serial.expect("never", timeout=0.1)
        with pytest.raises(BadInput, match="not a mode"):
            guest.until_mode("unreal")
        with pytest.raises(EntryNotReached, match="did not reach long mode"):
            guest.until_mode("long", timeout=0.1)
        assert guest.until_mode("protected")["rip"] >> 4 == 0x10000


def test_modes_and_milestones_of_a_boot() -> None:
    with launch(guests.path("long_mode"), memory="64M") as guest:  # it halts at its end: without an exit device it cannot get away
        assert not list(guest.milestones)
        at = guest.until("load_gdt")
        assert at["rip"] == guest.symbol("load_gdt")
        assert [one.name for one in guest.milestones] == ["entry", "cr4.pae", "cr3", "efer.lme", "cr0.pg", "efer.lma"]
        assert guest.until_mode("compatibility") == at  # it is there already
        guest.until_mode("long")
        names = [one.name for one in guest.milestones]
        assert set(names) <= set(TITLES)
        assert names[6:9] == ["lgdt", "far jump", "64-bit"]
        order = [one.seq for one in guest.milestones]
        assert order == sorted(order)
        assert guest.serial.expect(r"magic (0x\w+)\r\n")[1] == "0x336ec578"


def test_a_guest_that_ends_before_it_can_be_stopped_in_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    with launch(guests.path("long_mode"), memory="64M", extra=(*EXIT_DEVICE, "-action", "shutdown=poweroff")) as guest:
        guest.until("load_gdt")
        stop = guest.target.interrupt

        def late() -> Stop:
            guest.qemu.wait(10)
            return stop()

        monkeypatch.setattr(guest.target, "interrupt", late)
        with pytest.raises(GuestDied, match=r"before it could be stopped in long mode: .*exit status 33.* in 64-bit long mode"):
            guest.until_mode("long")
        with pytest.raises(TargetLost):
            _ = guest.registers


@pytest.mark.parametrize("crash", ["wild-esp", "endless-loop"])
def test_a_log_of_the_users_own_is_left_alone(tmp_path: Path, crash: str) -> None:
    """Nothing is followed then, and what cannot be known of a triple fault is not said."""
    log = tmp_path / "log"
    with launch(guests.path("crashers"), append=f"crash={crash}", memory="64M", extra=("-d", "int", "-D", str(log))) as guest:
        told = died(guest)
        assert not list(guest.milestones)
        assert guest.death is not None
        if crash == "wild-esp":
            assert "Not all faults are seen here" in told
            assert "wild_push" in told
            assert b"check_exception" in log.read_bytes()
        else:
            assert guest.death.cause == "endless loop"


def test_several_cpus_are_dead_only_together(tmp_path: Path) -> None:
    with launch(guests.path("crashers"), append="crash=hlt", memory="64M", cpus=2) as guest:
        assert "`hlt` with interrupts off" in died(guest)


@pytest.mark.parametrize("goal", ["start_kernel", "panic"])
def test_a_real_kernel_comes_to_its_places(vmlinux: Path, goal: str) -> None:
    with launch(vmlinux, append="console=ttyS0 panic=-1") as guest:
        if goal == "panic":
            with pytest.raises(GuestDied, match="Kernel panic - not syncing") as failed:
                guest.serial.expect("never written", timeout=60)
            told = str(failed.value)
            assert "The kernel panicked" in told
            # It reboots at the end of its panic: on a slow host after the wait has ended. It is not the cause in either case.
            assert told.count("rebooted") == told.count("Then it rebooted, which Linux does by panic=")
            return
        assert "64-bit" not in [one.name for one in guest.milestones]
        guest.until_mode("long")
        assert "64-bit" in [one.name for one in guest.milestones]
        assert guest.until("start_kernel")["rip"] >> 32 == 0xFFFFFFFF


def test_the_deterministic_clock() -> None:
    with launch(guests.path("hello"), deterministic=True) as guest:
        assert {"-icount", "-rtc"} <= set(guest.qemu.command)
    with pytest.raises(BadInput, match="KVM's clock is not deterministic"):
        launch(guests.path("hello"), deterministic=True, accel="kvm")
