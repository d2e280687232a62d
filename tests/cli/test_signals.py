"""A second signal while a machine of somebody else is put back: it waits. Sent at the very moment when that is done."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli_runner import HELLO, HELLO_ENTRY, Cli, Machine, Ran, eventually, kernel_elf, reads_the_log
from tests.support.left_machine import look
from tests.support.programs import need
from tests.support.relay import Relay

pytestmark = pytest.mark.boot

LOOP = kernel_elf(b"\x90" * 32 + b"\xeb\xde")  # 32 nop, and back


def _monitor(command: str) -> bytes:
    return b"qRcmd," + command.encode().hex().encode()


class Second:
    """Sends signals to a process when it sends the first of certain packets."""

    def __init__(self, *packets: bytes, signals: tuple[int, ...]) -> None:
        self._packets, self._signals = packets, list(signals)
        self.process: subprocess.Popen[str] | None = None
        self.sent = False
        self.let_run = False

    def __call__(self, data: bytes) -> bytes:
        self.let_run = self.let_run or b"$c#63" in data
        if not self.sent and self.process is not None and any(packet in data for packet in self._packets):
            self.sent = True
            for number in self._signals:
                self.process.send_signal(number)
        return data


@pytest.fixture
def looping(machine: Callable[..., Machine], tmp_path: Path) -> Machine:
    """A machine that loops at its entry, and stands there."""
    kernel = tmp_path / "loop.elf"
    kernel.write_bytes(LOOP)
    found = machine("-accel", "tcg", kernel=str(kernel))
    with found.debugger() as target:
        target.set_breakpoint(HELLO_ENTRY)
        target.resume()
        target.wait(10)
        target.clear_breakpoint(HELLO_ENTRY)
    return found


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_qemus_log_is_switched_off_whatever_comes_meanwhile(cli: Cli, looping: Machine, second: int) -> None:
    when = Second(_monitor("log none"), _monitor("singlestep off"), _monitor("one-insn-per-tb off"), signals=(second,))
    with Relay(looping.socket, cli.folder, when) as relay:
        process = cli.start("trace", relay.address, "--here", "--engine", "log", "--for", "60", "--leave", "running")
        eventually(lambda: reads_the_log(process), "the trace does not begin", 10)
        when.process = process
        process.send_signal(signal.SIGINT)
        ran = cli.ended(process)
    assert when.sent
    assert "Traceback" not in ran.err
    assert "Exception" not in ran.err
    left = look(looping.process.pid, looping.socket)
    assert (left.running, left.single, left.logs) == (True, False, False)


def _ended_while_it_waits(cli: Cli, looping: Machine, *signals: int) -> Ran:
    """`wait`, ended by SIGTERM, with more signals as it clears its breakpoint."""
    when = Second(b"$z1,", signals=signals)
    with Relay(looping.socket, cli.folder, when) as relay:
        process = cli.start("wait", relay.address, "--here", "--until", "0x200000", "--for", "60", "--leave", "running")
        eventually(lambda: when.let_run, "the guest is not let run", 15)
        when.process = process
        process.send_signal(signal.SIGTERM)
        ran = cli.ended(process)
    assert when.sent
    assert ran.code == 143
    return ran


def test_breakpoints_are_cleared_whatever_comes_meanwhile(cli: Cli, looping: Machine) -> None:
    ran = _ended_while_it_waits(cli, looping, signal.SIGHUP)
    assert "Traceback" not in ran.err
    left = look(looping.process.pid, looping.socket)
    assert (left.running, left.stops) == (True, False)


def test_a_third_signal_says_what_would_be_left(cli: Cli, looping: Machine) -> None:
    ran = _ended_while_it_waits(cli, looping, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    assert "putting back" in ran.err
    assert "leave that behind" in ran.err
    assert look(looping.process.pid, looping.socket).stops is False


@pytest.mark.gdb
def test_a_signal_while_gdb_starts(cli: Cli) -> None:
    """It comes after GDB's start, and before its first answer: 30 ms are not a wait, the moment is what is tested."""
    need("gdb")
    folder = cli.folder / "bin"
    folder.mkdir()
    program = folder / "gdb"
    hang_up = '(sleep 0.03; kill -s HUP "$PPID") >/dev/null 2>&1 </dev/null &'
    program.write_text(f'#!/bin/sh\n{hang_up}\nexec {shutil.which("gdb")} "$@"\n')
    program.chmod(0o700)
    with cli.start("check", HELLO, "--via", "gdb", env={"PATH": f"{folder}:{os.environ['PATH']}"}) as process:
        ran = cli.ended(process)
    assert ran.code == 143
    assert "Traceback" not in ran.err
    assert "Warning" not in ran.err
    cli.nothing_left()
