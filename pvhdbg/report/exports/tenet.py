"""Tenet's text traces: one line for each instruction, with the pc and the registers that changed since the line before.

Format: https://github.com/gaasedelen/tenet, tracers/README.md. Its reader takes register names of the kernel's own width, needs all
registers in the first line (a missing one is 0), and drops 65,535 lines at an unknown word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pvhdbg.errors import BadInput
from pvhdbg.tracing.event import Event, Reset
from pvhdbg.tracing.symbol_text import Name
from pvhdbg.tracing.trace_file import Head, Record

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rbp", "rsp", "rsi", "rdi")
_WIDE = {name: name for name in (*_GENERAL, *(f"r{number}" for number in range(8, 16)), "rip")}
_NARROW = {name: f"e{name[1:]}" for name in (*_GENERAL, "rip")}


def tenet(records: Iterable[Record], _: Name) -> Iterator[str]:
    """The lines, in the names of the kernel's ELF class. Raises BadInput for a trace without registers."""
    names, last = _WIDE, (1 << 64) - 1
    changed: Mapping[str, int] | None = None  # by the event before; None before the first
    for record in records:
        if isinstance(record, Head) and record.elf_class == 32:
            names, last = _NARROW, (1 << 32) - 1
        if isinstance(record, Reset):
            changed = None  # the next state does not follow from the events before
        if not isinstance(record, Event):
            continue
        state = {} if record.delta is None else record.delta.state()
        if changed is None and not state:
            raise BadInput("Tenet shows registers, and this trace does not begin with any", "trace with --what state")
        row = {**(changed or {}), **state, "rip": record.pc}
        yield ",".join(f"{names[register]}={row[register] & last:#x}" for register in names if register in row) + "\n"
        changed = record.changes or {}
