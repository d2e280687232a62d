"""The context of a stop: registers that changed, the instructions from the pc on, the stack with names."""

from __future__ import annotations

from collections.abc import Callable

from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.decode.text import printable, safe
from pvhdbg.errors import PvhdbgError, TargetLost
from pvhdbg.machine import disassemble
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import position
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS

_NAMES = (*GENERAL, *EXTENDED, "rip", "eflags", *SELECTORS, *CONTROL)
_INSTRUCTIONS = 5
_WORDS = 6  # of the stack
_COLUMNS = 4  # registers in a line


def context(session: Session) -> list[str]:
    """The view as lines; a part that cannot be read says why in its place. Raises TargetLost."""
    return [f"── {', '.join(position(session))}", *_registers(session), *_part(_code, session), *_part(_stack, session)]


def _registers(session: Session) -> list[str]:
    """The registers that differ from the last stop; all general ones at the first stop."""
    now, before = session.registers(), session.before
    wide = observed_mode(now, session.segments()).code == 64
    short = {} if wide else {whole: half for half, whole in LOW_HALVES.items()}
    names = _NAMES if before is not None else (*GENERAL, "eflags")
    shown = [
        f"{short.get(name, name)} {value:#x}"
        for name in names
        if (value := now.get(name)) is not None and name != "rip" and (before is None or before.get(name) != value)
    ]
    rows = ["  " + "  ".join(f"{one:<20}" for one in shown[at : at + _COLUMNS]).rstrip() for at in range(0, len(shown), _COLUMNS)]
    return ["changed" if before is not None else "registers", *(rows or ["  nothing"])]


def _part(lines: Callable[[Session], list[str]], session: Session) -> list[str]:
    try:
        return lines(session)
    except TargetLost:
        raise
    except PvhdbgError as gap:
        return [f"  {safe(gap.what)}"]


def _code(session: Session) -> list[str]:
    _, found = disassemble.instructions(session, disassemble.linear_pc(session), _INSTRUCTIONS)
    return ["code", *(f"  {line}" for line in disassemble.lines("", found)[1:])]


def _stack(session: Session) -> list[str]:
    registers = session.registers()
    top = registers.get("rsp")
    if top is None:
        return []
    size = (observed_mode(registers, session.segments()).code or 32) // 8
    data = session.linear(top, _WORDS * size)
    lines = ["stack"]
    for at in range(0, len(data), size):
        value = int.from_bytes(data[at : at + size], "little")
        name = session.name_of(value) if value else None
        lines.append(f"  {top + at:#x}: {value:0{2 * size}x}" + (f"  <{printable(name)}>" if name else ""))
    return lines
