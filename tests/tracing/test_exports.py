"""Exports, each read back by a strict reader of its format that is not the writer's; and queries on a trace."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import BadInput
from pvhdbg.report.exports.catalogue import FORMATS, export
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Changes, EndReason, Event, Fault, FaultKind, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.queries import around, divergence, parting, writes
from pvhdbg.tracing.trace_file import Ending, Head, Load, Record, decode, encode
from tests.support import trace_readers as readers
from tests.support.sorting import examples

P, L = Mode.PROTECTED, Mode.LONG
BASE = 0xFFFFFFFF81000000
HIGH = BASE + 0x1000
START = {name: number for number, name in enumerate(readers.WIDE[:-1], 1)}
LOADS = (Load(BASE, 0x100000, 0x80000, True), Load(BASE + 0x80000, 0x180000, 0x1000, False), Load(0, 0x181000, 0x1000, False))
HEAD = Head("log", "state", 0x100000, "QEMU 7.2.22", "/boot/vmlinux", 64, LOADS)
EVENTS = [
    Event(0, 0x100000, P, b"\xbc\x10\x90\x10\x00", Changes({"rsp": 0x109010}, START)),
    Event(1, 0x100005, P, b"\xe8\x00\x00\x00\x00", Changes({"rsp": 0x10900C})),
    Event(2, 0x200000, P, b"\x90", Changes({})),
    Event(3, 0x200001, P, b"\xc3", Changes({"rsp": 0x109010})),
    Event(4, 0x10000A, P, b"\x0f\x22\xc0", Changes({"cr0": 0x80000011})),
    Event(5, HIGH, L, b"\x90", Changes({"cr0": 0x80050033})),
]
RECORDS: list[Record] = [
    HEAD,
    *EVENTS[:5],
    Milestone("64-bit", 5, HIGH),
    EVENTS[5],
    Fault(6, FaultKind.TRIPLE_FAULT),
    Ending(EndReason.SHUTDOWN, 6),
]
NAMES = {0x100000: "main", 0x100005: "main+0x5", 0x10000A: "main+0xa", 0x200000: "helper", 0x200001: "helper+0x1", HIGH: "high"}


def exported(format: str, records: list[Record] = RECORDS, names: dict[int, str] = NAMES) -> bytes:
    return b"".join(export(format, records, names.get))


def test_perfetto_has_slices_that_cover_the_trace_and_instants() -> None:
    seen = readers.chrome(exported("perfetto"))
    assert seen.slices == {
        "functions": [("main", 0, 2), ("helper", 2, 2), ("main", 4, 1), ("high", 5, 1)],
        "mode": [("protected", 0, 5), ("long", 5, 1)],
    }
    assert [instant[:2] for instant in seen.instants] == [("64-bit", 5), ("triple fault", 6)]
    assert seen.process == "vmlinux"
    assert seen.other["unit"] == "1 us is 1 instruction"


def test_perfetto_says_what_a_fault_was() -> None:
    fault = Fault(6, FaultKind.EXCEPTION, 14, 2, 0x1000F4, 0xCFFFFFFC)
    assert readers.chrome(exported("perfetto", [HEAD, fault])).instants == [
        ("exception 0xe", 6, {"error": "0x2", "pc": "0x1000f4", "cr2": "0xcffffffc"})
    ]


def test_what_was_not_kept_is_no_part_of_a_slice_or_of_a_call() -> None:
    records: list[Record] = [HEAD, *EVENTS[:2], *(event._replace(seq=event.seq + 100) for event in EVENTS[4:])]
    assert readers.chrome(exported("perfetto", records)).slices["functions"] == [("main", 0, 2), ("main", 104, 1), ("high", 105, 1)]
    assert readers.folded(exported("folded", records)) == {("main",): 3, ("high",): 1}  # the call at 1 led elsewhere


def test_tenet_shows_all_registers_at_each_place() -> None:
    rows = readers.tenet(exported("tenet"))
    assert rows[0] == {**START, "rip": 0x100000}
    assert rows[1] == {**START, "rsp": 0x109010, "rip": 0x100005}
    assert [row["rip"] for row in rows] == [event.pc for event in EVENTS]
    assert [row["rsp"] for row in rows[1:]] == [0x109010, 0x10900C, 0x10900C, 0x109010, 0x109010]


def test_tenet_has_the_state_after_a_gap() -> None:
    later = EVENTS[5]._replace(seq=99, delta=Changes({}, {**START, "rsp": 7}))
    assert readers.tenet(exported("tenet", [HEAD, *EVENTS[:2], later]))[-1]["rsp"] == 7


def test_tenet_names_registers_by_the_width_of_the_kernels_file() -> None:
    head = Head("log", "state", elf_class=32)
    rows = readers.tenet(exported("tenet", [head, *EVENTS]), readers.NARROW)
    assert rows[0] == {**{f"e{name[1:]}": START[name] for name in readers.WIDE[:8]}, "eip": 0x100000}
    assert rows[5]["eip"] == HIGH & 0xFFFFFFFF


def test_tenet_needs_registers() -> None:
    for event in (Event(0, 1, P), Event(0, 1, P, delta=Changes({"rax": 1}))):
        with pytest.raises(BadInput, match="does not begin with any"):
            exported("tenet", [HEAD, event])


def test_drcov_counts_code_under_the_kernels_addresses_wherever_it_ran() -> None:
    base, blocks = readers.drcov(exported("drcov")).pop("vmlinux")
    assert base == BASE
    assert blocks == {0x0: 5, 0x5: 5, 0xA: 3, 0x1000: 1}
    assert readers.drcov(exported("drcov"))["outside-200000"] == (0x200000, {0: 1, 1: 1})
    again = [*RECORDS, Event(9, BASE + 5, L, EVENTS[1].code)]  # 0x100005 by its other address
    assert readers.drcov(exported("drcov", again)) == readers.drcov(exported("drcov"))


def test_drcov_begins_a_module_where_the_file_does_not_where_code_ran() -> None:
    head = Head("log", "pc", kernel="a, b", loads=(Load(0x100000, 0x100000, 0x1000, False), Load(0x101000, 0x101000, 0x1000, True)))
    assert readers.drcov(exported("drcov", [head, Event(0, 0x101010, P)])) == {"a_ b": (0x100000, {0x1010: 1})}


def test_drcov_splits_a_kernel_that_is_linked_further_apart_than_32_bits_reach() -> None:
    head = Head("log", "pc", kernel="k", loads=(Load(0x100000, 0x100000, 0x1000, True), Load(BASE, 0x200000, 0x1000, True)))
    found = readers.drcov(exported("drcov", [head, Event(0, 0x100000, P), Event(1, BASE + 1, L)]))
    assert found == {"k": (0x100000, {0: 1}), f"k-{BASE:x}": (BASE, {1: 1})}


def test_csv_is_read_back() -> None:
    rows = readers.table(exported("csv"))
    assert [int(row["pc"], 16) for row in rows] == [event.pc for event in EVENTS]
    assert (rows[1]["symbol"], rows[0]["changes"]) == ("main+0x5", "rsp=0x109010")


def test_folded_stacks_count_every_instruction_once() -> None:
    assert readers.folded(exported("folded")) == {("main",): 3, ("main", "helper"): 2, ("high",): 1}


def test_functions_of_a_boot() -> None:
    calls: list[Record] = [
        Head("first", "calls"), ReachedFunction(0, "a", 1, 0), ReachedFunction(1, "b", 2, 0), ReachedFunction(2, "=c", 3, 7), Ending(EndReason.TIME, 9),
    ]  # fmt: skip
    seen = readers.chrome(exported("perfetto", calls))
    assert seen.slices == {"functions": [("a", 0, 0), ("b", 0, 7), ("=c", 7, 1)]}
    assert seen.other["unit"] == "1 us is 1 block"
    assert [row["function"] for row in readers.table(exported("csv", calls))] == ["a", "b", "'=c"]
    for format in ("tenet", "drcov", "folded"):
        with pytest.raises(BadInput, match="functions only"):
            exported(format, calls)


@pytest.mark.parametrize("records", [[HEAD], [HEAD, Ending(EndReason.TIME, 0)]])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_empty_trace_is_refused(format: str, records: list[Record]) -> None:
    with pytest.raises(BadInput):
        exported(format, records)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_milestones_alone_are_shown_or_refused(format: str) -> None:
    records: list[Record] = [HEAD, Milestone("entry", 0, 0x100000), Ending(EndReason.TIME, 1)]
    if format == "perfetto":
        assert [instant[:2] for instant in readers.chrome(exported(format, records)).instants] == [("entry", 0)]
    else:
        with pytest.raises(BadInput):
            exported(format, records)


# --- what a stranger's file may hold --------------------------------------------------------------------------------

NASTY = (
    '=cmd|"/c calc"!A1',
    "+1",
    "-1",
    "@SUM(A1)",
    "a;b",
    "a 5",
    "a\nb",
    "a\r\n",
    'a"b',
    "a,b",
    "\ud800",
    "\x00",
    "\u2028",
    "",
    "é",
    "+",
    "a+0x",
    "x" * 5000,
    "\x1b[2J",
    "\t=1",
)
names = st.sampled_from(NASTY) | st.text(st.characters(), max_size=20)
numbers = st.integers(0, 3) | st.integers(0, (1 << 64) - 1)
values = st.dictionaries(names | st.sampled_from(readers.WIDE), numbers, max_size=3)
events = st.builds(
    Event, numbers.map(lambda value: value >> 11), numbers, st.sampled_from(Mode), st.binary(max_size=16),
    st.none() | st.builds(Changes, values, values), st.integers(0, 3),
)  # fmt: skip
loads = st.builds(Load, numbers, numbers, numbers, st.booleans())
heads = st.builds(
    Head, names, st.sampled_from(("state", "pc", "calls")), st.none() | numbers, st.none() | names, st.none() | names,
    st.sampled_from((None, 32, 64)), st.lists(loads, max_size=4).map(tuple),
)  # fmt: skip
seqs = st.integers(0, (1 << 53) - 1)
others = st.one_of(
    st.builds(Milestone, names, seqs, numbers, names),
    st.builds(
        Fault,
        seqs,
        st.sampled_from(FaultKind),
        st.none() | st.integers(0, 255),
        st.none() | st.integers(0, 99),
        st.none() | numbers,
        st.none() | numbers,
    ),
    st.builds(ReachedFunction, seqs, names, numbers, seqs),
)


@settings(max_examples=examples(50), deadline=None)
@given(heads, st.lists(events | others, max_size=8), names)
@example(HEAD, [EVENTS[0]], "a;b 7\n=1")
def test_no_name_and_no_number_breaks_a_format(head: Head, records: list[Record], symbol: str) -> None:
    """Each format is well-formed or refused in words, and holds as many instructions as the trace."""
    lines = "".join(encode(record, symbol if isinstance(record, Event) else None, True) for record in (head, *records))
    shown: dict[int, str] = {}
    seen = list(decode(lines.splitlines(True) if "\r" not in lines else lines.split("\n"), shown))
    count = sum(isinstance(record, Event) for record in seen)
    for format in FORMATS:
        try:
            data = exported(format, seen, shown)
        except BadInput:
            continue
        if format == "perfetto":
            json.loads(data.decode("ascii"))
        elif format == "tenet":
            assert len(readers.tenet(data, readers.NARROW if head.elf_class == 32 else readers.WIDE)) == count
        elif format == "drcov":
            readers.drcov(data)
        elif format == "folded":
            assert sum(readers.folded(data).values()) == count
        else:
            readers.table(data)


@pytest.mark.parametrize("number", ["-0x5", "0x1_0", "5", " 0x5", "0x10000000000000000", "0x"])
def test_numbers_that_no_machine_has_are_damage(number: str) -> None:
    line = json.dumps({"seq": 0, "pc": number, "mode": "long"}) + "\n"
    with pytest.raises(BadInput, match="line 2 "):
        list(decode([encode(HEAD), line, line]))


def test_drcov_refuses_more_stretches_of_code_than_it_can_count() -> None:
    scattered: list[Record] = [HEAD, *(Event(seq, seq << 32, P) for seq in range((1 << 16) + 1))]
    with pytest.raises(BadInput, match="separate stretches"):
        exported("drcov", scattered)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_long_trace_takes_no_more_memory_than_a_short_one(format: str) -> None:
    """What is kept grows with the code, not with the instructions: here four of them, over and over, calling ever deeper."""

    def endless(count: int) -> Iterator[Record]:
        yield HEAD
        for seq in range(count):
            event = EVENTS[seq % 4 if seq % 4 != 3 else 2]
            yield Event(seq, event.pc, event.mode, event.code, event.delta)

    peaks = Counter[int]()
    for count in (1_000, 6_000):
        tracemalloc.start()
        for _ in export(format, endless(count), NAMES.get):
            pass
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[6_000] < peaks[1_000] + 50_000


# --- queries --------------------------------------------------------------------------------------------------------


def over_a_reset() -> list[Record]:
    again = [event._replace(seq=event.seq + 6) for event in EVENTS]
    again[0] = again[0]._replace(delta=Changes(again[0].changes or {}, {"rbx": 7}))
    return [*RECORDS[:-1], Reset(6, 1, HIGH, L, SafeText("a triple fault"), True), *again, Ending(EndReason.COUNT, 12)]


def test_nothing_is_carried_over_a_reset() -> None:
    rows = json.loads(exported("perfetto", over_a_reset()))["traceEvents"]
    modes = [(row["name"], row["ts"], row["dur"]) for row in rows if row["ph"] == "X" and row["tid"] == 2]
    assert modes == [("protected", 0, 5), ("long", 5, 1), ("protected", 6, 5), ("long", 11, 1)]
    assert [(row["ts"], row["args"]) for row in rows if row["name"] == "reset"] == [(6, {"why": "a triple fault"})]
    in_a_call: list[Record] = [Event(0, 0x100005, P, b"\xe8\0\0\0\0"), Reset(1, 1, 0x100005, P), Event(1, 0x200000, P, b"\x90")]
    assert exported("folded", in_a_call) == b"main 1\nhelper 1\n"
    assert exported("tenet", over_a_reset()).splitlines()[6] == b"rbx=0x7,rip=0x100000"
    unseen = [one._replace(delta=Changes({})) if isinstance(one, Event) and one.seq == 6 else one for one in over_a_reset()]
    with pytest.raises(BadInput, match="does not begin with any"):
        exported("tenet", unseen)
    assert [write.old for write in writes(over_a_reset(), "cr0")] == [None, 0x80000011, None, 0x80000011]
    assert divergence(over_a_reset(), over_a_reset()) is None


def test_who_changed_a_register() -> None:
    found = [(write.event.seq, write.old, write.new) for write in writes(RECORDS, "cr0")]
    assert found == [(4, None, 0x80000011), (5, 0x80000011, 0x80050033)]
    assert next(writes(RECORDS, "rsp")).old == START["rsp"]  # by the state that the first event keeps
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
    assert ([event.seq for event in parted.shared], parted.why) == ([1, 2], "it changed rsp differently")
    assert divergence([EVENTS[0]], [EVENTS[0]._replace(pc=1)]).why == "another pc"  # type: ignore[union-attr]
    assert divergence([EVENTS[0]], [EVENTS[0]._replace(delta=None)]) is None  # places only: nothing speaks against it


def test_where_two_lists_part() -> None:
    assert parting(["a", "b"], ["a", "b"]) is None
    assert parting(["a", "b"], ["a", "c"]) == 1
    assert parting(["a"], ["a", "b"]) == 1
