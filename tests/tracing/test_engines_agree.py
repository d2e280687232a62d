"""Two independent observers of one boot: QEMU's log, and single steps over the remote protocol. They must see the same events."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pvhdbg.kernel.image import open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.engines.engine import Bounds, Engine
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.event import Event

AtEntry = Callable[..., RemoteTarget]

COUNT = 20_000
# What only one of them shows: QEMU's log has no cr8 and no kernel_gs_base.
ONLY_STEP = {"cr8", "k_gs_base"}


def seen(engine: LogEngine | StepEngine, count: int = COUNT) -> list[Event]:
    return [event for batch in engine.batches(Bounds(count=count, seconds=90)) for event in batch]


def compare(by_log: list[Event], by_step: list[Event]) -> None:
    assert len(by_log) == len(by_step)
    for one, other in zip(by_log, by_step, strict=True):
        assert (one.seq, hex(one.pc), one.mode, one.code) == (other.seq, hex(other.pc), other.mode, other.code)
        if one.changes is not None and other.changes is not None:
            stepped = {name: value for name, value in other.changes.items() if name not in ONLY_STEP}
            assert dict(one.changes) == stepped, f"event {one.seq} at {one.pc:#x}"


def test_long_mode_to_its_halt(at_entry: AtEntry) -> None:
    log, step = LogEngine(at_entry("long_mode"), states=True), StepEngine(at_entry("long_mode"))
    by_log, by_step = seen(log), seen(step)
    assert (log.end.why, log.end.pc) == (step.end.why, step.end.pc) == ("halted", by_log[-1].pc + 1)
    assert len(by_log) > 14_000
    compare(by_log, by_step)


def test_the_distributions_kernel(at_entry: AtEntry, vmlinux: Path) -> None:
    with open_kernel(str(vmlinux)) as image:
        # QEMU 10 shows a block that it knows by another address once only: the file has its code.
        log = LogEngine(at_entry(vmlinux, memory="512M"), states=True, peek=Names(image).code)
        by_log, by_step = seen(log), seen(StepEngine(at_entry(vmlinux, memory="512M")))
    assert len(by_log) == COUNT
    compare(by_log, by_step)


def test_a_triple_fault(at_entry: AtEntry) -> None:
    log = LogEngine(at_entry("crashers", "crash=wild-esp"), states=True)
    step = StepEngine(at_entry("crashers", "crash=wild-esp"))
    by_log, by_step = seen(log), seen(step)
    assert log.end.why == step.end.why == "shutdown"
    compare(by_log[:-1], by_step[:-1])
    assert by_log[-1].pc == by_step[-1].pc


def test_a_guest_that_dies_right_behind_the_last_event_is_known_to_be_dead(at_entry: AtEntry) -> None:
    """It runs on until it is stopped, and a machine that was shut down answers no step."""
    whole = seen(LogEngine(at_entry("crashers", "crash=wild-esp"), states=True))
    log = LogEngine(at_entry("crashers", "crash=wild-esp"), states=True)
    assert [event[:4] for event in seen(log, len(whole) - 5)] == [event[:4] for event in whole[:-5]]
    assert log.end.why == "count"
    assert log.beyond is not None
    batch, end = log.beyond
    assert end.why == "shutdown"
    assert [event[:4] for event in batch] == [event[:4] for event in whole[-5:]]
    assert "triple fault" in {fault.kind for fault in batch.faults}


def test_a_jump_to_itself_is_stepped_each_time(at_entry: AtEntry) -> None:
    by_step = seen(StepEngine(at_entry("crashers", "crash=endless-loop")), 600)
    assert len(by_step) == 600
    assert [event.code for event in by_step[-3:]] == [b"\xeb\xfe"] * 3


@pytest.mark.parametrize("crash", ["wild-esp", "page-fault", "wrmsr"])
def test_faults_stand_in_the_same_places(crash: str, at_entry: AtEntry) -> None:
    def faults(engine: Engine) -> list[tuple[int, str, int | None, int | None]]:
        return [(one.seq, one.kind, one.vector, one.pc) for batch in engine.batches(Bounds(count=2000)) for one in batch.faults]

    by_log = faults(LogEngine(at_entry("crashers", f"crash={crash}"), states=True))
    target = at_entry("crashers", f"crash={crash}")
    assert by_log
    assert faults(StepEngine(target)) == by_log
