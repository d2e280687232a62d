"""Saved traces: what is written is what is read, validated, and read as far as it goes when it is cut at any byte."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Changes, EndReason, Event, Fault, FaultKind, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.trace_file import Encoder, Ending, Head, Load, Record, decode, encode, is_trace, lines
from tests.support.schemas import validator

VALIDATOR = validator("trace")
LOADS = (Load(0xFFFFFFFF81000000, 0x1000000, 0x1826634, True), Load(0, 0x301A000, 0x34000, False))
STATE = {"rsp": 0x6EDC, "cs_flags": 0xC09B00}
RECORDS: list[Record] = [
    Head("log", "state", 0x100000, "QEMU 7.2.22", "/boot/vmlinux", 64, LOADS),
    Event(0, 0x100000, Mode.PROTECTED, b"\xfc", Changes({"rsp": (1 << 64) - 1}, STATE)),
    Milestone("cr0.pg", 1, 0x100001, SafeText("cr0 0x80000011"), Mode.PAGED),
    Event(1, 0x100001, Mode.PAGED),
    Milestone("serial:crash", 1, None, SafeText("crash: hlt"), None, 2),
    Milestone("rest_init", 1, 0x100002, counted=False),
    Fault(2, FaultKind.EXCEPTION, 14, 2, 0x1000FE, 0xCFFFFFFC, {"rax": 1}),
    Fault(2, FaultKind.TRIPLE_FAULT),
    Reset(2, 1, 0x100001, Mode.PAGED, SafeText("a triple fault"), True),
    Reset(2, 2, None, None),
    ReachedFunction(0, "main", 0x100000, 0),
    Ending(EndReason.SHUTDOWN, 2),
]
TEXT = "".join(encode(record, state=True) for record in RECORDS)


def plain(record: Record) -> object:
    if not isinstance(record, Event):
        return record
    return (record[:4], record.changes, None if record.delta is None else record.delta.state(), record.cpu)


def test_what_is_written_is_what_is_read_and_what_the_schema_says() -> None:
    assert [plain(record) for record in decode(TEXT.splitlines(True))] == [plain(record) for record in RECORDS]
    for line in TEXT.splitlines():
        VALIDATOR.validate(json.loads(line))
    assert is_trace(TEXT.encode()[:64])
    assert not is_trace(b'{"schema":"pvhdbg/snapshot/1"')


@given(st.integers(0, len(TEXT) - 1))
def test_a_trace_that_is_cut_anywhere_gives_all_its_whole_lines(at: int) -> None:
    whole = TEXT[:at].count("\n")
    cut = TEXT[:at].splitlines(True)
    if whole:
        assert [plain(record) for record in decode(cut)] == [plain(record) for record in RECORDS[:whole]]
    elif cut:
        with pytest.raises(BadInput):
            list(decode(cut))


_FAULT = '{"fault":"%s","seq":0,"vector":null,"error":null,"pc":null,"cr2":null,"state":{}}'


@pytest.mark.parametrize(
    "line",
    [
        _FAULT % "frob",
        "{}",
        "[]",
        "1",
        '{"seq":-1,"pc":"0x0","mode":"real"}',
        '{"seq":0,"pc":"0x0","mode":"unreal"}',
        "\xff",
        "x" * 70000,
    ],
)
def test_damage_in_the_middle_is_named(line: str) -> None:
    lines = TEXT.splitlines(True)
    with pytest.raises(BadInput, match="line 3 "):
        list(decode([*lines[:2], line + "\n", *lines[2:]]))


def test_other_files_and_versions_are_refused() -> None:
    with pytest.raises(BadInput, match="not a saved trace"):
        list(decode([encode(RECORDS[1])]))
    with pytest.raises(BadInput, match="pvhdbg/trace/9"):
        list(decode([TEXT.splitlines(True)[0].replace("trace/1", "trace/9")]))
    with pytest.raises(BadInput, match="second head"):
        list(decode([TEXT.splitlines(True)[0]] * 2))


def test_the_schema_knows_every_kind_of_record_and_every_field_of_it() -> None:
    kinds = {kind["required"][0]: kind for kind in VALIDATOR.schema["oneOf"]}
    assert kinds.keys() == {"schema", "seq", "milestone", "fault", "reset", "function", "end"}
    written: dict[str, set[str]] = {kind: set() for kind in kinds}
    cpu = Event(2, 1, Mode.LONG, cpu=1)
    reset = Reset(2, 1, 1, Mode.LONG)
    for line in (*TEXT.splitlines(), encode(cpu, "main"), encode(RECORDS[2], "main"), encode(reset, "main")):
        row = json.loads(line)
        kind = next(name for name in ("schema", "milestone", "fault", "reset", "function", "end", "seq") if name in row)
        written[kind] |= row.keys()
    assert written == {kind: set(kinds[kind]["properties"]) for kind in kinds}  # no kind is declared that is never written


numbers = st.integers(0, (1 << 64) - 1)
seqs = st.integers(0, (1 << 53) - 1)
words = st.text(max_size=9)
texts = words.map(safe)
values = st.dictionaries(texts, numbers, max_size=3)
modes = st.sampled_from(Mode)
records = st.one_of(
    st.builds(Event, seqs, numbers, modes, st.binary(max_size=15), st.none() | st.builds(Changes, values, values), st.integers(0, 255)),
    st.builds(Milestone, words, seqs, numbers, texts, st.none() | modes),
    st.builds(Milestone, words, seqs, st.none(), texts, st.none(), seqs),
    st.builds(Reset, seqs, st.integers(1, 99), st.none() | numbers, st.none() | modes, texts, st.booleans()),
    st.builds(
        Fault, seqs, st.sampled_from(FaultKind),
        st.none() | st.integers(0, 255), st.none() | st.integers(0, 0xFFFF), st.none() | numbers, st.none() | numbers, values,
    ),
    st.builds(ReachedFunction, seqs, words, numbers, seqs),
    st.builds(Ending, st.sampled_from(EndReason), seqs),
)  # fmt: skip


@given(records, st.none() | words)
def test_any_record_is_valid_and_comes_back(record: Record, symbol: str | None) -> None:
    line = encode(record, symbol, state=True)
    VALIDATOR.validate(json.loads(line))
    names: dict[int, str] = {}
    (_, read) = decode([encode(RECORDS[0]), line], names)
    assert plain(read) == plain(record)
    place = record.pc if isinstance(record, Event | Milestone | Reset) else None
    assert names == ({place: symbol} if symbol is not None and place is not None else {})


def test_the_schema_knows_every_kind_of_fault_and_leaves_ends_open() -> None:
    for kind in FaultKind:
        VALIDATOR.validate(json.loads(_FAULT % kind.value))
    end = '{"end":"a word of a later version","events":3}\n'
    VALIDATOR.validate(json.loads(end))
    assert list(decode([encode(RECORDS[0]), end]))[1] == Ending(EndReason.CUT, 3)


def test_state_is_kept_where_nothing_leads_up_to_it() -> None:
    lines = Encoder({1: "main"}.get)

    def row(seq: int, mode: Mode = Mode.PROTECTED) -> dict[str, object]:
        return dict(json.loads(lines.line(Event(seq, 1, mode, delta=Changes({}, {"rax": seq})))))

    assert row(0) == {"seq": 0, "pc": "0x1", "mode": "protected", "symbol": "main", "changes": {}, "state": {"rax": "0x0"}}
    assert "state" not in row(1)
    assert row(7)["state"] == {"rax": "0x7"}  # what the ones before it changed is not in the file
    assert "state" not in row(8)
    assert row(9, Mode.LONG)["state"] == {"rax": "0x9"}  # r8 to r15 are seen from here on
    assert "state" not in row(10, Mode.LONG)
    lines.line(Reset(11, 1, 1, Mode.LONG, goes_on=True))
    assert row(11, Mode.REAL)["state"] == {"rax": "0xb"}


def test_a_kernel_of_any_number_of_segments_has_a_head_that_is_read() -> None:
    head = Head("log", "pc", loads=tuple(Load((1 << 64) - at, at, 1 << 63, False) for at in range(1, 5000)))
    (read,) = decode([encode(head)])
    assert isinstance(read, Head)
    assert read.loads == head.loads[:256]
    VALIDATOR.validate(json.loads(encode(head)))


def test_a_trace_of_before_loads_and_states_were_kept_is_read() -> None:
    old = '{"schema":"pvhdbg/trace/1","engine":"log","what":"pc","entry":null,"vmm":null,"kernel":null}\n'
    VALIDATOR.validate(json.loads(old))
    assert list(decode([old])) == [Head("log", "pc")]


def test_a_line_without_end_is_not_held() -> None:
    text = encode(Head("log", "pc")) + " " * (8 << 20)
    pieces = list(lines(io.StringIO(text, newline="\n")))
    assert max(map(len, pieces)) <= (1 << 16) + 1
    assert "".join(pieces) == text
    with pytest.raises(BadInput, match="line 2 of the trace is damaged"):
        list(decode(pieces))
