"""A saved trace: JSON Lines, one object a line; a file that is cut at any byte is readable up to there.

::

    {"schema": "pvhdbg/trace/1", "engine": "log", "what": "state", "entry": "0x100000", …}     the head
    {"seq": 0, "pc": "0x100000", "mode": "protected", "code": "bc10901000", "changes": {"rsp": "0x109010"}, "state": {…}}
    {"milestone": "cr0.pg", "seq": 10279, "pc": "0x100035", "mode": "protected", "detail": "cr0 0x80000011"}
    {"milestone": "serial:Linux version", "seq": 901822, "until": 903410, "detail": "[    0.000000] Linux version …"}
    {"fault": "exception", "seq": 365, "vector": 14, "error": 2, "pc": "0x1000fe", "cr2": "0xcffffffc", "state": {…}}
    {"reset": 1, "seq": 365, "pc": "0x1000fe", "mode": "paged", "why": "a triple fault, …", "goes_on": true}
    {"function": "start_kernel", "order": 27, "pc": "0xffffffff8304ee41", "block": 412}
    {"end": "shutdown", "events": 365}

Numbers that are addresses or register values are hexadecimal strings: JSON's own have 53 bits. Sequence numbers are numbers.
`state` holds the registers before an event whose registers do not follow from the events before: the first one, the first after a
gap, and the first 64-bit one (32-bit dumps do not show r8 to r15).
The schema is report/schemas/trace-1.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Changes, EndReason, Event, Fault, FaultKind, Reset
from pvhdbg.tracing.milestones import Milestone

SCHEMA = "pvhdbg/trace/1"
_LINE_BOUND = 1 << 16  # characters
_LOADS_BOUND = 256
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}")


@dataclass(frozen=True)
class Load:
    """A PT_LOAD of the traced kernel: its link-time address, its address and size in memory, and whether it is code."""

    virtual: int
    physical: int
    size: int
    execute: bool


@dataclass(frozen=True)
class Head:
    """The origin of a trace: engine, what it shows, entry, VMM, kernel; all but the first two may be unknown.

    `elf_class` (32 or 64) and `loads` are those of the kernel's file; None and empty where it was not available.
    """

    engine: str
    what: str
    entry: int | None = None
    vmm: str | None = None
    kernel: str | None = None
    elf_class: int | None = None
    loads: tuple[Load, ...] = ()

    @property
    def of_functions(self) -> bool:
        """Whether it is a trace of functions (`--what calls`), not of instructions."""
        return self.what == "calls"


@dataclass(frozen=True)
class Ending:
    """Why the trace ended, and its number of events."""

    why: EndReason
    events: int


Record = Head | Event | Milestone | Fault | Reset | ReachedFunction | Ending


def encode(record: Record, symbol: str | None = None, state: bool = False) -> str:
    """One line; the arguments are those of `row`."""
    return json.dumps(row(record, symbol, state), separators=(",", ":")) + "\n"


def row(record: Record, symbol: str | None = None, state: bool = False) -> dict[str, Any]:
    """The object of one line.

    `symbol` names the pc of an event, a milestone or a reset; with `state` an event keeps the registers before it.
    """
    found = _object(record, symbol)
    if state and isinstance(record, Event) and record.delta is not None:
        found["state"] = _hex(record.delta.state())
    return found


class Encoder:
    """Records as lines, in order. An event whose registers do not follow from the events before keeps its state."""

    def __init__(self, name: Callable[[int], str | None]) -> None:
        self._name = name
        self._next: int | None = None
        self._bits = 0

    def line(self, record: Record) -> str:
        """As `encode`, with the symbol of an event, a milestone or a reset."""
        return json.dumps(self.row(record), separators=(",", ":")) + "\n"

    def row(self, record: Record) -> dict[str, Any]:
        """As `row`, with the symbol of an event, a milestone or a reset."""
        if isinstance(record, Reset):
            self._next = None  # the next state does not follow from the events before
        if isinstance(record, Event):
            alone = record.seq != self._next or record.mode.bits > self._bits
            self._next, self._bits = record.seq + 1, record.mode.bits
            return row(record, self._name(record.pc), alone)
        pc = record.pc if isinstance(record, Milestone | Reset) else None
        return row(record, None if pc is None else self._name(pc))


def _object(record: Record, symbol: str | None) -> dict[str, Any]:
    named = {} if symbol is None else {"symbol": symbol}
    if isinstance(record, Event):
        row: dict[str, Any] = {"seq": record.seq, "pc": hex(record.pc), "mode": record.mode.value, **named}
        if record.code:
            row["code"] = record.code.hex()
        changes = record.changes
        if changes is not None:
            row["changes"] = _hex(changes)
        if record.cpu:
            row["cpu"] = record.cpu
        return row
    if isinstance(record, Milestone):
        mode = {} if record.mode is None else {"mode": record.mode.value}
        place: dict[str, Any] = {"until": record.until} if record.pc is None else {"pc": hex(record.pc)}
        place |= {} if record.counted else {"counted": False}
        return {"milestone": record.name, "seq": record.seq, **place, **mode, "detail": record.detail, **named}
    if isinstance(record, Fault):
        row = {"fault": record.kind.value, "seq": record.seq, "vector": record.vector, "error": record.error}
        row |= {name: None if value is None else hex(value) for name, value in (("pc", record.pc), ("cr2", record.cr2))}
        return {**row, "state": _hex(record.state)}
    if isinstance(record, Reset):
        place = {"pc": None if record.pc is None else hex(record.pc), "mode": None if record.mode is None else record.mode.value}
        return {"reset": record.number, "seq": record.seq, **place, **named, "why": record.why, "goes_on": record.goes_on}
    if isinstance(record, ReachedFunction):
        return {"function": record.name, "order": record.order, "pc": hex(record.pc), "block": record.block}
    if isinstance(record, Ending):
        return {"end": record.why.value, "events": record.events}
    entry = None if record.entry is None else hex(record.entry)
    loads = [
        {"virtual": hex(one.virtual), "physical": hex(one.physical), "size": hex(one.size), "execute": one.execute}
        for one in record.loads[:_LOADS_BOUND]
    ]
    return {
        "schema": SCHEMA, "engine": record.engine, "what": record.what, "entry": entry, "vmm": record.vmm, "kernel": record.kernel,
        "elf_class": record.elf_class, "loads": loads,
    }  # fmt: skip


def _hex(values: Mapping[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in values.items()}


def is_trace(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a saved trace."""
    return head.startswith(b'{"schema":"pvhdbg/trace/')


def lines(file: TextIO) -> Iterator[str]:
    """The lines of a file; one that is too long for a trace comes in pieces, because such a file may have no line end."""
    while line := file.readline(_LINE_BOUND + 1):
        yield line


def decode(lines: Iterable[str], names: dict[int, str] | None = None) -> Iterator[Record]:
    """The records of a saved trace. A last line that is cut is left out; any other damage raises BadInput with its number.

    `names` is filled with the symbols in the trace, by address.
    """
    damaged = 0
    for number, line in enumerate(lines, 1):
        if damaged:
            raise BadInput(f"line {damaged} of the trace is damaged", "save it again")
        try:
            record = _record(line, names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged = number
            continue
        if number == 1 and not isinstance(record, Head):
            raise BadInput("the file is not a saved trace", "give a file that `pvhdbg trace -o` wrote")
        if isinstance(record, Head) and number > 1:
            raise BadInput(f"line {number} of the trace is a second head", "give one trace")
        yield record
    if damaged == 1:
        raise BadInput("the file is not a saved trace, or is cut within its first line", "give a file that `pvhdbg trace -o` wrote")


def _record(line: str, names: dict[int, str] | None) -> Record:
    if len(line) > _LINE_BOUND or not line.endswith("\n"):
        raise ValueError("a cut line")
    row = json.loads(line)
    if names is not None and "symbol" in row and row.get("pc") is not None:
        names[_number(row["pc"])] = str(row["symbol"])
    if "schema" in row:
        if row["schema"] != SCHEMA:
            raise BadInput(f"the trace is in the format {str(row['schema'])[:40]}, not {SCHEMA}", "use the pvhdbg that wrote it")
        return _head(row)
    if "milestone" in row:
        mode = Mode(row["mode"]) if "mode" in row else None
        until = None if "pc" in row else _count(row["until"])
        return Milestone(
            str(row["milestone"]),
            _count(row["seq"]),
            _maybe(row.get("pc")),
            safe(str(row["detail"])),
            mode,
            until,
            row.get("counted") is not False,
        )
    if "fault" in row:
        vector, error = (None if row[name] is None else _count(row[name]) for name in ("vector", "error"))
        return Fault(
            _count(row["seq"]), FaultKind(row["fault"]), vector, error, _maybe(row["pc"]), _maybe(row["cr2"]), _values(row["state"])
        )
    if "reset" in row:
        last = None if row["mode"] is None else Mode(row["mode"])
        return Reset(
            _count(row["seq"]), _count(row["reset"]), _maybe(row["pc"]), last, safe(str(row["why"])), row["goes_on"] is True
        )
    if "function" in row:
        return ReachedFunction(_count(row["order"]), str(row["function"]), _number(row["pc"]), _count(row["block"]))
    if "end" in row:
        return Ending(_end(row["end"]), _count(row["events"]))
    changes = row.get("changes")
    delta = None if changes is None else Changes(_values(changes), _values(row.get("state", {})))
    cpu = _count(row.get("cpu", 0))
    return Event(_count(row["seq"]), _number(row["pc"]), Mode(row["mode"]), bytes.fromhex(row.get("code", "")), delta, cpu)


def _head(row: Mapping[str, Any]) -> Head:
    loads = tuple(
        Load(_number(one["virtual"]), _number(one["physical"]), _number(one["size"]), bool(one["execute"]))
        for one in row.get("loads", ())[:_LOADS_BOUND]
    )
    elf_class = row.get("elf_class")
    known = elf_class if elf_class in (32, 64) else None
    return Head(
        str(row["engine"]),
        str(row["what"]),
        _maybe(row.get("entry")),
        _text(row.get("vmm")),
        _text(row.get("kernel")),
        known,
        loads,
    )


def _end(word: Any) -> EndReason:
    """None for an unknown word: the schema does not restrict it."""
    return next((one for one in EndReason if one.value == word), EndReason.CUT)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(value)
    return value


def _number(value: Any) -> int:
    if not _HEX.fullmatch(value):
        raise ValueError(value)
    return int(value, 16)


def _maybe(value: Any) -> int | None:
    return None if value is None else _number(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _values(row: Any) -> dict[str, int]:
    """Registers by name; the names are the file's, which may hold anything."""
    return {safe(str(name)): _number(value) for name, value in row.items()}
