"""Exports, each read back by the rules of its format, and queries on a trace."""

from __future__ import annotations

import csv
import json
import struct

import pytest

from pvhdbg.errors import BadInput
from pvhdbg.trace.event import Changes, Event, Fault, Mode
from pvhdbg.trace.exports import FORMATS, export
from pvhdbg.trace.milestones import Milestone
from pvhdbg.trace.queries import around, divergence, writes
from pvhdbg.trace.trace_file import Ending, Head, Record

P, L = Mode.PROTECTED, Mode.LONG
HIGH = 0xFFFFFFFF81000000
EVENTS = [
    Event(0, 0x100000, P, b"\xbc\x10\x90\x10\x00", Changes({"rsp": 0x109010})),
    Event(1, 0x100005, P, b"\xe8\x00\x00\x00\x00", Changes({"rsp": 0x10900C})),
    Event(2, 0x200000, P, b"\x90", Changes({})),
    Event(3, 0x200001, P, b"\xc3", Changes({"rsp": 0x109010})),
    Event(4, 0x10000A, P, b"\x0f\x22\xc0", Changes({"cr0": 0x80000011})),
    Event(5, HIGH, L, b"\x90", Changes({"cr0": 0x80050033})),
]
RECORDS: list[Record] = [Head("log", "state"), *EVENTS[:5], Milestone("64-bit", 5, HIGH), EVENTS[5], Fault(6, "triple fault"), Ending("shutdown", 6)]
NAMES = {0x100000: "main", 0x100005: "main+0x5", 0x10000A: "main+0xa", 0x200000: "helper", 0x200001: "helper+0x1", HIGH: "high"}


def exported(format: str, records: list[Record] = RECORDS) -> bytes:
    return b"".join(export(format, records, NAMES.get))


def test_perfetto_has_slices_that_cover_the_trace_and_instants() -> None:
    rows = json.loads(exported("perfetto"))["traceEvents"]
    functions = [row for row in rows if row["ph"] == "X" and row["tid"] == 1]
    assert [(row["name"], row["ts"], row["dur"]) for row in functions] == [("main", 0, 2), ("helper", 2, 2), ("main", 4, 1), ("high", 5, 1)]
    modes = [(row["name"], row["ts"], row["dur"]) for row in rows if row["ph"] == "X" and row["tid"] == 2]
    assert modes == [("protected", 0, 5), ("long", 5, 1)]
    assert [(row["name"], row["ts"]) for row in rows if row["ph"] == "i"] == [("64-bit", 5), ("triple fault", 6)]


def test_tenet_shows_each_place_with_what_changed_before_it() -> None:
    lines = exported("tenet").decode().splitlines()
    assert lines[0] == "rip=0x100000"
    assert lines[1] == "rsp=0x109010,rip=0x100005"
    assert lines[5] == f"rip={HIGH:#x}"
    assert len(lines) == len(EVENTS)


def test_drcov_blocks_lie_in_their_modules() -> None:
    data = exported("drcov")
    head, blocks = data.split(b"bbs\n", 1)
    lines = head.decode().splitlines()
    assert lines[0] == "DRCOV VERSION: 2"
    count = int(lines[2].rpartition(" ")[2])
    modules = [[int(field, 0) for field in line.split(", ")[:3]] for line in lines[4 : 4 + count]]
    assert int(lines[4 + count].split()[2]) == len(EVENTS)
    covered = {modules[number][1] + start: size for start, size, number in struct.iter_unpack("<IHH", blocks)}
    assert covered == {event.pc: len(event.code) for event in EVENTS}


def test_csv_is_read_back() -> None:
    rows = list(csv.DictReader(exported("csv").decode().splitlines()))
    assert [int(row["pc"], 16) for row in rows] == [event.pc for event in EVENTS]
    assert (rows[1]["symbol"], rows[0]["changes"]) == ("main+0x5", "rsp=0x109010")


def test_folded_stacks_count_every_instruction_once() -> None:
    rows = dict(line.rsplit(" ", 1) for line in exported("folded").decode().splitlines())
    assert rows == {"main": "3", "main;helper": "2", "high": "1"}


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_trace_without_instructions_is_refused_or_empty(format: str) -> None:
    if format == "perfetto":
        assert json.loads(exported(format, RECORDS[:1]))["traceEvents"]
    elif format == "csv":
        assert exported(format, RECORDS[:1]).count(b"\n") == 1
    else:
        with pytest.raises(BadInput):
            exported(format, RECORDS[:1])


def test_tenet_needs_registers() -> None:
    with pytest.raises(BadInput, match="places only"):
        exported("tenet", [Event(0, 1, P), Event(1, 2, P)])


def test_who_changed_a_register() -> None:
    found = [(write.event.seq, write.old, write.new) for write in writes(RECORDS, "cr0")]
    assert found == [(4, None, 0x80000011), (5, 0x80000011, 0x80050033)]
    assert list(writes(RECORDS, "cr4")) == []


def test_the_instructions_around_a_number() -> None:
    assert [event.seq for event in around(RECORDS, 3, 1, 1)] == [2, 3, 4]
    assert [event.seq for event in around(RECORDS, 0, 5, 1)] == [0, 1]


def test_where_two_traces_part() -> None:
    assert divergence(RECORDS, RECORDS) is None
    shorter = divergence(RECORDS, RECORDS[:4])
    assert shorter is not None
    assert (shorter.one, shorter.other, shorter.why) == (EVENTS[3], None, "one trace ends here")
    other = [*EVENTS[:3], EVENTS[3]._replace(delta=Changes({"rsp": 1})), *EVENTS[4:]]
    parted = divergence(EVENTS, other, shared=2)
    assert parted is not None
    assert ([event.seq for event in parted.shared], parted.why) == ([1, 2], "it changed rsp otherwise")
    assert divergence([EVENTS[0]], [EVENTS[0]._replace(pc=1)]).why == "another place"  # type: ignore[union-attr]
    assert divergence([EVENTS[0]], [EVENTS[0]._replace(delta=None)]) is None  # places only: nothing speaks against it
