"""Resets in the middle of a trace: what each engine sees of them, and that two of them see the same beyond."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import NOTHING, SafeText
from pvhdbg.model import GuestEnd
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.boots import Boots
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.breakpoints import BreakpointEngine
from pvhdbg.tracing.engines.engine import Bounds, Engine
from pvhdbg.tracing.engines.fault_log import FaultLines
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.resets import ThroughResets, blocks_through_resets, why_reset
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.event import Batch, Changes, EndReason, Event, Fault, FaultKind, Reset
from pvhdbg.tracing.milestones import Finder, Milestone
from tests.support.cli_runner import TRIPLE_FAULT, kernel_elf

AtEntry = Callable[..., RemoteTarget]
ENTRY = 0x100000
QBOOT = {"microvm": ("-bios", "qboot.rom"), "pc": ()}  # firmware of 15 000 instructions; newer QEMUs take SeaBIOS, of six million
# inc edx; mov edx, 0xcf9; mov al, 6; out dx, al; jmp .
BY_PORT = b"\x42\xba\xf9\x0c\x00\x00\xb0\x06\xee\xeb\xfe"
MAKE: dict[str, Callable[[RemoteTarget, int], Engine]] = {
    "log": lambda target, base: LogEngine(target, states=True, base=base),
    "places": lambda target, base: LogEngine(target, states=False, base=base),
    "step": lambda target, base: StepEngine(target, base=base),
    "breakpoints": lambda target, base: BreakpointEngine(target, base=base, entry=ENTRY),
}


@pytest.fixture
def booted(at_entry: AtEntry, tmp_path: Path) -> AtEntry:
    """Machine code at its entry, in a QEMU that resets when the guest asks for it."""

    def boot(code: bytes, machine: str = "microvm", reboot: str = "reset") -> RemoteTarget:
        kernel = tmp_path / "kernel.elf"
        kernel.write_bytes(kernel_elf(code))
        return at_entry(kernel, machine=machine, extra=(*QBOOT[machine], "-action", f"reboot={reboot}"))

    return boot


def traced(target: RemoteTarget, name: str, bounds: Bounds, go: bool = True) -> tuple[list[Event], list[Reset], ThroughResets]:
    engine = ThroughResets(target, lambda base: MAKE[name](target, base), go=go)
    events: list[Event] = []
    resets: list[Reset] = []
    for batch in engine.batches(bounds):
        events += batch
        resets += [] if batch.reset is None else [batch.reset]
    assert not target.breakpoints
    return events, resets, engine


@pytest.mark.parametrize("name", ["places", "step"])
@pytest.mark.parametrize("code", [BY_PORT, TRIPLE_FAULT], ids=["port", "triple fault"])
def test_two_observers_see_the_same_beyond_a_reset(booted: AtEntry, name: str, code: bytes) -> None:
    bounds = Bounds(count=600, seconds=20)
    one, other = (traced(booted(code, machine="pc"), which, bounds) for which in ("log", name))
    assert [event[:4] for event in one[0]] == [event[:4] for event in other[0]]
    assert one[1] == other[1]
    (reset,) = one[1]
    begun = 4 if code is BY_PORT else 2
    assert (reset.seq, reset.number, reset.goes_on) == (begun, 1, True)
    assert reset.pc == one[0][begun - 1].pc
    assert reset.why == ("" if code is BY_PORT else "a triple fault, begun by #BP breakpoint at 0x100007")
    assert (one[0][begun].pc, one[0][begun].mode) == (0xFFFFFFF0, Mode.REAL)
    assert one[0][begun - 1].changes is None  # what the reset made of the registers, the instruction did not
    if name == "step":
        for a, b in zip(one[0], other[0], strict=True):
            assert (
                a.changes is None
                or b.changes is None
                or dict(a.changes) == {key: b.changes[key] for key in b.changes.keys() - {"cr8", "k_gs_base"}}
            )


@pytest.mark.parametrize("name", ["log", "breakpoints"])
def test_the_entry_is_come_to_again_and_the_numbers_run_on(booted: AtEntry, name: str) -> None:
    target = booted(TRIPLE_FAULT)
    engine = ThroughResets(target, lambda base: MAKE[name](target, base), go=True)
    boots, found, seqs = Boots(Finder, ENTRY), [], []
    resets: list[Reset] = []
    for batch in engine.batches(Bounds(seconds=20)):
        found += [one for one in boots.feed(batch) if one.name == "entry"]
        seqs += [event.seq for event in batch]
        resets += [] if batch.reset is None else [batch.reset]
        if len(found) == 3:
            break
    assert seqs == list(range(len(seqs)))
    assert [one.detail for one in found] == ["", "boot 2", "boot 3"]
    assert [one.pc for one in found] == [ENTRY] * 3
    assert found[0].seq < resets[0].seq <= found[1].seq < resets[1].seq <= found[2].seq
    if name == "log":
        assert resets[1].seq - found[1].seq == resets[0].seq == 2
        assert found[1].seq > 1000  # the firmware is in the trace


@pytest.mark.parametrize("name", ["log", "step", "breakpoints"])
def test_stopping_there_says_where(booted: AtEntry, name: str) -> None:
    events, resets, engine = traced(booted(BY_PORT, machine="pc"), name, Bounds(seconds=20), go=False)
    last = events[-1]
    assert resets == [Reset(len(events), 1, last.pc, last.mode)]
    assert engine.end.why is EndReason.RESET
    assert last.pc == (ENTRY if name == "breakpoints" else ENTRY + 8)


def test_a_vmm_that_does_not_reboot_says_why_or_is_asked(booted: AtEntry) -> None:
    _, resets, engine = traced(booted(TRIPLE_FAULT, reboot="shutdown"), "log", Bounds(seconds=20))
    assert [(one.goes_on, "triple fault" in one.why) for one in resets] == [(False, True)]
    assert (engine.end.why, ["-no-reboot" in one for one in engine.warnings]) == ("shutdown", [True])
    target = booted(BY_PORT, machine="pc", reboot="shutdown")
    asked = ThroughResets(target, lambda base: MAKE["log"](target, base), watched=lambda: nullcontext(lambda: GuestEnd.RESET))
    assert [batch.reset.seq for batch in asked.batches(Bounds(seconds=20)) if batch.reset] == [4]
    _, resets, _ = traced(booted(BY_PORT, machine="pc", reboot="shutdown"), "log", Bounds(seconds=20))
    assert resets == []  # it is not known to be one: it may have been a shutdown


def test_blocks_go_on_over_a_reset(booted: AtEntry) -> None:
    engine = BlockCoverageEngine(booted(TRIPLE_FAULT))
    resets, pcs = [], []
    for found in blocks_through_resets(engine, Bounds(count=400, seconds=20), go=True, ended=lambda: None):
        if isinstance(found, Reset):
            resets.append(found)
        else:
            pcs += [block.pc for block in found]
    assert resets[0] == Reset(1, 1, 0x100007, None, SafeText("a triple fault, begun by #BP breakpoint at 0x100007"), True)
    assert (pcs[0], pcs[1]) == (ENTRY, 0xFFFFFFF0)
    assert pcs.count(ENTRY) > 1
    assert engine.end.why is EndReason.COUNT


def test_a_trace_from_the_reset_vector_itself(at_entry: AtEntry, tmp_path: Path) -> None:
    from pvhdbg.targets.run import reset_machine
    from pvhdbg.targets.target import RESET_RIP

    kernel = tmp_path / "k.elf"
    kernel.write_bytes(kernel_elf())
    target = at_entry(kernel, extra=("-action", "reboot=reset"))
    reset_machine(target)
    assert target.read_registers()["rip"] == RESET_RIP
    events, _, engine = traced(target, "log", Bounds(count=5, seconds=20), go=False)
    assert (engine.end.why, events[0].pc, len(events)) == ("count", 0xFFFFFFF0, 5)


# --- without a machine --------------------------------------------------------------------------------------------


def batch(seq: int, *pcs: int) -> Batch:
    return Batch(seq, pcs, [Mode.PROTECTED] * len(pcs), [b"\x90"] * len(pcs), [Changes({})] * len(pcs))


def test_firmware_has_no_milestones() -> None:
    boots = Boots(lambda: Finder({5: "five"}), 1)
    assert [one.name for one in boots.feed(batch(0, 1, 5))] == ["entry", "five"]
    assert boots.feed(Batch(2, [], [], [], reset=Reset(2, 1, 5, Mode.PROTECTED, goes_on=True))) == []
    assert boots.feed(batch(2, 0xFFF0, 5, 9)) == []
    again = boots.feed(batch(5, 7, 1, 5))
    assert again == [Milestone("entry", 6, 1, SafeText("boot 2"), Mode.PROTECTED), Milestone("five", 7, 5, NOTHING, Mode.PROTECTED)]
    unknown = Boots(Finder, None)
    unknown.feed(Batch(0, [], [], [], reset=Reset(0, 1, None, None, goes_on=True)))
    assert unknown.feed(batch(0, 1, 2)) == []
    assert not unknown.complete


def test_the_reason_is_the_fault_that_began_it() -> None:
    chain = (
        Fault(1, FaultKind.EXCEPTION, 14, 2, 0x1000, 0x2000),
        Fault(1, FaultKind.EXCEPTION, 8, 0, 0x1000),
        Fault(1, FaultKind.TRIPLE_FAULT),
    )
    assert why_reset(chain) == "a triple fault, begun by #PF page fault at 0x1000 (a write at 0x2000: not present)"
    assert why_reset(chain[2:]) == "a triple fault"
    assert why_reset(()) == ""


def test_another_cpus_init_is_no_reset_and_disassembly_is_passed_over() -> None:
    lines = FaultLines()
    text = (
        b"CPU Reset (CPU 1)\nEAX=00000000 EBX=00000000 ECX=00000000 EDX=00000000\nEFER=0000000000000000\n"
        + b"IN: \n0x1:  90  nop\n\n" * 300
    )
    for at in range(len(text)):
        assert lines.feed(text[at : at + 1], 0) == []
    (fault,) = lines.feed(b"CPU Reset (CPU 0)\nEAX=00000007\nEFER=0000000000000000\nFCW=037f\nFPR0=0\nXMM00=0\n", 9)
    assert (fault.seq, fault.kind, fault.state["rax"]) == (9, "reset", 7)


def test_many_resets_are_no_foreign_log() -> None:
    lines, dump = FaultLines(), b"CPU Reset (CPU 0)\nEFER=0000000000000000\nFCW=037f FSW=0000\n" + b"FPR0=0\nXMM00=0\n" * 20
    assert len(lines.feed(dump * 50, 0)) == 50
