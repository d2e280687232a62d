"""The iterator over events, as a test of one's own uses it."""

import os
from pathlib import Path

import pytest

from pvhdbg import guests
from pvhdbg.booted import Guest, launch
from pvhdbg.errors import BadInput, GuestDied
from pvhdbg.tracing.event import Event, Fault

pytestmark = pytest.mark.boot

TO_LONG_MODE = 10284  # see tests/tracing/test_log_engine.py


def left_as_it_was(guest: Guest) -> None:
    assert "single step" not in guest.target.monitor("info status")
    before = guest.registers["rip"]
    guest.target.step()
    # The guest ran on a little behind the trace: on a slow machine to its end, where it halts.
    assert guest.registers["rip"] != before or "HLT=1" in guest.target.monitor("info registers")


def test_all_instructions_to_a_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with launch(guests.path("long_mode"), memory="64M") as guest:
        folder = tmp_path / "logs"
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        with guest.trace("long", states=True) as trace:
            events = [one for one in trace if isinstance(one, Event)]
            assert trace.end.why == "enough"
            assert [one.seq for one in events] == list(range(TO_LONG_MODE + 1))
            assert events[-1].pc == guest.symbol("in_long_mode")
            assert events[-1].mode.value == "long"
            writes = [one for one in events if "cr0" in (one.changes or {})]
            assert [one.changes["cr0"] for one in writes if one.changes] == [0x80000011]
            left_as_it_was(guest)
        assert os.listdir(folder) == []


def test_it_ends_at_a_place_and_goes_on_from_there() -> None:
    with launch(guests.path("long_mode"), memory="64M") as guest:
        places = [one.pc for one in guest.trace("far_jump") if isinstance(one, Event)]
        assert len(places) == TO_LONG_MODE - 1
        assert guest.registers["rip"] == guest.symbol("far_jump")
        with guest.trace(count=2, states=True) as trace:
            assert [(one.seq, one.pc) for one in trace if isinstance(one, Event)] == [
                (0, 0x100042),
                (1, guest.symbol("in_long_mode")),
            ]
        assert trace.end.why == "count"


def test_who_leaves_early_stops_the_machine() -> None:
    with launch(guests.path("crashers"), append="crash=endless-loop", memory="64M") as guest:
        with guest.trace() as trace:
            assert next(trace).seq == 0
        assert trace.end.why == "enough"
        assert list(trace) == []
        left_as_it_was_in_a_loop = guest.target.monitor("info status")
        assert "single step" not in left_as_it_was_in_a_loop
        for one in guest.trace(timeout=5):
            assert isinstance(one, Event)
            break
        del one
        assert "paused" in guest.target.monitor("info status")  # it answers: it stands still


def test_faults_stand_where_they_were_taken() -> None:
    with launch(guests.path("crashers"), append="crash=wild-esp", memory="64M") as guest:
        with guest.trace(states=True) as trace:
            events = list(trace)
        assert trace.end.why == "shutdown"
        faults = [one for one in events if isinstance(one, Fault)]
        assert [one.vector for one in faults] == [14, 8, None]
        pushed = events.index(faults[0]) - 1
        assert events[pushed].pc == guest.symbol("wild_push")


def test_what_was_traced_is_counted_by_the_recorder_of_a_wait() -> None:
    with launch(guests.path("crashers"), append="crash=hlt", memory="64M") as guest:
        whole = len(list(guest.trace()))
    with launch(guests.path("crashers"), append="crash=hlt", memory="64M") as guest:
        list(guest.trace(count=5))
        with pytest.raises(GuestDied, match=f" {whole} instructions after the entry, at .* with interrupts off"):
            guest.until(0x200000, timeout=5)


def test_bad_wishes() -> None:
    with launch(guests.path("long_mode"), memory="64M") as guest, pytest.raises(BadInput, match="no symbol nowhere"):
        guest.trace("nowhere")
