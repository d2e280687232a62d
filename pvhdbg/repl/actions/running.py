"""The prompt's commands that let the machine run: continue, stepi, until, finish."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.commands.travel import moved
from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.driver.travel import Travel
from pvhdbg.errors import BadInput
from pvhdbg.machine.disassemble import linear_pc
from pvhdbg.repl import finishing
from pvhdbg.repl.actions.shared import (
    WhereOptions,
    face_of,
    hit_line,
    lines_of,
    next_instruction,
    place_of,
    run_answer,
    session_of,
    stop_lines,
)
from pvhdbg.repl.actions.until_mode import until_mode
from pvhdbg.repl.breakpoints import resolve
from pvhdbg.targets.target import Stop, StopKind
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.mode_words import MODES

_LONGEST = 999_999.0  # seconds of a run without a limit
_MOST_STEPS = 1_000_000  # of one `stepi`: minutes


class CountOptions(NamedTuple):
    """How many instructions."""

    steps: int = 1


@takes(NoOptions)
def continue_(options: NoOptions, context: Context) -> Answer:
    """`continue`: to the next stop."""
    machine = face_of(context).machine
    context.progress("the guest runs" + (": Ctrl-C stops it" if machine.attended else ""))
    if machine.repeatable:
        return _onward(context, (), machine.patience, "")
    went = machine.runner.go(seconds=machine.patience)
    late = f"it ran for {machine.patience:g} s (--timeout) without a stop: " if went.late else ""
    return run_answer(stop_lines(context, went.stop, went.found), late)


@takes(CountOptions)
def stepi(options: CountOptions, context: Context) -> Answer:
    """`stepi`: some instructions."""
    if not 0 < options.steps <= _MOST_STEPS:
        raise BadInput(f"{options.steps} instructions cannot be stepped", f"give a count of 1 to {_MOST_STEPS}")
    machine = face_of(context).machine
    context.progress(f"stepping {options.steps} instructions")
    found = machine.runner.step(options.steps)
    if machine.ended is not None:
        return lines_of(stop_lines(context, Stop(StopKind.SHUTDOWN, 3, machine.ended), None))
    return lines_of([*([hit_line(found, context)] if found is not None else []), *next_instruction(context)])


@takes(WhereOptions)
def until(options: WhereOptions, context: Context) -> Answer:
    """`until`: to a symbol or an address, or into a mode."""
    where = " ".join(options.where)
    if where in MODES:
        return until_mode(context, where)
    session = session_of(context)
    addresses = resolve(session, where).addresses
    session.needs_control("until")
    if session.registers()["rip"] in addresses:
        raise BadInput(f"the machine is at {where} already", "go on with: continue, stepi")
    machine = face_of(context).machine
    context.progress(f"until {where}")
    if machine.repeatable:
        return _onward(context, addresses, machine.seconds, where)
    went = machine.runner.go(addresses, machine.seconds)
    late = f"{where} was not reached within {machine.seconds:g} s (--timeout): " if went.late else ""
    return run_answer(stop_lines(context, went.stop, went.found), late)


def _onward(context: Context, addresses: tuple[int, ...], seconds: float, where: str) -> Answer:
    """Run on by the deterministic clock, to a breakpoint or one of `addresses`: see `driver.travel`."""
    session, machine = session_of(context), face_of(context).machine
    session.needs_control("continue")
    machine.runner.ready_to_run("continue")
    machine.breakpoints.place(session)
    goals = tuple(sorted(machine.breakpoints.addresses() | set(addresses)))
    end = Travel(session, "continue", context.progress).onward(goals, min(seconds, _LONGEST))
    if end.final:
        return lines_of(stop_lines(context, Stop(StopKind.SHUTDOWN, 3, end.words), None))
    if end.why is EndReason.TIME:
        late = f"{where} was not reached" if where else "it ran"
        return replace(moved(session, f"{late} within {seconds:g} s (--timeout)"), exit_code=NOT_REACHED)
    if end.why is EndReason.INTERRUPTED:
        return moved(session, "interrupted")
    found = machine.breakpoints.at(session.registers()["rip"])
    return moved(session, f"breakpoint {found.number}" if found is not None else "stopped")


@takes(NoOptions)
def finish(options: NoOptions, context: Context) -> Answer:
    """`finish`: until the current function returns."""
    session, machine = session_of(context), face_of(context).machine
    session.needs_control("finish")
    machine.needs_machine()
    name = (session.name_of(linear_pc(session)) or "the function").partition("+")[0]
    context.progress(f"finish: {name}")
    went = finishing.finish(machine.runner, session, machine.seconds, context.progress)
    if went is not None:
        late = f"{name} did not return within {machine.seconds:g} s (--timeout): " if went.late else ""
        return run_answer(stop_lines(context, went.stop, went.found), late)
    value = session.registers().get("rax")
    name_of_value = "rax" if observed_mode(*session.cpu()).code == 64 else "eax"
    gave = "" if value is None else f", {name_of_value} {value:#x}"
    return lines_of([f"{name} returned to {place_of(session)}{gave}", *next_instruction(context, named=False)])
