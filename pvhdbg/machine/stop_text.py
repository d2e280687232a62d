"""Text about the place of a live session's machine, for use after it has run."""

from __future__ import annotations

from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.decode.text import printable, safe
from pvhdbg.errors import PvhdbgError, TargetLost
from pvhdbg.machine import disassemble
from pvhdbg.machine.session import Session


def position(session: Session) -> tuple[str, str]:
    """ "0x100000 <pvh_start+0x12>" and "32-bit protected mode"."""
    pc = disassemble.linear_pc(session)
    named = session.name_of(pc)
    return f"{pc:#x}" + (f" <{printable(named)}>" if named else ""), observed_mode(*session.cpu()).name


def instruction(session: Session, named: bool = True) -> list[str]:
    """The next instruction, or why it cannot be shown. Raises TargetLost."""
    try:
        *names, line = disassemble.lines(*disassemble.instructions(session, disassemble.linear_pc(session), 1))[1:]
        address, _, rest = line.partition(": ")
        return [f"{address} {names[0]}{rest}" if names and named else line]
    except TargetLost:
        raise
    except PvhdbgError as gap:
        return [f"the next instruction cannot be shown: {safe(gap.what)}"]
