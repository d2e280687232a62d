"""`--for` is a total: also where the machine, or who answers for it, does not answer any more."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recording_layout import MAGIC, RecordingHeader
from tests.support.cli_runner import HELLO, Cli, Machine, eventually, kernel_elf, reads_the_log
from tests.support.left_machine import busy, look
from tests.support.relay import Relay

pytestmark = pytest.mark.boot
# Seconds for the answers that are awaited one after the other, and for a loaded machine to start a Python and to end it: without bounds
# these take 30 and more.
LITTLE = 14.0


@pytest.fixture
def looping(machine: Callable[..., Machine], tmp_path: Path) -> Machine:
    kernel = tmp_path / "loop.elf"
    kernel.write_bytes(kernel_elf(b"\x90" * 32 + b"\xeb\xde"))
    found = machine("-accel", "tcg", kernel=str(kernel))
    RemoteTarget.connect(StubAddress(path=found.socket)).close(Leave.RUNNING)
    return found


def test_a_qemu_that_is_stopped_while_it_is_traced(cli: Cli, looping: Machine) -> None:
    process = cli.start("trace", looping.socket, "--here", "--engine", "log", "--for", "2")
    eventually(lambda: reads_the_log(process), "the trace does not begin", 15)
    since = time.monotonic()
    looping.process.send_signal(signal.SIGSTOP)
    ran = cli.ended(process, since)
    assert ran.code == 3
    assert ran.seconds < 2 + LITTLE
    looping.process.send_signal(signal.SIGCONT)  # and what pvhdbg could not put back, its keeper does now
    eventually(lambda: not cli.processes() and busy(looping.process.pid), "the machine does not run on", 20)
    left = look(looping.process.pid, looping.socket)
    assert (left.single, left.stops, left.logs) == (False, False, False)


@pytest.mark.parametrize("words", [("why",), ("wait", "--until", "0x200000")])
def test_a_qemu_of_ours_that_is_stopped_while_the_recorder_watches(cli: Cli, words: tuple[str, ...]) -> None:
    kernel = cli.file("loop.elf", kernel_elf(b"\x90" * 32 + b"\xeb\xde"))
    process = cli.start(*words, kernel, "--for", "2")
    eventually(lambda: _watched(cli) is not None, "the watch does not begin", 15)
    qemu, since = _watched(cli), time.monotonic()
    assert qemu is not None
    os.kill(qemu, signal.SIGSTOP)
    ran = cli.ended(process, since)
    assert ran.code == 3
    assert ran.seconds < 2 + LITTLE
    eventually(lambda: not cli.processes(), "something is left running", 20)


def _watched(cli: Cli) -> int | None:
    """The QEMU of ours, once it has executed the kernel's first instruction under the recorder."""
    for pid in cli.processes():
        for folder, _, names in os.walk(cli.tmp):
            for one in (Path(folder, name) for name in names):
                with suppress(OSError, ValueError):  # it may be gone already
                    if one.stat().st_size <= 1 << 26:
                        continue
                    with one.open("rb") as file:
                        header = RecordingHeader.decode(file.read(4096))
                    if header.magic == MAGIC and header.base != NEVER and "qemu" in os.readlink(f"/proc/{pid}/exe"):
                        return pid
    return None


def test_a_qemu_that_is_stopped_before(cli: Cli, looping: Machine) -> None:
    looping.process.send_signal(signal.SIGSTOP)
    ran = cli("wait", looping.socket, "--here", "--until", "0x200000", "--for", "2")
    looping.process.send_signal(signal.SIGCONT)
    assert ran.code == 3
    assert ran.seconds < 2 + LITTLE
    assert "pvhdbg release" in ran.err


def test_replies_that_never_arrive_sound_at_gdb(cli: Cli, machine: Callable[..., Machine]) -> None:
    found = machine("-accel", "tcg")
    total = 0

    def damaged(data: bytes) -> bytes:
        nonlocal total
        total += len(data)
        return data.replace(b"#", b"#z") if total > 20_000 else data

    with Relay(found.socket, cli.folder, lambda data: data, damaged) as relay:
        ran = cli("wait", relay.address, "--kernel", HELLO, "--until", "0x200000", "--for", "2", "--via", "gdb")
    assert total > 20_000
    assert ran.code in (2, 3)
    assert ran.seconds < 2 + 2 * LITTLE


def test_who_disturbs_another_debugger_is_told_what_follows(cli: Cli, looping: Machine) -> None:
    """QEMU takes the second client when the first has left, and stops the guest for it, gone or not."""
    first = RemoteTarget.connect(StubAddress(path=looping.socket))
    ran = cli("wait", looping.socket, "--here", "--until", "0x200000", "--for", "1")
    assert f"pvhdbg release {looping.socket}" in ran.err
    assert not cli.processes(), "a keeper would let the machine run that the other debugger leaves stopped"
    first.close(Leave.RUNNING)
    cli("release", looping.socket).ok()
    eventually(lambda: busy(looping.process.pid), "it does not run on")
