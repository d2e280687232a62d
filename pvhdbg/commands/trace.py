"""`trace` and `milestones`: follow the CPU; and a trace for `timeline`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.commands.output import open_output
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.disassembly import available
from pvhdbg.driver.calls import calls
from pvhdbg.driver.engine_choice import choose_engine, is_window, marks_of
from pvhdbg.driver.follow import TraceRun, event_count
from pvhdbg.driver.goal import TraceGoal, trace_goal_of
from pvhdbg.driver.options import MOST_CPUS, EngineName, TraceOptions
from pvhdbg.driver.result import NO_DISASSEMBLER, SHOWN, TraceResult, addresses, document, head_of, render
from pvhdbg.driver.saved_traces import is_saved, show
from pvhdbg.driver.scope import Scope, code_of
from pvhdbg.driver.serial_milestones import pattern_of
from pvhdbg.driver.session_machine import on_session
from pvhdbg.driver.sinks import Written, write_ending, write_kept
from pvhdbg.driver.traced_machine import TracedMachine, at_entry
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import instruction
from pvhdbg.record import NamedTuple
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.style import Style
from pvhdbg.targets.run import Progress, run_until
from pvhdbg.tracing.event import EndReason, Event


class TraceCommandOptions(NamedTuple):
    """The options of `trace`."""

    about: SubjectOptions = SubjectOptions()
    trace: TraceOptions = TraceOptions()


class MilestonesOptions(NamedTuple):
    """The options of `milestones`."""

    until: str | None = None
    milestone: tuple[str, ...] = ()
    engine: EngineName = "auto"
    seconds: float | None = None


@takes(TraceCommandOptions)
def trace(options: TraceCommandOptions, context: Context) -> Answer:
    """`trace`: follow the CPU from the entry, or from a session's current state; or show a saved trace."""
    if context.session is None and is_saved(options.about.subject):
        shown, saved_trace = show(options.about.subject, options.trace)
        return shows(shown, saved_trace)
    return _trace(options.about, options.trace, context)


@takes(MilestonesOptions)
def milestones_from_here(options: MilestonesOptions, context: Context) -> Answer:
    """`milestones`, in a session: `trace` for the milestones only."""
    wanted = TraceOptions(
        until=options.until, milestone=options.milestone, engine=options.engine, seconds=options.seconds, what="milestones"
    )
    return _trace(SubjectOptions(), wanted, context)


def _trace(about: SubjectOptions, options: TraceOptions, context: Context) -> Answer:
    _refuse_nonsense(options)
    with ExitStack() as stack:
        write = stack.enter_context(open_output(options.output)).put if options.output else None
        if context.session is not None:
            answer = on_session(context.session, "trace", lambda machine: _traced(options, machine, write), context.progress)
            return _with_next(answer, context.session)
        opening = at_entry(
            about, context.progress, traced=True, marks=marks_of(options), windows=is_window(options), patience=options.seconds
        )
        machine = stack.enter_context(opening)
        return _traced(options, machine, write)


def _refuse_nonsense(options: TraceOptions) -> None:
    """Raises BadInput for options that do not fit together, before a machine is started."""
    for option, text in (*(("--milestone", one) for one in options.milestone), ("--until", options.until or "")):
        pattern_of(text, option)
    if options.vcpu is not None and not 0 <= options.vcpu < MOST_CPUS:
        raise BadInput(f"--vcpu {options.vcpu} is not a CPU's number", "0 is the first")
    if options.tail is not None and options.tail < 1:
        raise BadInput(f"--tail {options.tail} keeps nothing", "give 1 or more")


def _traced(options: TraceOptions, machine: TracedMachine, write: Callable[[str], None] | None) -> Answer:
    goal = trace_goal_of(options.until, machine.names)
    scope = _scope(options, machine)
    if options.what == "calls":
        text, functions, missed = calls(options, machine, goal, write)
        return shows(text, functions, NOT_REACHED if missed else 0)
    states = options.what != "pc" or bool(goal.modes or scope.modes)  # without registers, paging in 32-bit code is not seen
    engine = choose_engine(options, machine, states=states, count=event_count(options, goal, scope))
    result = TraceResult(head_of(engine, options.what, machine), machine.names, warnings=machine.warnings)
    result.last = deque(maxlen=options.tail or (1 if options.output else SHOWN))
    sink = Written(result, write) if write is not None and not options.tail else None
    TraceRun(options, engine, machine, goal, result, sink, scope).run()
    if write is not None:
        if options.tail:
            write_kept(result, write)
        write_ending(result, write)
    shown = [one.pc for one in result.last if isinstance(one, Event)] if options.what != "milestones" and not options.output else []
    result.names = machine.names.kept([*shown, *addresses(result)])
    result.warnings += _doubts(options, machine, engine.name, result, bool(shown))
    missed = _is_missed(goal, result)
    written = bool(options.output)
    return Answer(
        lambda style: render(result, options.what, written, goal, missed, style),
        lambda: json_of(document(result, options.what, written, not missed if goal.text else None)),
        NOT_REACHED if missed else 0,
    )


def _doubts(options: TraceOptions, machine: TracedMachine, engine: str, result: TraceResult, shows: bool) -> list[SafeText]:
    """Notes that a reader of the result needs."""
    found = [NO_DISASSEMBLER] if shows and not available() else []
    if machine.live and engine == "log" and result.end.why in (EndReason.COUNT, EndReason.ENOUGH):
        found.append(SafeText("the log is read while the guest runs: the guest ran on a little, to its current place"))
    met = {one.name for one in result.milestones}
    return [*found, *(safe(f"{text} was not reached") for text in options.milestone if text not in met)]


def _is_missed(goal: TraceGoal, result: TraceResult) -> bool:
    """Whether the goal is a place, a mode or words, and was not reached."""
    said = any(one.pc is None and one.name == goal.text for one in result.milestones)
    return bool(goal.text) and goal.count is None and not said and result.end.why not in (EndReason.ADDRESS, EndReason.ENOUGH)


def milestones(about: SubjectOptions, options: TraceOptions, progress: Progress) -> TraceResult:
    """Trace the subject for its milestones alone; their names are kept. Raises PvhdbgError."""
    with at_entry(about, progress, patience=options.seconds) as machine:
        goal = trace_goal_of(options.until, machine.names)
        engine = choose_engine(options, machine, states=True)
        result = TraceResult(head_of(engine, "milestones", machine), machine.names, warnings=machine.warnings)
        TraceRun(options, engine, machine, goal, result).run()
        result.names = machine.names.kept(addresses(result))
    return result


def _scope(options: TraceOptions, machine: TracedMachine) -> Scope:
    """The scope of `--from` and `--filter`. The machine runs to the first place at full speed.

    Raises BadInput, EntryNotReached, GuestDied.
    """
    inside = code_of(options.filter, machine.names) if options.filter else None
    if options.what in ("milestones", "calls") and options.filter:
        raise BadInput(f"--filter cannot be combined with --what {options.what}", "use --what pc or --what state")
    start = trace_goal_of(options.start, machine.names, "--from")
    if start.serial is not None:
        raise BadInput(
            f"--from {start.text} is not a place to begin at",
            "begin at a symbol or address, in a mode, or after a number of instructions",
        )
    if start.addresses:
        run_until(machine.target, start.addresses, options.limit, progress=machine.progress)
        return Scope(inside=inside)
    if start.text and options.what in ("milestones", "calls"):
        raise BadInput(
            f"--from {start.text} cannot be combined with --what {options.what}", "give a symbol or an address, or use --what pc"
        )
    return Scope(start.count or 0, start.modes, inside)


def _with_next(answer: Answer, session: Session) -> Answer:
    """The answer, followed by the instruction at the current pc of the session's machine."""
    try:
        line = "".join(f"{line}\n" for line in instruction(session))
    except PvhdbgError:
        return answer  # the machine ended: the answer reports it
    shown = answer.text

    def text(style: Style) -> str:
        return shown(style) + line

    return Answer(text, answer.json, answer.exit_code, answer.others)
