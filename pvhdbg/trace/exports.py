"""A saved trace in the formats of other tools: Perfetto and Chrome (JSON), Tenet, drcov (Lighthouse), CSV, folded stacks.

Each is a function from records to pieces of text or bytes, so that a trace of any length is written as it is read. Time in them
is the sequence number: one microsecond is one instruction.
"""

from __future__ import annotations

import csv
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pvhdbg.errors import BadInput
from pvhdbg.trace.event import Event, Fault
from pvhdbg.trace.milestones import Milestone
from pvhdbg.trace.opcodes import kind_of
from pvhdbg.trace.trace_file import Record

Name = Callable[[int], "str | None"]
_TENET = ("rax", "rbx", "rcx", "rdx", "rbp", "rsp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)), "rip")
_DEEPEST = 256  # calls that a stack may hold; deeper ones are counted with their caller


def perfetto(records: Iterable[Record], name: Name) -> Iterator[str]:
    """Chrome trace events: functions and modes as slices, milestones and faults as instants. Opens in ui.perfetto.dev."""
    yield '{"displayTimeUnit":"ns","traceEvents":[\n'
    yield _json({"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "functions"}})
    yield ",\n" + _json({"ph": "M", "pid": 1, "tid": 2, "name": "thread_name", "args": {"name": "mode"}})
    for row in _slices(records, name):
        yield ",\n" + _json(row)
    yield "\n]}\n"


def _slices(records: Iterable[Record], name: Name) -> Iterator[dict[str, Any]]:
    open_slices: dict[int, tuple[str, int]] = {}
    end = 0
    for record in records:
        if isinstance(record, Event):
            symbol = name(record.pc)
            here = {1: "?" if symbol is None else symbol.partition("+")[0], 2: record.mode.value}
            for thread, label in here.items():
                was = open_slices.get(thread)
                if was is None or was[0] != label:
                    if was is not None:
                        yield _slice(thread, was, record.seq)
                    open_slices[thread] = (label, record.seq)
            end = record.seq + 1
        elif isinstance(record, Milestone | Fault):
            label = record.name if isinstance(record, Milestone) else record.kind
            yield {"ph": "i", "pid": 1, "tid": 1, "s": "p", "ts": record.seq, "name": label}
    for thread, was in open_slices.items():
        yield _slice(thread, was, end)


def _slice(thread: int, was: tuple[str, int], end: int) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": thread, "ts": was[1], "dur": end - was[1], "name": was[0]}


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


def tenet(records: Iterable[Record], _: Name) -> Iterator[str]:
    """Tenet's text deltas, with the names of 64-bit registers: each line is where the CPU is and what changed since the line before."""
    changed: dict[str, int] = {}
    for record in records:
        if not isinstance(record, Event):
            continue
        if record.changes is None and not changed:
            raise BadInput("Tenet shows registers, and this trace has places only", "trace with --what state")
        state = {**changed, "rip": record.pc}
        yield ",".join(f"{register}={state[register]:#x}" for register in _TENET if register in state) + "\n"
        changed = {**(record.changes or {}), "rip": record.pc}


def drcov(records: Iterable[Record], _: Name) -> Iterator[bytes]:
    """drcov version 2, as Lighthouse loads it: one module that spans all code, and each instruction that was executed as a block."""
    blocks: dict[int, int] = {}
    for record in records:
        if isinstance(record, Event):
            blocks.setdefault(record.pc, max(len(record.code), 1))
    if not blocks:
        raise BadInput("the trace has no instructions", "trace with --what pc or state")
    modules = _modules(sorted(blocks))
    yield b"DRCOV VERSION: 2\nDRCOV FLAVOR: drcov\n"
    yield f"Module Table: version 2, count {len(modules)}\nColumns: id, base, end, entry, path\n".encode()
    for number, (start, end) in enumerate(modules):
        yield f"{number}, {start:#x}, {end:#x}, 0x0, guest-{start:x}\n".encode()
    yield f"BB Table: {len(blocks)} bbs\n".encode()
    for pc, size in sorted(blocks.items()):
        number = next(index for index, (start, end) in enumerate(modules) if start <= pc < end)
        yield struct.pack("<IHH", pc - modules[number][0], size, number)


def _modules(pcs: list[int]) -> list[tuple[int, int]]:
    """Stretches of addresses of less than 4 GiB each: a block's offset has 32 bits."""
    modules: list[tuple[int, int]] = []
    for pc in pcs:
        page, end = pc & ~0xFFF, (pc | 0xFFF) + 1
        if modules and pc - modules[-1][0] < 1 << 31 and pc - modules[-1][1] < 1 << 24:
            modules[-1] = (modules[-1][0], max(end, modules[-1][1]))
        else:
            modules.append((page, end))
    return modules


class _Sink(list[str]):
    """What csv writes to: a list of its lines."""

    write = list.append


def table(records: Iterable[Record], name: Name) -> Iterator[str]:
    """CSV: one row for each instruction."""
    sink = _Sink()
    yield "seq,pc,mode,symbol,code,changes\r\n"
    for record in records:
        if isinstance(record, Event):
            changes = " ".join(f"{key}={value:#x}" for key, value in (record.changes or {}).items())
            row = [record.seq, hex(record.pc), record.mode.value, name(record.pc) or "", record.code.hex(), changes]
            csv.writer(sink).writerow(row)
            yield sink.pop()


def folded(records: Iterable[Record], name: Name) -> Iterator[str]:
    """Folded stacks for flame graphs: how many instructions each chain of calls took, by the calls and returns that were seen."""
    counts: Counter[str] = Counter()
    stack: list[str] = []
    before = ""
    for record in records:
        if not isinstance(record, Event):
            continue
        symbol = name(record.pc)
        here = "?" if symbol is None else symbol.partition("+")[0].replace(";", ":")
        if before == "call" and len(stack) < _DEEPEST:
            stack.append(here)
        elif before == "return" and len(stack) > 1:
            stack.pop()
        if stack:
            stack[-1] = here  # a tail call takes its caller's place
        else:
            stack.append(here)
        counts[";".join(stack)] += 1
        before = kind_of(record.code, record.mode.bits)
    yield from (f"{line} {count}\n" for line, count in sorted(counts.items()))


FORMATS: dict[str, Callable[[Iterable[Record], Name], Iterator[str] | Iterator[bytes]]] = {
    "perfetto": perfetto, "tenet": tenet, "drcov": drcov, "csv": table, "folded": folded,
}  # fmt: skip


def export(format: str, records: Iterable[Record], name: Name) -> Iterator[bytes]:
    """A trace in one of FORMATS, as bytes. Raises BadInput where it lacks what the format shows."""
    empty = True
    for piece in FORMATS[format](records, name):
        empty = False
        yield piece if isinstance(piece, bytes) else piece.encode("utf-8", "backslashreplace")
    if empty:
        raise BadInput("the trace has nothing for this format", "trace with --what pc or state")
