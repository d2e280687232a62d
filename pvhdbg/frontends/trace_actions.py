"""What the tracer's verbs do. Each function takes a Request and returns an Answer; nothing here prints."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pvhdbg.errors import BadInput, TargetError, TargetLost
from pvhdbg.frontends.trace_subject import Machine, Names, at_entry
from pvhdbg.frontends.verbs import Answer, Request
from pvhdbg.report.style import Style
from pvhdbg.trace.engines.engine import Bounds, End, Engine
from pvhdbg.trace.event import Batch, Event, Fault, Mode
from pvhdbg.trace.first import Reached
from pvhdbg.trace.milestones import SYMBOLS, Finder, Milestone
from pvhdbg.trace.trace_file import Ending, Head, Record, decode, encode, is_trace
from pvhdbg.watching import addresses_of, instruction

_SHOWN = 200  # events that are shown when nothing says how many
_SECONDS = 60.0
_RATE_EVERY = 0.5  # seconds between two looks at the rate
NOT_REACHED = 3
KVM_SLOTS = 4  # hardware breakpoints: the debug registers of the CPU
MOST_BREAKPOINTS = 20
MOST_CPUS = 4096


class Named(Protocol):
    name: str


@dataclass(frozen=True)
class Until:
    """Where a trace ends: at addresses, in a mode, or after a number of instructions."""

    addresses: tuple[int, ...] = ()
    mode: Mode | None = None
    count: int | None = None
    text: str = ""


def until(text: str | None, names: Names) -> Until:
    """What `--until` means: a number of instructions, 0xADDRESS, a mode's name, or a symbol. Raises BadInput."""
    if text is None:
        return Until()
    if text.isdecimal() and text.isascii():
        return Until(count=int(text), text=text)
    if text in {mode.value for mode in Mode}:
        return Until(mode=Mode(text), text=text)
    return Until(addresses_of(text, names, "--until"), text=text)


@dataclass
class Seen:
    """What is kept of a trace for showing it."""

    head: Head
    names: Callable[[int], str | None]
    milestones: list[Milestone] = field(default_factory=list)
    last: deque[Event | Fault] = field(default_factory=deque)
    events: int = 0
    seconds: float = 0.0
    end: End = field(default_factory=lambda: End("stopped"))
    warnings: list[str] = field(default_factory=list)


def trace(request: Request) -> Answer:
    """`trace`: follow the CPU from the entry, or show a saved trace."""
    if is_saved(str(request.subject)):
        return _saved(request)
    what = str(request.what)
    if request.vcpu is not None and not 0 <= request.vcpu < MOST_CPUS:
        raise BadInput(f"--vcpu {request.vcpu} is not a CPU's number", "0 is the first")
    if request.tail is not None and request.tail < 1:
        raise BadInput(f"--tail {request.tail} keeps nothing", "give 1 or more")
    with ExitStack() as stack:
        write = _writer(request, stack)
        machine = stack.enter_context(at_entry(request))
        goal = until(request.until, machine.names)
        if what == "calls":
            from pvhdbg.frontends.trace_calls import calls

            return calls(request, machine, goal, write)
        engine = _engine(request, machine, states=what != "pc")
        seen = Seen(head_of(engine, what, machine), machine.names, warnings=machine.warnings)
        kept = request.tail or (None if request.output else _SHOWN)
        seen.last = deque(maxlen=kept or 1)
        _follow(request, engine, machine, goal, seen, None if request.tail else write)
        if write is not None:
            _finish(write, seen, bool(request.tail))
        shown = [one.pc for one in seen.last if isinstance(one, Event)] if what != "milestones" and not request.output else []
        seen.names = machine.names.kept([*shown, *(one.pc for one in seen.milestones)])
    missed = bool(goal.text) and goal.count is None and seen.end.why not in ("address", "enough")
    return Answer(lambda style: _shown(seen, what, bool(request.output), goal, missed, style), exit_code=NOT_REACHED if missed else 0)


def milestones(request: Request) -> Seen:
    """Trace the subject for its milestones alone; their names are kept. Raises PvhdbgError."""
    with at_entry(request) as machine:
        goal = until(request.until, machine.names)
        engine = _engine(request, machine, states=True)
        seen = Seen(head_of(engine, "milestones", machine), machine.names, warnings=machine.warnings)
        _follow(request, engine, machine, goal, seen, None)
        seen.names = machine.names.kept([one.pc for one in seen.milestones])
    return seen


def head_of(engine: Named, what: str, machine: Machine) -> Head:
    snapshot = machine.boot.snapshot
    vmm = " ".join(part for part in (snapshot.vmm.name, snapshot.vmm.version) if part) or None
    return Head(engine.name, what, snapshot.entry.address, vmm, None if snapshot.kernel is None else snapshot.kernel.path)


def _engine(request: Request, machine: Machine, *, states: bool) -> Engine:
    """The engine that was asked for; `auto` takes the log where QEMU has one for this machine."""
    wanted = request.engine or "auto"
    if wanted == "auto":
        reason = _no_log(machine)
        wanted = "log" if reason is None else "breakpoints" if request.what in (None, "milestones") else "step"
        if reason is not None:
            machine.warnings.append(f"engine {wanted}, because {reason}")
    if request.vcpu and wanted != "log":
        raise BadInput(f"--engine {wanted} follows the first CPU only", "leave out --vcpu, or trace with --engine log")
    if wanted == "breakpoints":
        from pvhdbg.trace.engines.breakpoints import BreakpointEngine

        machine.warnings.append("the engine breakpoints sees the instructions that it stops at: the numbers count those stops")
        slots = KVM_SLOTS if machine.boot.snapshot.vmm.accelerator == "kvm" else MOST_BREAKPOINTS
        return BreakpointEngine(machine.target, _places(request, machine.names), slots=slots)
    if wanted == "first":
        raise BadInput("--engine first shows functions, not instructions", "use it with --what calls")
    if wanted == "step":
        from pvhdbg.trace.engines.step import StepEngine

        return StepEngine(machine.target)
    from pvhdbg.trace.engines.log import LogEngine

    return LogEngine(machine.target, states=states, cpu=request.vcpu or 0, peek=machine.names.code)


def _no_log(machine: Machine) -> str | None:
    """Why QEMU's log cannot be had of this machine; None where it can."""
    if not machine.target.capabilities.monitor:
        return "the stub has no monitor, so there is no log"
    if machine.boot.snapshot.vmm.accelerator == "kvm":
        return "QEMU does not log what KVM executes"
    if machine.qemu is not None:
        return None  # it runs here
    from pvhdbg.trace.engines.log_switch import LogSwitch

    attempt = _Attempt()
    try:
        with interruptible(attempt), LogSwitch(machine.target, "cpu_reset", single=True):
            pass
    except TargetLost:
        raise
    except TargetError as error:
        return f"QEMU's log cannot be had: {error.what}"
    if attempt.interrupted:
        raise KeyboardInterrupt
    return None


class _Attempt:
    """Something short that is not to be torn by Ctrl-C."""

    interrupted = False

    def stop(self) -> None:
        self.interrupted = True


def _places(request: Request, names: Names) -> list[tuple[int, ...]]:
    """The milestones whose addresses are known, in the order of most boots, each with all of them."""
    by_name: dict[str, list[int]] = {}
    for address, name in {**names.found(SYMBOLS), **_wanted(request, names)}.items():
        by_name.setdefault(name, []).append(address)
    first = [name for name in SYMBOLS if name in by_name]
    return [tuple(by_name[name]) for name in [*first, *(name for name in by_name if name not in first)]]


def _follow(
    request: Request, engine: Engine, machine: Machine, goal: Until, seen: Seen, write: Callable[[str], None] | None
) -> None:
    """Run the engine to the goal, and keep what is to be shown."""
    registers = machine.boot.snapshot.registers
    finder = Finder({**machine.names.found(SYMBOLS), **_wanted(request, machine.names)}, {name: registers[name] for name in registers})
    what = str(request.what or "milestones")
    endless = goal.text or request.output or request.tail or what == "milestones"
    bounds = Bounds(goal.addresses, goal.count if endless else _SHOWN, seconds(request))
    began = looked = time.monotonic()
    if write is not None:
        write(encode(seen.head))
    with interruptible(engine):
        for batch in engine.batches(bounds):
            batch, enough = _cut(batch, goal)
            found = finder.feed(batch)
            seen.milestones += found
            seen.events += len(batch)
            if what != "milestones":
                _keep(batch, seen, write)
            elif write is not None:
                for fault in batch.faults:
                    write(encode(fault))
            for one in found if write is not None else ():
                write(encode(one, machine.names(one.pc)))  # type: ignore[misc]
            now = time.monotonic()
            if now - looked > _RATE_EVERY and len(batch):
                rate = seen.events / (now - began)
                request.progress(f"tracing: {seen.events:,} instructions, {rate:,.0f} a second, at {batch.pcs[-1]:#x}")
                looked = now
            if enough or (what == "milestones" and not goal.text and finder.complete):
                break
    seen.seconds = time.monotonic() - began
    seen.end = engine.end
    seen.warnings += engine.warnings


def _wanted(request: Request, names: Names) -> dict[int, str]:
    """The user's own milestones by address. Raises BadInput for one that is no number and no symbol."""
    found: dict[int, str] = {}
    for text in request.milestone or ():
        found.update(dict.fromkeys(addresses_of(text, names, "--milestone"), text))
    return found


def _cut(batch: Batch, goal: Until) -> tuple[Batch, bool]:
    if goal.mode is None or goal.mode not in batch.modes:
        return batch, False
    return batch.cut(batch.modes.index(goal.mode) + 1), True


def _keep(batch: Batch, seen: Seen, write: Callable[[str], None] | None) -> None:
    if write is None:
        kept = seen.last.maxlen or 1
        start = max(len(batch) - kept, 0)
        rows: list[Event | Fault] = [batch.event(index) for index in range(start, len(batch))]
        seen.last.extend(_merged(rows, batch.faults))
        return
    for row in _merged(list(batch), batch.faults):
        write(encode(row, seen.names(row.pc) if isinstance(row, Event) else None))


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
            write(encode(row, seen.names(row.pc) if isinstance(row, Event) else None))
        for one in seen.milestones:
            write(encode(one, seen.names(one.pc)))
    write(encode(Ending(seen.end.why, seen.events)))


def _writer(request: Request, stack: ExitStack) -> Callable[[str], None] | None:
    if not request.output:
        return None
    from pvhdbg.frontends.output import open_output

    output = stack.enter_context(open_output(str(request.output)))
    return output.put


def seconds(request: Request) -> float:
    """How long to follow the guest. Raises BadInput."""
    wanted = _SECONDS if request.seconds is None else float(request.seconds)
    if not 0 < wanted < 1e6:
        raise BadInput(f"--for {wanted:g} is not a time", "give a number of seconds greater than 0")
    return wanted


class Stoppable(Protocol):
    def stop(self) -> None: ...


@contextmanager
def interruptible(engine: Stoppable) -> Iterator[None]:
    """The first Ctrl-C ends the trace with what there is; a second one is an interruption as everywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        engine.stop()

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- showing ------------------------------------------------------------------------------------------------------


def _shown(seen: Seen, what: str, saved: bool, goal: Until, missed: bool, style: Style) -> str:
    from pvhdbg.report import trace_text

    if what == "milestones":
        text = trace_text.milestones(seen.milestones, seen.names, style)
    elif saved:
        text = ""
    else:
        text = trace_text.events(seen.last, seen.names, instruction, style)
    notes = [style("warn", f"note: {warning}") for warning in seen.warnings]
    if missed:
        notes.append(style("bad", f"{goal.text} was not reached"))
    rate = f", {seen.events / seen.seconds:,.0f} a second" if seen.seconds > 0 else ""
    unit = "stops" if seen.head.engine == "breakpoints" else "instructions"
    last = f"{seen.events:,} {unit} in {seen.seconds:.2f} s{rate} (engine {seen.head.engine}); ended: {seen.end.words}"
    return text + "\n".join([*notes, last]) + "\n"


def is_saved(path: str) -> bool:
    import os

    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_trace(file.read(64))
    except OSError:
        return False


def _saved(request: Request) -> Answer:
    """Show a saved trace: what it holds, by the same options."""
    for name in ("until", "output", "engine", "seconds", "milestone"):
        if request.values.get(name):
            raise BadInput(f"{request.subject} is a saved trace, which is only shown", "leave out all but --what and --tail")
    names: dict[int, str] = {}
    seen = Seen(Head("?", "?"), names.get, last=deque(maxlen=request.tail or _SHOWN))
    reached: deque[Reached] = deque(maxlen=request.tail)
    cut = True
    for record in saved(str(request.subject), names):
        if isinstance(record, Head):
            seen.head = record
        elif isinstance(record, Milestone):
            seen.milestones.append(record)
        elif isinstance(record, Ending):
            seen.end, cut = End(record.why), False
            seen.events = record.events
        elif isinstance(record, Reached):
            reached.append(record)
        else:
            seen.events += isinstance(record, Event)
            seen.last.append(record)
    what = str(request.what)
    if what == "milestones" and not seen.milestones:
        what = seen.head.what
    seen.warnings += ["the trace is cut: its end is missing"] if cut else []
    if seen.head.what == "calls":
        from pvhdbg.report import trace_text

        return Answer(lambda style: trace_text.functions(reached, style) + "".join(f"note: {one}\n" for one in seen.warnings))
    return Answer(lambda style: _shown(seen, what, False, Until(), False, style))


def saved(path: str, names: dict[int, str] | None = None) -> Iterator[Record]:
    """The records of a saved trace; `names` is filled with its symbols. Raises BadInput."""
    if not is_saved(path):
        raise BadInput(f"{path} is not a saved trace", "give a file that `pvhdbg trace -o` wrote")
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        yield from decode(file, names)
