"""The prompt's commands that show something of a stopped machine."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.commands.handoff import RegsOptions, regs
from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput
from pvhdbg.machine import context_view
from pvhdbg.repl import memory_view
from pvhdbg.repl.actions.shared import DeleteOptions, WordsOptions, face_of, lines_of, session_of
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.answers.prompt import DisplaysAnswer, ShownDisplay


class RegisterOptions(NamedTuple):
    """Names of registers."""

    name: tuple[str, ...] = ()


class MemoryOptions(NamedTuple):
    """The options of `x`: /FORMAT, and the words of an address; a first word without a slash is part of the address."""

    format_: str | None = None
    address: tuple[str, ...] = ()


class SetContextOptions(NamedTuple):
    """Parts of the view, and "on" or "off" last; no words say what holds."""

    words: tuple[str, ...] = ()


class KernelOptions(NamedTuple):
    """A kernel file; None to ask for the known one."""

    file: str | None = None


@takes(NoOptions)
def context(options: NoOptions, context: Context) -> Answer:
    """`context`: the view of this stop."""
    face = face_of(context)
    found = face.context()
    return Answer(
        lambda style: "".join(f"{line}\n" for line in context_view.text(found, face.parts, style)), lambda: json_of(found)
    )


@takes(SetContextOptions)
def set_context(options: SetContextOptions, context: Context) -> Answer:
    """`set context`: whether each stop shows the view, and which parts it has. Raises BadInput for an unknown part."""
    face, known = face_of(context), {part.value: part for part in context_view.Part}
    *names, last = options.words or ("",)
    if last not in ("", "on", "off") or (last == "" and names):
        raise BadInput(f"{last} is neither on nor off", "usage: set context [PART …] on|off")
    for name in names:
        if name not in known:
            raise BadInput(f"{name} is not a part of the context", f"the parts are {', '.join(known)}")
        face.parts = face.parts | {known[name]} if last == "on" else face.parts - {known[name]}
        if name == context_view.Part.SOURCE.value and last == "on":
            face.patient = True
    if last and not names:
        face.shows_context = last == "on"
    if last:
        return lines_of([])
    on = [part.value for part in context_view.Part if part in face.parts]
    return lines_of([f"context {'on' if face.shows_context else 'off'}: {', '.join(on) or 'place and mode only'}"])


@takes(RegisterOptions)
def info_registers(options: RegisterOptions, context: Context) -> Answer:
    """`info registers`: all as `regs` shows them, or some by name."""
    return regs(RegsOptions(name=options.name), context)


@takes(MemoryOptions)
def x(options: MemoryOptions, context: Context) -> Answer:
    """`x`: memory at a linear address. An empty line continues where it ended."""
    session = session_of(context)
    format, what = _format_and_words(options)
    found = memory_view.shown(session, format, session.address(what or "$pc"))
    if found.behind is not None:
        face_of(context).goes_on(f"x{format} {found.behind:#x}")
    return lines_of(found.lines)


def _format_and_words(options: MemoryOptions) -> tuple[str, str]:
    """The /FORMAT, empty without one, and the words of the address."""
    first, words = options.format_ or "", list(options.address)
    if first and not first.startswith("/"):
        return "", " ".join([first, *words])
    return first, " ".join(words)


@takes(MemoryOptions)
def display(options: MemoryOptions, context: Context) -> Answer:
    """`display`: show something at each stop from now on; without an argument show all of it now."""
    face, session = face_of(context), session_of(context)
    format, what = _format_and_words(options)
    if format and not what:
        raise BadInput("display needs an address or a $register behind its format", "usage: display/8xb ADDRESS")
    chosen = [face.displays.add(session, format, what)] if what else face.displays.all()
    lines = {one: one.lines(session) for one in chosen}
    document = DisplaysAnswer(tuple(ShownDisplay(one.number, one.words, tuple(shown)) for one, shown in lines.items()))
    text = "".join(f"{line}\n" for shown in lines.values() for line in shown) or "no displays\n"
    return Answer(lambda _: text, lambda: json_of(document))


@takes(DeleteOptions)
def undisplay(options: DeleteOptions, context: Context) -> Answer:
    """`undisplay`: by number, or all."""
    displays = face_of(context).displays
    if not options.number:
        displays.clear()
    for number in options.number:
        displays.delete(number)
    return lines_of([])


@takes(WordsOptions)
def monitor(options: WordsOptions, context: Context) -> Answer:
    """`monitor`: a command of QEMU's monitor, and its output."""
    session = session_of(context)
    session.needs_control("monitor")
    command = " ".join(options.command)
    if not command:
        raise BadInput("monitor needs a command", "usage: monitor COMMAND")
    context.progress(f"monitor: {command}")
    text = session.target.monitor(command)
    if not command.startswith("info"):
        session.changed()
    return lines_of([safe(line) for line in text.splitlines()])


@takes(KernelOptions)
def kernel(options: KernelOptions, context: Context) -> Answer:
    """`kernel`: which file symbols, notes and rules are of."""
    session = session_of(context)
    if options.file is not None:
        face_of(context).machine.use_kernel(options.file)
    if session.image is None:
        session.boot()  # where the monitor names it, it is found by this
    if session.image is None:
        raise BadInput("no kernel file is known", session.naming)
    how = "named" if session.named is session.image else "found: QEMU's monitor names it, and memory holds it"
    missing = session.placement.missing
    return lines_of([f"{safe(session.image.path)} ({how})", *([missing] if missing else [])])
