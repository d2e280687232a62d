"""The log engine on real machines: what it sees, and that it leaves QEMU as it was on every way out."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.errors import TargetError
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.event import EndReason, Event

AtEntry = Callable[..., RemoteTarget]

# By long_mode.S: 4 instructions, the 3 + 4 * 5 + 2 + 2048 * 5 + 1 of map_4g, and 14 from enable_pae to the far jump.
TO_LONG_MODE = 4 + 3 + 4 * 5 + 2 + 2048 * 5 + 1 + 14
ENTRY = 0x100000


def events(engine: LogEngine, bounds: Bounds) -> list[Event]:
    return [event for batch in engine.batches(bounds) for event in batch]


def untouched(target: RemoteTarget) -> None:
    """No single-step mode, no log: what the guest does next is not written anywhere."""
    assert "single step mode" not in target.monitor("info status")
    assert "one-insn-per-tb: on" not in target.monitor("info jit")
    assert not target.breakpoints


@pytest.mark.parametrize("states", [False, True])
def test_every_instruction_from_the_entry_to_64_bit_code(at_entry: AtEntry, states: bool) -> None:
    target = at_entry("long_mode")
    engine = LogEngine(target, states=states)
    seen = events(engine, Bounds(seconds=20))
    assert engine.end.why is EndReason.HALTED
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert seen[0].pc == ENTRY
    modes = [event.mode for event in seen]
    assert modes.index(Mode.LONG) == TO_LONG_MODE
    assert modes.index(Mode.COMPATIBILITY) == TO_LONG_MODE - 2
    assert all(event.code for event in seen)
    if states:
        writes = {name: event for event in reversed(seen) for name in event.changes or ()}
        assert writes["cr4"].seq < writes["cr3"].seq < writes["efer"].seq < writes["cr0"].seq < writes["gdt_base"].seq
        assert writes["cr0"].changes == {"cr0": 0x80000011, "efer": 0x500}
        assert writes["cs"].seq == TO_LONG_MODE - 1
        assert seen[-1].changes == {}  # hlt
    untouched(target)


def test_it_stops_before_an_address_and_goes_on_from_there(at_entry: AtEntry) -> None:
    target = at_entry("long_mode")
    target_pc = ENTRY + 0xC  # call map_4g
    engine = LogEngine(target, states=True)
    first = events(engine, Bounds(addresses=[target_pc], seconds=20))
    assert (engine.end.why, engine.end.pc, len(first)) == ("address", target_pc, 3)
    assert first[-1].changes == {}  # cld
    more = LogEngine(target, states=False, base=3)
    rest = events(more, Bounds(count=10, seconds=20))
    assert (more.end.why, [event.seq for event in rest], rest[0].pc) == ("count", list(range(3, 13)), target_pc)
    untouched(target)


def test_a_reader_that_has_enough_leaves_it_clean(at_entry: AtEntry) -> None:
    target = at_entry("crashers", "crash=endless-loop")
    engine = LogEngine(target, states=False)
    for batch in engine.batches(Bounds(seconds=20)):
        if len(batch) > 1 and batch.pcs[-1] == batch.pcs[-2]:
            break  # the CPU is in the loop, and waits for room in the FIFO more often than not
    assert engine.end.why is EndReason.ENOUGH
    untouched(target)


def test_a_triple_fault_ends_it_with_its_chain(at_entry: AtEntry) -> None:
    target = at_entry("crashers", "crash=wild-esp")
    engine = LogEngine(target, states=True)
    batches = list(engine.batches(Bounds(seconds=20)))
    seen = [event for batch in batches for event in batch]
    faults = [fault for batch in batches for fault in batch.faults]
    assert engine.end.why is EndReason.SHUTDOWN
    assert [(fault.kind, fault.vector) for fault in faults] == [("exception", 14), ("exception", 8), ("triple fault", None)]
    assert {fault.seq for fault in faults} == {len(seen)}
    assert (faults[0].error, faults[0].cr2, seen[-1].code) == (2, 0xD0000000 - 4, b"\x50")
    assert seen[-1].mode is Mode.PAGED


def test_asked_to_stop_it_ends_with_what_there_is(at_entry: AtEntry) -> None:
    target = at_entry("crashers", "crash=endless-loop")
    engine = LogEngine(target, states=False)
    timer = threading.Timer(0.3, engine.stop)
    timer.start()
    seen = events(engine, Bounds(seconds=20))
    timer.join()
    assert engine.end.why is EndReason.INTERRUPTED
    assert len(seen) > 1000
    untouched(target)


def test_what_a_killed_tracer_left_on_is_found_and_switched_off(at_entry: AtEntry) -> None:
    target = at_entry("long_mode")
    mode = "singlestep" if "unknown" not in target.monitor("help singlestep") else "one-insn-per-tb"
    target.monitor(f"{mode} on")
    engine = LogEngine(target, states=False)
    assert len(events(engine, Bounds(count=5))) == 5
    assert "one-instruction mode already" in engine.warnings[0]
    untouched(target)


def test_a_log_that_cannot_be_opened_is_told(at_entry: AtEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    target = at_entry("long_mode")
    monkeypatch.setattr("pvhdbg.tracing.engines.log_switch._quoted", lambda _: '"/nonexistent/log"')
    with pytest.raises(TargetError, match="does not take `log") as caught, LogSwitch(target, "exec", single=True):
        pass
    assert "--engine step" in caught.value.todo
    untouched(target)


def test_debians_kernel_comes_to_64_bit_code_at_the_same_count_each_time(at_entry: AtEntry, vmlinux: Path) -> None:
    counts = []
    for states in (True, False):
        engine = LogEngine(at_entry(vmlinux, memory="512M"), states=states)
        for batch in engine.batches(Bounds(seconds=30)):
            if Mode.LONG in batch.modes:
                counts.append(batch.seq + batch.modes.index(Mode.LONG))
                break
    assert counts[0] == counts[1]
    assert 10 < counts[0] < 100  # the kernel switches in its PVH entry code, before it does anything else
