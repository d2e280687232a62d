"""Instruction counts once interrupts are on: equal on every run with QEMU's -icount, by whichever log they are counted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pvhdbg.driver.recorded_machine import stopped_at
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from tests.support.cli_runner import kernel_elf
from tests.support.programs import need

pytestmark = pytest.mark.boot
TICKS = 5
PER_TICK = 119 / 1193182 / 8e-9  # instructions of 2^3 ns each, in one period of the timer


@pytest.fixture
def timer(tmp_path: Path) -> Path:
    """timer.S as a kernel."""
    need("as", "ld")
    made, flat, kernel = tmp_path / "timer.o", tmp_path / "timer.bin", tmp_path / "timer.elf"
    subprocess.run(["as", "--32", "-mx86-used-note=no", "-o", made, Path(__file__).parent / "timer.S"], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0x100000", "--oformat", "binary", "-o", flat, made], check=True)
    kernel.write_bytes(kernel_elf(flat.read_bytes()))
    return kernel


def test_with_icount_a_boot_with_interrupts_is_the_same_each_time(at_entry: Callable[..., RemoteTarget], timer: Path) -> None:
    runs = []
    for states in (False, False, True):
        target = at_entry(timer, extra=("-icount", "shift=3,sleep=off"))
        engine = LogEngine(target, states=states)
        batches = list(engine.batches(Bounds(seconds=20)))
        ticks = [fault.seq for batch in batches for fault in batch.faults if fault.kind == "interrupt"]
        runs.append(([event.pc for batch in batches for event in batch], ticks, engine.end.why))
    assert runs[0] == runs[1] == runs[2]
    pcs, ticks, why = runs[0]
    assert (why, len(ticks)) == ("halted", TICKS)
    assert all(abs(after - before - PER_TICK) < 50 for before, after in pairwise(ticks))
    assert len(pcs) == pytest.approx(TICKS * PER_TICK, rel=0.01)


def test_steps_by_the_deterministic_clock_are_those_of_the_boot(timer: Path) -> None:
    """Over the timer's first interrupt: QEMU takes it in a step, and the machine is where one is that ran there without a stop."""
    about, silent = SubjectOptions(str(timer)), lambda _: None
    before = round(PER_TICK)
    with stopped_at(about, before, silent, 20) as machine:
        while machine.target.read_registers()["rbx"] == 0:
            assert machine.begun < before + 1000
            machine.target.step()
        for _ in range(20):
            machine.target.step()
        number, registers = machine.begun, machine.target.read_registers()
    with stopped_at(about, number, silent, 20) as machine:
        assert machine.target.read_registers() == registers
