"""What the tracer's commands do. Each function takes a Request and returns an Answer; nothing here prints."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from pvhdbg.commands.table import Answer, Request
from pvhdbg.decode.text import safe
from pvhdbg.disassembly import available
from pvhdbg.driver.engine_choice import choose, entry_of, own_milestones
from pvhdbg.driver.goal import NOT_REACHED, Until, seconds, until
from pvhdbg.driver.onward import run_on
from pvhdbg.driver.result import NO_DISASSEMBLER, SHOWN, Seen, head_of, places, render
from pvhdbg.driver.saved_traces import is_saved, show
from pvhdbg.driver.scope import Scope, code_of
from pvhdbg.driver.serial_milestones import looked_for, pattern_of
from pvhdbg.driver.trace_subject import Machine, at_entry, on_machine
from pvhdbg.errors import BadInput
from pvhdbg.machine.stop_text import with_next
from pvhdbg.targets.target import run_until
from pvhdbg.tracing.boots import Boots
from pvhdbg.tracing.engines.engine import Bounds, End, Engine
from pvhdbg.tracing.event import Batch, Event, Fault, Reset
from pvhdbg.tracing.milestones import SYMBOLS, Finder, Milestone
from pvhdbg.tracing.mode_words import first_in
from pvhdbg.tracing.trace_file import Ending, encode

_RATE_EVERY = 0.5  # seconds between two looks at the rate
MOST_CPUS = 4096


_ENTERED = ("entry", "64-bit", "higher half")  # no milestones of a trace that begins behind them


def trace(request: Request) -> Answer:
    """`trace`: follow the CPU from the entry, or where a session's machine stands; or show a saved trace."""
    if request.session is None and is_saved(str(request.subject)):
        return show(request)
    for option, text in (*(("--milestone", one) for one in request.milestone or ()), ("--until", str(request.until or ""))):
        pattern_of(text, option)  # or it complains, before a machine is started
    if request.vcpu is not None and not 0 <= request.vcpu < MOST_CPUS:
        raise BadInput(f"--vcpu {request.vcpu} is not a CPU's number", "0 is the first")
    if request.tail is not None and request.tail < 1:
        raise BadInput(f"--tail {request.tail} keeps nothing", "give 1 or more")
    with ExitStack() as stack:
        write = _writer(request, stack)
        answer = on_machine(request, "trace", lambda machine: _traced(request, machine, write))
    return with_next(answer, request.session)


def _traced(request: Request, machine: Machine, write: Callable[[str], None] | None) -> Answer:
    what = str(request.what)
    goal = until(request.until, machine.names)
    scope = _scope(request, machine)
    if what == "calls":
        from pvhdbg.driver.calls import calls

        return calls(request, machine, goal, write)
    engine = choose(request, machine, states=what != "pc", count=_count(request, goal, scope))
    seen = Seen(head_of(engine, what, machine), machine.names, warnings=machine.warnings)
    kept = request.tail or (None if request.output else SHOWN)
    seen.last = deque(maxlen=kept or 1)
    _follow(request, engine, machine, goal, seen, None if request.tail else write, scope)
    if write is not None:
        _finish(write, seen, bool(request.tail))
    shown = [one.pc for one in seen.last if isinstance(one, Event)] if what != "milestones" and not request.output else []
    seen.names = machine.names.kept([*shown, *places(seen)])
    if shown and not available():
        seen.warnings.append(NO_DISASSEMBLER)
    if request.session is not None and engine.name == "log" and seen.end.why in ("count", "enough"):
        seen.warnings.append("the log is read while the guest runs: it ran on a little, to where it stands now")
    met = {one.name for one in seen.milestones}
    seen.warnings += [f"{safe(text)} was not come by" for text in request.milestone or () if text not in met]
    said = any(one.pc is None and one.name == goal.text for one in seen.milestones)
    missed = bool(goal.text) and goal.count is None and not said and seen.end.why not in ("address", "enough")
    return Answer(
        lambda style: render(seen, what, bool(request.output), goal, missed, style), exit_code=NOT_REACHED if missed else 0
    )


def milestones(request: Request) -> Seen:
    """Trace the subject for its milestones alone; their names are kept. Raises PvhdbgError."""
    with at_entry(request) as machine:
        goal = until(request.until, machine.names)
        engine = choose(request, machine, states=True)
        seen = Seen(head_of(engine, "milestones", machine), machine.names, warnings=machine.warnings)
        _follow(request, engine, machine, goal, seen, None)
        seen.names = machine.names.kept(places(seen))
    return seen


def milestones_from_here(request: Request) -> Answer:
    """`milestones`, in a session: `trace` for the milestones alone."""
    return trace(Request({**request.values, "what": "milestones"}, request.progress, request.session))


def _scope(request: Request, machine: Machine) -> Scope:
    """What `--from` and `--filter` leave. A place to begin at is run to at full speed. Raises BadInput, EntryNotReached, GuestDied."""
    inside = code_of(request.filter, machine.names) if request.filter else None
    if str(request.what) in ("milestones", "calls") and request.filter:
        raise BadInput(f"--filter does not go with --what {request.what}", "use --what pc or --what state")
    start = until(request.start, machine.names, "--from")
    if start.serial is not None:
        raise BadInput(
            f"--from {start.text} is no place to begin at", "begin at a place, in a mode, or after a number of instructions"
        )
    if start.addresses:
        run_until(machine.target, start.addresses, seconds(request), progress=request.progress)
        return Scope(inside=inside)
    if start.text and str(request.what) in ("milestones", "calls"):
        raise BadInput(f"--from {start.text} does not go with --what {request.what}", "give a place, or use --what pc")
    return Scope(start.count or 0, start.modes, inside)


def _follow(
    request: Request,
    engine: Engine,
    machine: Machine,
    goal: Until,
    seen: Seen,
    write: Callable[[str], None] | None,
    scope: Scope | None = None,
) -> None:
    """Run the engine to the goal, and keep what is to be shown."""
    scope = scope or Scope()
    behind = bool(request.start) or machine.behind
    registers = machine.target.read_registers() if behind else machine.boot.snapshot.registers
    watched = {**machine.names.found(SYMBOLS), **own_milestones(request, machine.names)}
    finder = Boots(lambda: Finder(watched, {name: registers[name] for name in registers}), entry_of(machine))
    what = str(request.what or "milestones")
    serial = looked_for(request, machine, engine.name, goal.text if goal.serial is not None else None)
    count = _count(request, goal, scope)
    if count is None and not scope.everything and not _endless(request, goal):
        scope.most = SHOWN
    bounds = Bounds(goal.addresses, count, seconds(request))
    hurries, hurried = _hurries(request, engine, goal, what), False
    began = looked = time.monotonic()
    if write is not None:
        write(encode(seen.head))
    with machine.interruptible(engine):
        for batch in engine.batches(bounds):
            batch, enough = _cut(batch, goal)
            found = [one for one in finder.feed(batch) if not behind or one.seq or one.name not in _ENTERED]
            seen.events += len(batch)
            found += serial.look(seen.events)
            enough |= any(one.name == goal.text for one in found if one.pc is None)
            seen.milestones += found
            if what != "milestones":
                _keep(replace(batch, deltas=None) if what == "pc" else batch, seen, write, scope)
            elif write is not None:
                for fault in batch.faults:
                    write(encode(fault))
            if batch.reset is not None:
                _note_reset(batch.reset, seen, write)
            _write(write, found, seen)
            now = time.monotonic()
            if now - looked > _RATE_EVERY and len(batch):
                rate = seen.events / (now - began)
                request.progress(f"tracing: {seen.events:,} instructions, {rate:,.0f} a second, at {batch.pcs[-1]:#x}")
                looked = now
            if hurries and not hurried and finder.settled and serial.complete:
                hurried = True
                engine.stop()  # what the guest ran meanwhile is in the log, and comes yet
            if (
                enough
                or scope.full
                or (not hurries and what == "milestones" and not goal.text and finder.complete and serial.complete)
            ):
                break
    if goal.serial is None or not enough:
        left = serial.finish(seen.events)
        seen.milestones += left
        _write(write, left, seen)
    seen.end = engine.end
    seen.warnings += [*engine.warnings, *serial.warnings]
    counted = not (hurried and seen.end.why == "interrupted")
    if not counted:
        seen.end = End("enough")
        if finder.left or goal.addresses:
            time_left = max(bounds.seconds - (time.monotonic() - began), 0.001)
            seen.end = run_on(machine, goal, finder.left, time_left, seen, lambda one: _write(write, [one], seen))
    arrived = finder.left.get(seen.end.pc) if seen.end.why == "address" and seen.end.pc is not None else None
    if arrived is not None and seen.end.pc is not None:  # it stands there, and has not begun
        seen.milestones.append(Milestone(arrived, seen.events, seen.end.pc, counted=counted))
        _write(write, seen.milestones[-1:], seen)
    seen.seconds = time.monotonic() - began
    machine.ended = seen.end.words if seen.end.final else None


def _hurries(request: Request, engine: Engine, goal: Until, what: str) -> bool:
    """Whether the last places are run to at full speed: counting every instruction to them takes minutes, and nobody asked for it."""
    counts = goal.modes or goal.count is not None or goal.serial is not None
    return what == "milestones" and request.engine in (None, "auto") and engine.name == "log" and not counts


def _endless(request: Request, goal: Until) -> bool:
    return bool(goal.text or request.output or request.tail or str(request.what or "milestones") == "milestones")


def _count(request: Request, goal: Until, scope: Scope) -> int | None:
    """After how many instructions the trace ends by itself; None where something else ends it."""
    return goal.count if _endless(request, goal) or not scope.everything else SHOWN


def _write(write: Callable[[str], None] | None, found: Sequence[Milestone], seen: Seen) -> None:
    for one in found if write is not None else ():
        write(seen.lines.line(one))  # type: ignore[misc]


def _note_reset(reset: Reset, seen: Seen, write: Callable[[str], None] | None) -> None:
    seen.resets.append(reset)
    if write is not None:
        write(seen.lines.line(reset))
    elif reset.goes_on:
        seen.last.append(reset)


def _cut(batch: Batch, goal: Until) -> tuple[Batch, bool]:
    met = first_in(batch.modes, goal.modes)
    return (batch, False) if met is None else (batch.cut(met + 1), True)


def _keep(batch: Batch, seen: Seen, write: Callable[[str], None] | None, scope: Scope) -> None:
    if not scope.everything:
        for row in _merged(scope.rows(batch), batch.faults):
            if write is None:
                seen.last.append(row)
            else:
                write(seen.lines.line(row))
        return
    if write is None:
        kept = seen.last.maxlen or 1
        start = max(len(batch) - kept, 0)
        rows: list[Event | Fault] = [batch.event(index) for index in range(start, len(batch))]
        seen.last.extend(_merged(rows, batch.faults))
        return
    for row in _merged(list(batch), batch.faults):
        write(seen.lines.line(row))


def _merged(rows: list[Event] | list[Event | Fault], faults: object) -> Iterator[Event | Fault]:
    waiting = deque(faults)  # type: ignore[call-overload]
    for row in rows:
        while waiting and waiting[0].seq <= row.seq:
            yield waiting.popleft()
        yield row
    yield from waiting


def _finish(write: Callable[[str], None], seen: Seen, tail: bool) -> None:
    if tail:
        write(encode(seen.head))
        for row in seen.last:
            write(seen.lines.line(row))
        if seen.resets and not seen.resets[-1].goes_on:
            write(seen.lines.line(seen.resets[-1]))
        _write(write, seen.milestones, seen)
    write(encode(Ending(seen.end.why, seen.events)))


def _writer(request: Request, stack: ExitStack) -> Callable[[str], None] | None:
    if not request.output:
        return None
    from pvhdbg.commands.output import open_output

    output = stack.enter_context(open_output(str(request.output)))
    return output.put
