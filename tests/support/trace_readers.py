"""Strict readers of the formats that a trace is exported in, written from their descriptions and sharing nothing with the writers.

Where the tool that a format is for takes something in a way of its own, its reader here does so too and says where that was read.
Anything else than the format raises AssertionError or ValueError.
"""

import csv
import io
import itertools
import json
import re
import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChromeTrace:
    """`slices` by the names of process and thread: (name, start, duration); `instants`: (name, when, arguments)."""

    process: str
    slices: dict[str, list[tuple[str, int, int]]]
    instants: list[tuple[str, int, dict[str, Any]]]
    other: dict[str, str]


def chrome(data: bytes) -> ChromeTrace:
    """Trace Event Format (Chromium), the JSON object form: metadata, complete events that do not overlap, instants."""
    whole = json.loads(data.decode("ascii"))
    assert whole.keys() <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert whole["displayTimeUnit"] in ("ms", "ns")
    names: dict[tuple[str, int], str] = {}
    slices: dict[int, list[tuple[str, int, int]]] = {}
    instants = []
    for row in whole["traceEvents"]:
        assert row["pid"] == 1
        if row["ph"] == "M":
            assert row["name"] in ("process_name", "thread_name", "thread_sort_index")
            if row["name"] != "thread_sort_index":
                names[row["name"], row["tid"]] = row["args"]["name"]
            continue
        assert type(row["ts"]) is int
        assert isinstance(row["name"], str)
        assert row["name"]
        if row["ph"] == "X":
            assert type(row["dur"]) is int
            assert row["dur"] >= 0
            assert row.keys() == {"ph", "pid", "tid", "ts", "dur", "name"}  # speedscope takes `args` for a part of the name
            slices.setdefault(row["tid"], []).append((row["name"], row["ts"], row["dur"]))
        else:
            assert (row["ph"], row["s"]) == ("i", "p")
            instants.append((row["name"], row["ts"], row["args"]))
    for rows in slices.values():
        rows.sort(key=lambda row: row[1:])
        for before, after in itertools.pairwise(rows):
            assert before[1] + before[2] <= after[1], (before, after)
    (process,) = (name for (what, _), name in names.items() if what == "process_name")
    return ChromeTrace(process, {names["thread_name", tid]: rows for tid, rows in slices.items()}, instants, whole["otherData"])


def drcov(data: bytes) -> dict[str, tuple[int, dict[int, int]]]:
    """By a module's name its base and its blocks: offset and size. Format: drcov 2, module table 2 (DynamoRIO; Lighthouse reads it).

    Lighthouse splits a module's line at ", ", takes seven parts for a Windows one, and looks a module up by its file name.
    """
    stream = io.BytesIO(data)

    def line() -> str:
        raw = stream.readline()
        assert raw.endswith(b"\n")
        return raw[:-1].decode("utf-8")

    assert line() == "DRCOV VERSION: 2"
    assert line().startswith("DRCOV FLAVOR: ")
    table = re.fullmatch(r"Module Table: version 2, count ([0-9]+)", line())
    assert table
    assert line() == "Columns: id, base, end, entry, path"
    modules = []
    for number in range(int(table[1])):
        count, base, end, entry, path = line().split(", ")
        assert int(count) == number
        assert int(base, 16) < int(end, 16)
        assert int(entry, 16) == 0
        assert path == path.strip()
        modules.append((path.replace("\\", "/").rpartition("/")[2], int(base, 16), int(end, 16)))
    assert len({name for name, _, _ in modules}) == len(modules)
    blocks = re.fullmatch(r"BB Table: ([0-9]+) bbs", line())
    assert blocks
    rows = list(struct.iter_unpack("<IHH", stream.read()))
    assert len(rows) == int(blocks[1])
    found: dict[str, tuple[int, dict[int, int]]] = {name: (base, {}) for name, base, _ in modules}
    for offset, size, number in rows:
        name, base, end = modules[number]
        assert base + offset < end
        assert offset not in found[name][1]
        found[name][1][offset] = size
    return found


WIDE = ("rax", "rbx", "rcx", "rdx", "rbp", "rsp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)), "rip")
NARROW = ("eax", "ebx", "ecx", "edx", "ebp", "esp", "esi", "edi", "eip")


def tenet(data: bytes, registers: tuple[str, ...] = WIDE) -> list[dict[str, int]]:
    """All registers at each line (Tenet, tracers/README.md). Its trace/file.py takes the CPU from the disassembler's file, and 0
    for what the first line lacks."""
    state = dict.fromkeys(registers, 0)
    last = (1 << (64 if "rip" in registers else 32)) - 1
    rows = []
    for line in data.decode("ascii").splitlines(True):
        assert line.endswith("\n")
        parts = [part.split("=") for part in line[:-1].split(",")]
        assert {name for name, _ in parts} <= set(registers), line
        assert registers[-1] in {name for name, _ in parts}, line
        assert len({name for name, _ in parts}) == len(parts)
        state |= {name: int(value, 16) for name, value in parts}
        assert all(0 <= value <= last for value in state.values())
        rows.append(dict(state))
    return rows


def folded(data: bytes) -> dict[tuple[str, ...], int]:
    """Stacks, outermost first, and their counts: flamegraph.pl splits at the last blank, and takes two numbers for a comparison."""
    found: dict[tuple[str, ...], int] = {}
    for line in data.decode("utf-8").splitlines(True):
        match = re.fullmatch(r"(\S+) ([1-9][0-9]*)\n", line)
        assert match, line
        stack = tuple(match[1].split(";"))
        assert all(stack)
        assert stack not in found
        found[stack] = int(match[2])
    return found


def table(data: bytes) -> list[dict[str, str]]:
    """CSV by RFC 4180: a head, as many fields in each row, CRLF; no cell that a spreadsheet would compute."""
    text = data.decode("utf-8")
    assert text.endswith("\r\n")
    assert len(text.split("\r\n")) == len(text.splitlines()) + 1
    head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert all(len(row) == len(head) for row in rows)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    return [dict(zip(head, row, strict=True)) for row in rows]
