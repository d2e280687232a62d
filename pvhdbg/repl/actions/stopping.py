"""The prompt's commands for breakpoints and watchpoints."""

from __future__ import annotations

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.repl.actions.shared import DeleteOptions, WhereOptions, face_of, lines_of, session_of
from pvhdbg.repl.breakpoints import Breakpoint
from pvhdbg.repl.watchpoints import WORDS, WatchedMemory, counted, shown, watch_of
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.answers.prompt import BreakpointsAnswer, StopState
from pvhdbg.targets.target import WatchKind


@takes(WhereOptions)
def break_(options: WhereOptions, context: Context) -> Answer:
    """`break`: at a symbol, an address, or here."""
    session = session_of(context)
    session.needs_control("break")
    one = face_of(context).machine.breakpoints.add(session, " ".join(options.where) or "$pc")
    at = " and ".join(f"{address:#x}" for address in one.addresses)
    doubt = session.placement.missing if one.physical is not None else ""
    return lines_of([f"breakpoint {one.number}: {one.where} at {at}", *([doubt] if doubt else [])])


@takes(WhereOptions)
def watch(options: WhereOptions, context: Context) -> Answer:
    """`watch`: stop behind a store."""
    return _watch(options, context, WatchKind.WRITE)


@takes(WhereOptions)
def rwatch(options: WhereOptions, context: Context) -> Answer:
    """`rwatch`: stop behind a load."""
    return _watch(options, context, WatchKind.READ)


@takes(WhereOptions)
def awatch(options: WhereOptions, context: Context) -> Answer:
    """`awatch`: stop behind a load or a store."""
    return _watch(options, context, WatchKind.ANY)


def _watch(options: WhereOptions, context: Context, access: WatchKind) -> Answer:
    """Raises BadInput for a place that is none, TargetError where the machine cannot watch it."""
    session, machine = session_of(context), face_of(context).machine
    word = WORDS[access]
    session.needs_control(word)
    machine.needs_machine()
    if machine.repeatable:
        raise BadInput(
            f"{word} does not work with --deterministic: such a machine runs on by booting again",
            "find the store from behind, with: last-write ADDRESS",
        )
    one = machine.breakpoints.watch(watch_of(session, " ".join(options.where), access))
    try:
        machine.runner.arm_watches()
        one = next(each for each in machine.breakpoints.watches() if each.number == one.number)
        if one.by_steps and access is not WatchKind.WRITE:
            raise TargetError(f"the stub at {session.target.name} has no watchpoints, and steps do not show a load", "use: watch")
    except PvhdbgError:
        machine.breakpoints.delete(one.number)
        raise
    at = " and ".join(f"{address:#x}" for address in one.addresses)
    holds = f", now {shown(one.value)}" if one.value is not None else ""
    steps = ["the stub has no watchpoints: the machine is stepped, and a change of the bytes stops it"] if one.by_steps else []
    return lines_of([f"watchpoint {one.number}: {one.where}, {counted(one.size)} at {at}{holds}", *steps])


@takes(DeleteOptions)
def delete(options: DeleteOptions, context: Context) -> Answer:
    """`delete`: by number, or all."""
    breakpoints = face_of(context).machine.breakpoints
    if not options.number:
        breakpoints.clear()
    for number in options.number:
        breakpoints.delete(number)
    return lines_of([])


@takes(NoOptions)
def info_breakpoints(options: NoOptions, context: Context) -> Answer:
    """`info breakpoints`: one line each, watchpoints too."""
    known = face_of(context).machine.breakpoints
    found: list[Breakpoint | WatchedMemory] = sorted((*known.all(), *known.watches()), key=lambda one: one.number)
    text = "".join(f"{one.line()}\n" for one in found) or "no breakpoints\n"
    return Answer(lambda _: text, lambda: json_of(BreakpointsAnswer(tuple(_state(one) for one in found))))


def _state(one: Breakpoint | WatchedMemory) -> StopState:
    if isinstance(one, WatchedMemory):
        word, access = WORDS[one.access], one.access.value
        return StopState(one.number, word, one.where, one.addresses, one.size, access, one.by_steps, one.hits, one.value)
    return StopState(one.number, "break", one.where, one.addresses, None, None, False, one.hits, None)
