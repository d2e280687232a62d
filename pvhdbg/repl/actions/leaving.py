"""The prompt's commands that start over, leave the machine, or pass a line to another program."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.repl.actions.shared import WordsOptions, face_of, lines_of, next_instruction, place_of, session_of
from pvhdbg.targets.target import Leave


class SourceOptions(NamedTuple):
    """A file of lines."""

    file: str


@takes(NoOptions)
def reset(options: NoOptions, context: Context) -> Answer:
    """`reset`: back to before the first instruction; the machine stays stopped."""
    face_of(context).machine.reset()
    return lines_of([f"reset: {place_of(session_of(context))}"])


@takes(NoOptions)
def restart(options: NoOptions, context: Context) -> Answer:
    """`restart`: boot again to the entry."""
    machine = face_of(context).machine
    machine.restart()
    entry = machine.session.boot().snapshot.entry
    name = f"<{printable(entry.symbol)}> " if entry.symbol else ""
    at = f"{entry.address:#x} " if entry.address is not None else ""
    return lines_of([f"booted again: at the entry {at}{name}".rstrip(), *next_instruction(context, named=False)])


@takes(SourceOptions)
def source(options: SourceOptions, context: Context) -> Answer:
    """`source`: the lines of a file; the first error ends it."""
    return face_of(context).source(options.file)


@takes(WordsOptions)
def gdb(options: WordsOptions, context: Context) -> Answer:
    """`gdb`: the line goes to GDB; the conversation itself passes it on. Raises BadInput elsewhere."""
    raise BadInput("gdb works at the prompt only", "start a conversation: pvhdbg repl SUBJECT")


@takes(WordsOptions)
def shell(options: WordsOptions, context: Context) -> Answer:
    """`shell`: run a command in the user's shell."""
    command = " ".join(options.command)
    if not command:
        raise BadInput("shell needs a command", "usage: shell COMMAND")
    done = subprocess.run(command, shell=True, check=False)  # noqa: S602 - the user asked for a shell
    return Answer(lambda _: "", exit_code=done.returncode)


@takes(NoOptions)
def detach(options: NoOptions, context: Context) -> Answer:
    """`detach`: the machine runs on."""
    return _leave(context, Leave.RUNNING)


@takes(NoOptions)
def quit(options: NoOptions, context: Context) -> Answer:
    """`quit`: the machine is left as the command line said."""
    return _leave(context, None)


@takes(NoOptions)
def kill(options: NoOptions, context: Context) -> Answer:
    """`kill`: the VMM ends; the prompt stays."""
    face = face_of(context)
    session_of(context).needs_control("kill")
    face.machine.needs_machine()
    if not face.confirm(f"end the machine at {face.machine.session.target.name}?"):
        return lines_of(["not killed"])
    left = face.machine.close(Leave.KILLED)
    return lines_of([left or "killed (boot it again: restart)"])


def _leave(context: Context, leave: Leave | None) -> Answer:
    face = face_of(context)
    left = face.machine.close(leave)
    face.leaving = True
    return lines_of([left] if left else [])
