"""A trace as text: the milestones as a table, events as lines, with faults at their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from pvhdbg.decode.text import SafeText, printable, safe, shorten
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.tracing.block_coverage import ReachedFunction
from pvhdbg.tracing.event import Event, Fault, Reset
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.symbol_text import SafeName, base

if TYPE_CHECKING:
    from pvhdbg.tracing.causes.draft import Disassemble

_DETAIL = 120  # characters of it that are shown


def escaped(name: Callable[[int], str | None]) -> SafeName:
    """Names of a kernel or of a file, as the texts here want them."""

    def shown(address: int) -> SafeText | None:
        found = name(address)
        return None if found is None else printable(found)

    return shown


def milestones(found: Sequence[Milestone], name: SafeName, style: Style = PLAIN, resets: Sequence[Reset] = ()) -> str:
    """The milestones of a boot: instructions from the beginning, address, name. Resets that the trace continued after have rows too."""
    if not found:
        return "no milestone was reached\n"
    wide = max(len(one.name) for one in found)
    rows = []
    over = [one for one in resets if one.goes_on]
    for one in found:
        while over and over[0].seq <= one.seq:
            rows.append(style("bad", f"{over[0].seq:>12,}  {reset(over.pop(0), name)}"))
        what = " ".join(part for part in (one.title, f"({shorten(one.detail, _DETAIL)})" if one.detail else "") if part)
        place = f"no later than {one.until:,}" if one.pc is None else f"{one.pc:#x}{_named(name(one.pc))}"
        number = f"{'' if one.counted else '> '}{one.seq:,}"
        rows.append(f"{number:>12}  {style('head', f'{printable(one.name):<{wide}}')}  {place:<44}  {what}".rstrip())
    rows += [style("bad", f"{one.seq:>12,}  {reset(one, name)}") for one in over]
    return f"{'instructions':>12}  {'milestone':<{wide}}  where\n" + "\n".join(rows) + "\n"


def events(shown: Iterable[Event | Fault | Reset], name: SafeName, disassemble: Disassemble, style: Style = PLAIN) -> str:
    """One line each: sequence number, mode, address, instruction, and what it changed."""
    lines = []
    symbol = None
    for one in shown:
        if isinstance(one, Fault):
            lines.append(style("bad", fault(one)))
            continue
        if isinstance(one, Reset):
            lines.append(style("bad", f"{one.seq:>10} *** {reset(one, name)}"))
            symbol = None
            continue
        here = name(one.pc)
        function = None if here is None else base(here)
        if function is not None and function != symbol:
            lines.append(style("note", f"{function}:"))
        symbol = function
        text = disassemble(one.code, one.pc, one.mode.bits)
        changes = "" if not one.changes else "  " + " ".join(f"{safe(key)}={value:#x}" for key, value in one.changes.items())
        lines.append(f"{one.seq:>10} {one.mode.value:<13} {one.pc:#x}  {text:<34}{changes}".rstrip())
    return "\n".join(lines) + "\n" if lines else ""


def functions(reached: Iterable[ReachedFunction], style: Style = PLAIN) -> str:
    """The functions in the order in which they were first reached."""
    lines = [f"{one.order:>6}  {style('note', printable(one.name))}  at {one.pc:#x}, block {one.block:,}" for one in reached]
    return "\n".join(lines) + "\n" if lines else "no function with a name was reached\n"


def fault(one: Fault) -> str:
    """One fault on one line."""
    vector = "" if one.vector is None else f" {one.vector:#x}"
    error = "" if one.error is None else f", error code {one.error:#x}"
    where = "" if one.pc is None else f" at {one.pc:#x}"
    cr2 = "" if one.cr2 is None else f", cr2 {one.cr2:#x}"
    return f"{one.seq:>10} *** {one.kind.value}{vector}{where}{error}{cr2}"


def reset(one: Reset, name: SafeName, unit: str = "instruction") -> str:
    """A reset in words: the last instruction before it, and its cause if that is known."""
    last = "" if one.pc is None else f", after {unit} {one.seq - 1:,} at {one.pc:#x}{_named(name(one.pc))}"
    mode = "" if one.mode is None else f" in {one.mode.words}"
    return f"reset {one.number}{last}{mode}{f': {one.why}' if one.why else ''}"


def _named(symbol: SafeText | None) -> str:
    return "" if symbol is None else f" {symbol}"
