"""Where a live session's machine stands, in words, for after it has run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvhdbg.commands.declare import Answer
from pvhdbg.decode.text import printable
from pvhdbg.errors import PvhdbgError, TargetLost

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session


def place(session: Session) -> tuple[str, str]:
    """ "0x100000 <pvh_start+0x12>" and "32-bit protected mode"."""
    from pvhdbg.decode.cpu_mode import mode_of
    from pvhdbg.machine import disassemble

    pc = disassemble.linear_pc(session)
    named = session.name_of(pc)
    return f"{pc:#x}" + (f" <{printable(named)}>" if named else ""), mode_of(session.registers(), session.segments()).name


def instruction(session: Session, named: bool = True) -> list[str]:
    """The next instruction, or why it cannot be shown. Raises TargetLost."""
    from pvhdbg.machine import disassemble

    try:
        *names, line = disassemble.lines(session, disassemble.linear_pc(session), 1)[1:]
        address, _, rest = line.partition(": ")
        return [f"{address} {names[0]}{rest}" if names and named else line]
    except TargetLost:
        raise
    except PvhdbgError as gap:
        return [f"the next instruction cannot be shown: {gap.what}"]


def with_next(answer: Answer, session: Session | None) -> Answer:
    """The answer of a command that let the machine run, with the instruction that it stands at behind it; on the command line as it is."""
    if session is None:
        return answer
    try:
        line = "".join(f"{line}\n" for line in instruction(session))
    except PvhdbgError:
        return answer  # the machine ended: that is what the answer says
    shown = answer.text
    return Answer(lambda style: shown(style) + line, answer.json, answer.exit_code, answer.others)
