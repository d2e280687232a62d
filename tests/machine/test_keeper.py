"""SIGKILL of a pvhdbg that is attached to somebody else's machine: the keeper puts that back. And `release`, where none could."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.targets.wire import Wire
from pvhdbg.vmm.left_folders import AGE
from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Machine, eventually, kernel_elf, reads_the_log
from tests.support.left_machine import Left, busy, look

pytestmark = pytest.mark.boot

AS_IT_WAS = Left(running=True, single=False, stops=False, logs=False)


@pytest.fixture
def looping(machine: Callable[..., Machine], tmp_path: Path) -> Machine:
    """A machine that loops at its entry, running."""
    kernel = tmp_path / "loop.elf"
    kernel.write_bytes(kernel_elf(b"\x90" * 32 + b"\xeb\xde"))
    found = machine("-accel", "tcg", kernel=str(kernel))
    with found.debugger() as target:
        target.set_breakpoint(HELLO_ENTRY)
        target.resume()
        target.wait(10)
    RemoteTarget.connect(StubAddress(path=found.socket)).close(Leave.RUNNING)
    eventually(lambda: busy(found.process.pid), "it does not run")
    return found


def _killed_and_put_back(cli: Cli, looping: Machine, process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    eventually(lambda: busy(looping.process.pid) and not cli.processes(), "the machine does not run on", 15)
    assert look(looping.process.pid, looping.socket) == AS_IT_WAS


def test_a_running_machine_runs_on_without_the_log(cli: Cli, looping: Machine) -> None:
    process = cli.start("trace", looping.socket, "--here", "--engine", "log", "--for", "60")
    eventually(lambda: reads_the_log(process), "the trace does not begin", 15)
    _killed_and_put_back(cli, looping, process)


def test_a_running_machine_runs_on_without_breakpoints(cli: Cli, looping: Machine) -> None:
    process = cli.start(
        "trace", looping.socket, "--here", "--engine", "step", "--for", "60", "--until", f"{HELLO_ENTRY + 0x1000:#x}"
    )
    eventually(lambda: looping.held() or process.poll() is not None, "it does not attach", 15)
    _killed_and_put_back(cli, looping, process)


def test_a_machine_that_was_not_started_yet_stays_so(cli: Cli, machine: Callable[..., Machine], tmp_path: Path) -> None:
    kernel = tmp_path / "loop.elf"
    kernel.write_bytes(kernel_elf())
    found = machine("-accel", "tcg", kernel=str(kernel))
    process = cli.start("trace", found.socket, "--engine", "log", "--for", "60")
    eventually(lambda: reads_the_log(process), "the trace does not begin", 15)
    process.kill()
    process.communicate()
    eventually(lambda: not cli.processes(), "the keeper does not end", 15)
    left = look(found.process.pid, found.socket)
    assert (left.running, left.single, left.stops) == (False, False, False)


def test_release_mends_what_no_keeper_could(cli: Cli, looping: Machine) -> None:
    process = cli.start("trace", looping.socket, "--here", "--engine", "log", "--for", "60")
    eventually(lambda: reads_the_log(process), "the trace does not begin", 15)
    cli.clear()  # the keeper, too
    process.communicate()
    told = cli("check", looping.socket, "--here")
    assert f"pvhdbg release {looping.socket}" in told.out
    ran = cli("release", looping.socket).ok()
    assert "one-instruction mode was switched off" in ran.out
    assert look(looping.process.pid, looping.socket) == AS_IT_WAS


def test_release_clears_breakpoints_of_a_debugger_that_is_gone(cli: Cli, looping: Machine) -> None:
    wire = Wire(StubAddress(path=looping.socket), 5, lambda _: None)
    wire.greet(b"qSupported:multiprocess+", 5)
    assert wire.request(f"Z1,{HELLO_ENTRY + 4:x},1".encode()) == b"OK"
    wire.close()
    cli("release", looping.socket).ok()
    assert look(looping.process.pid, looping.socket) == AS_IT_WAS


def test_pvhdbg_and_its_guardian_killed_at_once_take_qemu_with_them(cli: Cli) -> None:
    """No process is left that would remove the folder: the next start does, when it is old enough."""
    process = cli.start("wait", guest("crashers"), "--append", "halt-forever", "--until", "0x200000", "--for", "60")
    eventually(lambda: list(cli.tmp.glob("*/gdb")), "QEMU is not started", 15)
    (guardian,) = _named(cli, "pvhdbg-guardian")
    for pid in (guardian, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: not cli.processes(), "QEMU runs on")
    (folder,) = cli.tmp.iterdir()
    cli("check", HELLO).ok()
    assert folder.exists()
    os.utime(folder, (time.time() - 2 * AGE,) * 2)
    cli("check", HELLO).ok()
    cli.nothing_left()


def test_the_folder_of_a_living_machine_stays(cli: Cli) -> None:
    """Also of one whose pvhdbg has ended and whose guardian was killed."""
    ran = cli("check", HELLO, "--leave", "stopped").ok()
    try:
        (guardian,) = _named(cli, "pvhdbg-guardian")
        os.kill(guardian, signal.SIGKILL)
        (folder,) = cli.tmp.iterdir()
        os.utime(folder, (time.time() - 2 * AGE,) * 2)
        cli("check", HELLO).ok()
        assert f"gdbstub is {folder}/gdb" in ran.out + ran.err
        cli("regs", folder / "gdb", "--here").ok()
    finally:
        cli.clear()
    os.utime(folder, (time.time() - 2 * AGE,) * 2)
    cli("check", HELLO).ok()


def test_nothing_is_left_on_disk_of_a_killed_command(cli: Cli, vmlinuz: Path) -> None:
    report = cli.folder / "reports"
    report.mkdir()
    process = cli.start("check", vmlinuz, "--report", f"json={report / 'report.json'}", "--timeout", "60")
    eventually(lambda: _named(cli, "qemu-system"), "QEMU is not started", 15)
    process.kill()
    process.communicate()
    eventually(lambda: not cli.processes(), "QEMU runs on")
    eventually(lambda: not list(cli.tmp.iterdir()), "an unpacked kernel is left")
    assert not list(report.iterdir())


def _named(cli: Cli, name: str) -> list[int]:
    """The processes of the command whose words hold `name`."""
    found = []
    for pid in cli.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if any(name.encode() in word for word in (words[0], *words[3:4])):
            found.append(pid)
    return found
