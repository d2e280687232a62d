"""Instruction counts once interrupts are on: equal on every run with QEMU's -icount, by whichever log they are counted."""

import json
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
from pvhdbg.tracing.engines.step import StepEngine
from tests.support.cli_runner import Cli, kernel_elf
from tests.support.programs import need

pytestmark = pytest.mark.boot
TICKS = 5
BEFORE_TICK = 12_400  # an instruction, some hundred before the first tick
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


def test_every_engine_sees_the_same_instructions_over_an_interrupt(timer: Path) -> None:
    """A step that takes an interrupt executes nothing, and the interrupted instruction is not an event then."""
    about, seen = SubjectOptions(str(timer)), []
    for by_steps in (True, False):
        with stopped_at(about, BEFORE_TICK, lambda _: None, 20) as machine:
            engine = StepEngine(machine.target) if by_steps else LogEngine(machine.target, states=True)
            batches = list(engine.batches(Bounds(count=400, seconds=20)))
        seen.append(
            (
                [(one.seq, one.pc) for batch in batches for one in batch],
                [(one.seq, one.kind) for batch in batches for one in batch.faults],
            )
        )
    assert seen[0] == seen[1]
    assert [kind for _, kind in seen[0][1]] == ["interrupt"]


@pytest.mark.parametrize("words", [("--engine", "log"), ("--engine", "log", "--via", "gdb"), ("--engine", "step")])
def test_no_stop_moves_the_clock_of_a_trace_with_an_engine_of_the_users_choice(
    cli: Cli, timer: Path, words: tuple[str, ...]
) -> None:
    """The timer runs when the machine is stopped in the loop, and its next tick is thousands of instructions away."""
    if "gdb" in words:
        need("gdb")
    out = timer.with_suffix(".jsonl")
    loop, count = "0x10006b", 100
    cli("trace", timer, "--deterministic", "--what", "pc", "--from", loop, "--until", str(count), "-o", out, *words).ok()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert not [one for one in records if "fault" in one]
    assert [one["pc"] for one in records if "code" in one] == (["0x10006b", "0x10006c", "0x10006f"] * count)[:count]


def test_a_deterministic_trace_without_the_recorder_says_that_its_clock_moves(cli: Cli, timer: Path) -> None:
    told = cli("trace", timer, "--deterministic", "--what", "pc", "--until", "9", "--no-recorder", "--engine", "log").ok()
    assert "each stop of the machine moves its clock" in told.out + told.err
