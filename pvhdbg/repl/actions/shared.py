"""What the prompt's own commands share: the conversation, the session, and the lines about a stop."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import instruction, position
from pvhdbg.repl.breakpoints import Breakpoint
from pvhdbg.repl.conversation import Conversation
from pvhdbg.repl.watchpoints import WatchedMemory
from pvhdbg.targets.target import Stop, StopKind


class WhereOptions(NamedTuple):
    """The words of a symbol, an address or a mode."""

    where: tuple[str, ...] = ()


class DeleteOptions(NamedTuple):
    """Numbers of breakpoints."""

    number: tuple[int, ...] = ()


class WordsOptions(NamedTuple):
    """A line for another program, as it was typed."""

    command: tuple[str, ...] = ()


def face_of(context: Context) -> Conversation:
    """The conversation that a command was typed in."""
    assert isinstance(context.face, Conversation)
    return context.face


def session_of(context: Context) -> Session:
    """The session of the conversation's machine."""
    assert context.session is not None
    return context.session


def lines_of(lines: list[str]) -> Answer:
    """An answer that is some lines of text."""
    text = "".join(f"{line}\n" for line in lines)
    return Answer(lambda _: text)


def run_answer(lines: list[str], late: str) -> Answer:
    """The lines about a stop. Where the run took too long, `late` is the first words, and the exit code is NOT_REACHED."""
    answer = lines_of([late + lines[0], *lines[1:]])
    return replace(answer, exit_code=NOT_REACHED) if late else answer


def stop_lines(context: Context, stop: Stop, found: Breakpoint | WatchedMemory | None) -> list[str]:
    """The text for a stop: why, where, and the next instruction."""
    machine = face_of(context).machine
    if machine.ended is not None:
        return [f"{machine.ended} (boot it again: restart)", *next_instruction(context)]
    if stop.kind is StopKind.SHUTDOWN:
        return [stop.text]
    if found is not None:
        return [hit_line(found, context), *next_instruction(context, named=False)]
    words = {StopKind.INTERRUPT: "interrupted", StopKind.ERROR: f"stopped: {stop.text}"}.get(stop.kind, "stopped")
    return [f"{words}: {place_of(session_of(context))}", *next_instruction(context, named=False)]


def hit_line(found: Breakpoint | WatchedMemory, context: Context) -> str:
    """Which breakpoint or watchpoint was hit, and where the machine is."""
    place = place_of(session_of(context))
    if isinstance(found, WatchedMemory):
        return f"watchpoint {found.number}, {found.where}: {found.change()}; now at {place}"
    return f"breakpoint {found.number}, {place}"


def place_of(session: Session) -> str:
    """Where a stopped machine is, in words."""
    return ", ".join(position(session))


def next_instruction(context: Context, named: bool = True) -> list[str]:
    """The next instruction; nothing where the context follows, which shows it."""
    return [] if face_of(context).shows_context else instruction(session_of(context), named)
