"""A machine at an exact instruction: the recorder stops it where the step engine counts, with the same registers."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from pvhdbg.driver.recorded_machine import RecordedMachine, deterministic, recorded_machine, stopped_at
from pvhdbg.guests import path as guest
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.vmm.options import RecorderOptions

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("qemu")]

HELLO = SubjectOptions(str(guest("hello")))
LONG_MODE = SubjectOptions(str(guest("long_mode")))


def at(options: SubjectOptions, number: int) -> dict[str, int]:
    """The registers before instruction `number`."""
    with stopped_at(options, number, lambda _: None, 30) as machine:
        assert machine.begun == number
        return dict(machine.target.read_registers().values)


def walked_to(machine: RecordedMachine, number: int) -> dict[str, int]:
    """The registers of a machine at its entry that the step engine then takes there."""
    engine = StepEngine(machine.target)
    for _ in engine.batches(Bounds(count=number, seconds=60)):
        pass
    assert engine.end.why is EndReason.COUNT
    return dict(machine.target.read_registers().values)


@pytest.mark.parametrize("number", [1000, 1700])
def test_the_stop_is_where_the_step_engine_counts(vmlinux: Path, number: int) -> None:
    options = SubjectOptions(str(vmlinux), launch=LaunchOptions(append="console=ttyS0"))
    with stopped_at(options, 0, lambda _: None, 30) as machine:
        expected = walked_to(machine, number)
    assert at(options, number) == expected


def test_over_the_switch_to_long_mode() -> None:
    with stopped_at(LONG_MODE, 10_275, lambda _: None, 30) as machine:
        for number in range(10_275, 10_290):
            seen = dict(machine.target.read_registers().values)
            if number % 4 == 0:
                assert at(LONG_MODE, number) == seen, number
            machine.target.step()


def test_a_qemu_that_gets_no_time_is_left_alone(vmlinux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence is not a halt: a stop of ours moves the guest's clock, and the exact stop may come at the same time."""
    options, number, timers = SubjectOptions(str(vmlinux), launch=LaunchOptions(append="console=ttyS0")), 15_000_000, list[Timer]()

    def told(plain: RecorderOptions, _names: Names) -> RecorderOptions:
        return replace(plain, exact=True, stop=number)

    with recorded_machine(deterministic(options), told, lambda _: None) as machine:

        def starved() -> bool:
            if not timers and machine.recording.entered:
                os.kill(machine.qemu.pid, signal.SIGSTOP)
                timers.append(Timer(0.8, os.kill, (machine.qemu.pid, signal.SIGCONT)))
                timers[0].start()
            return False

        monkeypatch.setattr(machine.target, "interrupt", lambda: pytest.fail("it was stopped"))
        machine.run(60, starved)
        assert timers
        assert (machine.begun, dict(machine.target.read_registers().values)) == (number, at(options, number))


def test_firmware_waits_as_long_for_a_device_whose_work_is_late() -> None:
    """QEMU's main thread resets the IDE disk that SeaBIOS waits for. It gets hardly any time beside the CPU's thread."""

    def told(plain: RecorderOptions, _names: Names) -> RecorderOptions:
        return replace(plain, exact=True, halts=(plain.entry or 0,))

    counts = []
    for late in (False, True, True):
        with recorded_machine(deterministic(HELLO), told, lambda _: None) as machine:
            pid = machine.qemu.pid
            if late:
                one = {min(os.sched_getaffinity(pid))}
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), one)
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            assert machine.run(30, lambda: False).why is EndReason.ADDRESS
            counts.append(machine.recording.header.base)
    assert len(set(counts)) == 1


def test_marks_tell_the_last_execution_before_the_stop() -> None:
    """In map_4g's loop of five instructions; a place that comes later was never executed."""
    with stopped_at(LONG_MODE, 9_999, lambda _: None, 30, marks=(0x10007A, 0x1000A9)) as machine:
        loop, later = machine.recording.marks
        assert 9_994 <= loop.last < 9_999
        assert loop.last_pc == 0x10007A
        assert (later.last, later.seen) == (NEVER, 0)
