"""Saved traces: what is written is what is read, validated, and read as far as it goes when it is cut at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pvhdbg
from pvhdbg.errors import BadInput
from pvhdbg.trace.event import Changes, Event, Fault, Mode
from pvhdbg.trace.milestones import Milestone
from pvhdbg.trace.trace_file import Ending, Head, Record, decode, encode, is_trace

SCHEMA = json.loads((Path(pvhdbg.__file__).parent / "report/schemas/trace-1.json").read_text())
RECORDS: list[Record] = [
    Head("log", "state", 0x100000, "QEMU 7.2.22", "/boot/vmlinux"),
    Event(0, 0x100000, Mode.PROTECTED, b"\xfc", Changes({"rsp": (1 << 64) - 1})),
    Milestone("cr0.pg", 1, 0x100001, "cr0 0x80000011", Mode.PAGED),
    Event(1, 0x100001, Mode.PAGED),
    Fault(2, "exception", 14, 2, 0x1000FE, 0xCFFFFFFC, {"rax": 1}),
    Fault(2, "triple fault"),
    Ending("shutdown", 2),
]
TEXT = "".join(encode(record) for record in RECORDS)


def plain(record: Record) -> object:
    return (record[:4], record.changes, record.cpu) if isinstance(record, Event) else record


def test_what_is_written_is_what_is_read_and_what_the_schema_says() -> None:
    assert [plain(record) for record in decode(TEXT.splitlines(True))] == [plain(record) for record in RECORDS]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    for line in TEXT.splitlines():
        validator.validate(json.loads(line))
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


@pytest.mark.parametrize("line", ["{}", "[]", "1", '{"seq":-1,"pc":"0x0","mode":"real"}', '{"seq":0,"pc":"0x0","mode":"unreal"}', "\xff", "x" * 70000])
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
