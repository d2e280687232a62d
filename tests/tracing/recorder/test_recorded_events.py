"""Events of a recording that grows between two looks."""

from types import SimpleNamespace
from typing import cast

from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recorded_parts import RecordedBlock, State, System
from pvhdbg.tracing.recording import Recording

ENTRY = 0x100000
HIGH = 0xFFFFFFFF80000000
LONG = b"CS =0010 0000000000000000 ffffffff 00af9b00\nCR0=80000011 CR2=0 CR3=1000 CR4=00000020\nEFER=0000000000000500\n"


def test_a_guest_that_runs_on_between_two_reads_is_found_in_the_higher_half() -> None:
    """System instructions are read first: those of this guest, and its jump behind them, came right after that."""
    block = RecordedBlock(number=0, linear=HIGH, physical=0x200000, first=9, runs=1, instructions=2, size=8, cpu=0)
    systems: list[System] = []
    recording = SimpleNamespace(
        entered=True, entry=ENTRY, marks=(), header=SimpleNamespace(system_count=0), systems=lambda: systems, states=list,
        block=lambda number: block, blocks=lambda start: [block][start:],
    )  # fmt: skip
    events = RecordedEvents(cast("Recording", recording), {"cr0": 0x11, "eflags": 2})
    assert [event.pc for event in events.before()] == [ENTRY]
    systems.append(System(5, ENTRY + 0x20, 0, b"\x0f\x22\xc0", State(8, ENTRY + 0x30, 0, LONG)))
    recording.header.system_count = 1
    assert (9, HIGH) in [(event.seq, event.pc) for event in events.before()]
    assert HIGH not in [event.pc for event in events.before()]  # it is given once
