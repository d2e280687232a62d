"""The prompt's own commands. Each takes its options and a context whose `face` is the conversation, and returns an Answer."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from typing import NamedTuple

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.commands.handoff import RegsOptions, regs
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.commands.travel import moved
from pvhdbg.decode import qemu_monitor
from pvhdbg.decode.cpu_mode import CODE_64, long_mode_active, mode_of, observed_mode
from pvhdbg.decode.text import printable, safe
from pvhdbg.driver.travel import Travel
from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.machine import context_view
from pvhdbg.machine.disassemble import linear_pc
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import instruction, position
from pvhdbg.model import Registers
from pvhdbg.repl import finishing, memory_view
from pvhdbg.repl.breakpoints import Breakpoint, resolve
from pvhdbg.repl.conversation import Conversation
from pvhdbg.repl.watchpoints import WORDS, WatchedMemory, counted, shown, watch_of
from pvhdbg.report.answers.document import json_of
from pvhdbg.report.answers.prompt import BreakpointsAnswer, DisplaysAnswer, ShownDisplay, StopState
from pvhdbg.targets.target import Leave, Stop, StopKind, WatchKind
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.mode_words import MODES

_LONGEST = 999_999.0  # seconds of a run without a limit
_MOST_STEPS = 1_000_000  # of one `stepi`: minutes
_TELL_EVERY = 0.5  # seconds


class CountOptions(NamedTuple):
    """How many instructions."""

    steps: int = 1


class WhereOptions(NamedTuple):
    """The words of a symbol, an address or a mode."""

    where: tuple[str, ...] = ()


class DeleteOptions(NamedTuple):
    """Numbers of breakpoints."""

    number: tuple[int, ...] = ()


class RegisterOptions(NamedTuple):
    """Names of registers."""

    name: tuple[str, ...] = ()


class MemoryOptions(NamedTuple):
    """The options of `x`: /FORMAT, and the words of an address; a first word without a slash is part of the address."""

    format_: str | None = None
    address: tuple[str, ...] = ()


class WordsOptions(NamedTuple):
    """A line for another program, as it was typed."""

    command: tuple[str, ...] = ()


class KernelOptions(NamedTuple):
    """A kernel file; None to ask for the known one."""

    file: str | None = None


class SourceOptions(NamedTuple):
    """A file of lines."""

    file: str


def _face(context: Context) -> Conversation:
    assert isinstance(context.face, Conversation)
    return context.face


def _session(context: Context) -> Session:
    assert context.session is not None
    return context.session


def _lines(lines: list[str]) -> Answer:
    text = "".join(f"{line}\n" for line in lines)
    return Answer(lambda _: text)


# --- running ------------------------------------------------------------------------------------------------------


@takes(NoOptions)
def continue_(options: NoOptions, context: Context) -> Answer:
    """`continue`: to the next stop."""
    machine = _face(context).machine
    context.progress("the guest runs" + (": Ctrl-C stops it" if machine.attended else ""))
    if machine.repeatable:
        return _onward(context, (), machine.patience, "")
    went = machine.runner.go(seconds=machine.patience)
    late = f"it ran for {machine.patience:g} s (--timeout) without a stop: " if went.late else ""
    return _ended(_stopped(context, went.stop, went.found), late)


@takes(CountOptions)
def stepi(options: CountOptions, context: Context) -> Answer:
    """`stepi`: some instructions."""
    if not 0 < options.steps <= _MOST_STEPS:
        raise BadInput(f"{options.steps} instructions cannot be stepped", f"give a count of 1 to {_MOST_STEPS}")
    machine = _face(context).machine
    context.progress(f"stepping {options.steps} instructions")
    found = machine.runner.step(options.steps)
    if machine.ended is not None:
        return _lines(_stopped(context, Stop(StopKind.SHUTDOWN, 3, machine.ended), None))
    return _lines([*([_of(found, context)] if found is not None else []), *_instruction(context)])


@takes(WhereOptions)
def until(options: WhereOptions, context: Context) -> Answer:
    """`until`: to a symbol or an address, or into a mode."""
    where = " ".join(options.where)
    if where in MODES:
        return _until_mode(context, where)
    session = _session(context)
    addresses = resolve(session, where).addresses
    session.needs_control("until")
    if session.registers()["rip"] in addresses:
        raise BadInput(f"the machine is at {where} already", "go on with: continue, stepi")
    machine = _face(context).machine
    context.progress(f"until {where}")
    if machine.repeatable:
        return _onward(context, addresses, machine.seconds, where)
    went = machine.runner.go(addresses, machine.seconds)
    late = f"{where} was not reached within {machine.seconds:g} s (--timeout): " if went.late else ""
    return _ended(_stopped(context, went.stop, went.found), late)


def _onward(context: Context, addresses: tuple[int, ...], seconds: float, where: str) -> Answer:
    """Run on by the deterministic clock, to a breakpoint or one of `addresses`: see `driver.travel`."""
    session, machine = _session(context), _face(context).machine
    session.needs_control("continue")
    machine.runner.ready_to_run("continue")
    machine.breakpoints.place(session)
    goals = tuple(sorted(machine.breakpoints.addresses() | set(addresses)))
    end = Travel(session, "continue", context.progress).onward(goals, min(seconds, _LONGEST))
    if end.final:
        return _lines(_stopped(context, Stop(StopKind.SHUTDOWN, 3, end.words), None))
    if end.why is EndReason.TIME:
        late = f"{where} was not reached" if where else "it ran"
        return replace(moved(session, f"{late} within {seconds:g} s (--timeout)"), exit_code=NOT_REACHED)
    if end.why is EndReason.INTERRUPTED:
        return moved(session, "interrupted")
    found = machine.breakpoints.at(session.registers()["rip"])
    return moved(session, f"breakpoint {found.number}" if found is not None else "stopped")


def _ended(lines: list[str], late: str) -> Answer:
    """The lines about a stop. Where the run took too long, `late` is the first words, and the exit code is NOT_REACHED."""
    answer = _lines([late + lines[0], *lines[1:]])
    return replace(answer, exit_code=NOT_REACHED) if late else answer


def _until_mode(context: Context, mode: str) -> Answer:
    session, machine = _session(context), _face(context).machine
    session.needs_control("until")
    machine.needs_machine()
    reached = _reaches(session, mode)
    if reached(session.registers()):
        raise BadInput(f"the machine is in that mode already: {mode}", "see: mode")
    since = told = time.monotonic()

    def tell(pc: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            context.progress(f"until {mode}: at {pc:#x}")

    with machine.directly():
        context.progress(f"until {mode}")
        walked = machine.runner.until_true(reached, machine.seconds, tell)
    if machine.ended is not None or walked.stop is not None:
        return _lines(_stopped(context, walked.stop or Stop(StopKind.SHUTDOWN, 3, machine.ended or ""), None))
    took = f"{time.monotonic() - since:.1f} s"
    said = f"{mode} after {took}" if walked.reached else f"not in {mode} yet after {took}"
    said += " (--timeout gives it more)" if walked.late else ""
    hit = [_of(walked.found, context)] if walked.found is not None else []
    answer = _lines([*hit, said, *_instruction(context)])
    return replace(answer, exit_code=NOT_REACHED) if walked.late else answer


class _reaches:
    """Whether registers show one of the modes of a word; once long mode is active, each step reads CS to detect 64-bit code."""

    def __init__(self, session: Session, mode: str) -> None:
        self._session, self._mode = session, mode
        if session.cpu()[0].get("cr0") is None:
            raise TargetError(
                "this stub does not show cr0, and the machine ran freely: its mode is not known", "use a symbol: until SYMBOL"
            )

    def __call__(self, registers: Registers) -> bool:
        if registers.get("cr0") is None:
            return self._by_followed()
        cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
        flags = self._cs_flags() if long_mode_active(registers) else None  # a selector may stay the same: Linux keeps 8
        return mode_of(cr0, cr4, efer, flags, eflags) in MODES[self._mode]

    def _by_followed(self) -> bool:
        registers, segments = self._session.cpu()
        cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
        return mode_of(cr0, cr4, efer, segments["cs"].flags, eflags) in MODES[self._mode]

    def _cs_flags(self) -> int:
        """The cached descriptor of CS; where it is not shown, that of 64-bit code: kernels leave compatibility mode at once."""
        if not self._session.target.capabilities.monitor:
            return CODE_64
        return qemu_monitor.cpu_state(self._session.target.monitor("info registers")).segments["cs"].flags or 0


def _stopped(context: Context, stop: Stop, found: Breakpoint | WatchedMemory | None) -> list[str]:
    """The text for a stop: why, where, and the next instruction."""
    machine = _face(context).machine
    if machine.ended is not None:
        return [f"{machine.ended} (boot it again: restart)", *_instruction(context)]
    if stop.kind is StopKind.SHUTDOWN:
        return [stop.text]
    if found is not None:
        return [_of(found, context), *_instruction(context, named=False)]
    words = {StopKind.INTERRUPT: "interrupted", StopKind.ERROR: f"stopped: {stop.text}"}.get(stop.kind, "stopped")
    return [f"{words}: {_place(_session(context))}", *_instruction(context, named=False)]


def _of(found: Breakpoint | WatchedMemory, context: Context) -> str:
    place = _place(_session(context))
    if isinstance(found, WatchedMemory):
        return f"watchpoint {found.number}, {found.where}: {found.change()}; now at {place}"
    return f"breakpoint {found.number}, {place}"


def _place(session: Session) -> str:
    return ", ".join(position(session))


def _instruction(context: Context, named: bool = True) -> list[str]:
    """The next instruction; nothing where the context follows, which shows it."""
    return [] if _face(context).shows_context else instruction(_session(context), named)


@takes(NoOptions)
def finish(options: NoOptions, context: Context) -> Answer:
    """`finish`: until the current function returns."""
    session, machine = _session(context), _face(context).machine
    session.needs_control("finish")
    machine.needs_machine()
    name = (session.name_of(linear_pc(session)) or "the function").partition("+")[0]
    context.progress(f"finish: {name}")
    went = finishing.finish(machine.runner, session, machine.seconds, context.progress)
    if went is not None:
        late = f"{name} did not return within {machine.seconds:g} s (--timeout): " if went.late else ""
        return _ended(_stopped(context, went.stop, went.found), late)
    value = session.registers().get("rax")
    name_of_value = "rax" if observed_mode(*session.cpu()).code == 64 else "eax"
    gave = "" if value is None else f", {name_of_value} {value:#x}"
    return _lines([f"{name} returned to {_place(session)}{gave}", *_instruction(context, named=False)])


@takes(NoOptions)
def context(options: NoOptions, context: Context) -> Answer:
    """`context`: the view of this stop."""
    face = _face(context)
    found = face.context()
    return Answer(
        lambda style: "".join(f"{line}\n" for line in context_view.text(found, face.parts, style)), lambda: json_of(found)
    )


class SetContextOptions(NamedTuple):
    """Parts of the view, and "on" or "off" last; no words say what holds."""

    words: tuple[str, ...] = ()


@takes(SetContextOptions)
def set_context(options: SetContextOptions, context: Context) -> Answer:
    """`set context`: whether each stop shows the view, and which parts it has. Raises BadInput for an unknown part."""
    face, known = _face(context), {part.value: part for part in context_view.Part}
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
        return _lines([])
    on = [part.value for part in context_view.Part if part in face.parts]
    return _lines([f"context {'on' if face.shows_context else 'off'}: {', '.join(on) or 'place and mode only'}"])


# --- breakpoints --------------------------------------------------------------------------------------------------


@takes(WhereOptions)
def break_(options: WhereOptions, context: Context) -> Answer:
    """`break`: at a symbol, an address, or here."""
    session = _session(context)
    session.needs_control("break")
    one = _face(context).machine.breakpoints.add(session, " ".join(options.where) or "$pc")
    at = " and ".join(f"{address:#x}" for address in one.addresses)
    doubt = session.placement.missing if one.physical is not None else ""
    return _lines([f"breakpoint {one.number}: {one.where} at {at}", *([doubt] if doubt else [])])


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
    session, machine = _session(context), _face(context).machine
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
    return _lines([f"watchpoint {one.number}: {one.where}, {counted(one.size)} at {at}{holds}", *steps])


@takes(DeleteOptions)
def delete(options: DeleteOptions, context: Context) -> Answer:
    """`delete`: by number, or all."""
    breakpoints = _face(context).machine.breakpoints
    if not options.number:
        breakpoints.clear()
    for number in options.number:
        breakpoints.delete(number)
    return _lines([])


@takes(NoOptions)
def info_breakpoints(options: NoOptions, context: Context) -> Answer:
    """`info breakpoints`: one line each, watchpoints too."""
    known = _face(context).machine.breakpoints
    found: list[Breakpoint | WatchedMemory] = sorted((*known.all(), *known.watches()), key=lambda one: one.number)
    text = "".join(f"{one.line()}\n" for one in found) or "no breakpoints\n"
    return Answer(lambda _: text, lambda: json_of(BreakpointsAnswer(tuple(_state(one) for one in found))))


def _state(one: Breakpoint | WatchedMemory) -> StopState:
    if isinstance(one, WatchedMemory):
        word, access = WORDS[one.access], one.access.value
        return StopState(one.number, word, one.where, one.addresses, one.size, access, one.by_steps, one.hits, one.value)
    return StopState(one.number, "break", one.where, one.addresses, None, None, False, one.hits, None)


# --- looking ------------------------------------------------------------------------------------------------------


@takes(RegisterOptions)
def info_registers(options: RegisterOptions, context: Context) -> Answer:
    """`info registers`: all as `regs` shows them, or some by name."""
    return regs(RegsOptions(name=options.name), context)


@takes(MemoryOptions)
def x(options: MemoryOptions, context: Context) -> Answer:
    """`x`: memory at a linear address. An empty line continues where it ended."""
    session = _session(context)
    format, what = _format_and_words(options)
    found = memory_view.shown(session, format, session.address(what or "$pc"))
    if found.behind is not None:
        _face(context).goes_on(f"x{format} {found.behind:#x}")
    return _lines(found.lines)


def _format_and_words(options: MemoryOptions) -> tuple[str, str]:
    """The /FORMAT, empty without one, and the words of the address."""
    first, words = options.format_ or "", list(options.address)
    if first and not first.startswith("/"):
        return "", " ".join([first, *words])
    return first, " ".join(words)


@takes(MemoryOptions)
def display(options: MemoryOptions, context: Context) -> Answer:
    """`display`: show something at each stop from now on; without an argument show all of it now."""
    face, session = _face(context), _session(context)
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
    displays = _face(context).displays
    if not options.number:
        displays.clear()
    for number in options.number:
        displays.delete(number)
    return _lines([])


@takes(WordsOptions)
def monitor(options: WordsOptions, context: Context) -> Answer:
    """`monitor`: a command of QEMU's monitor, and its output."""
    session = _session(context)
    session.needs_control("monitor")
    command = " ".join(options.command)
    if not command:
        raise BadInput("monitor needs a command", "usage: monitor COMMAND")
    context.progress(f"monitor: {command}")
    text = session.target.monitor(command)
    if not command.startswith("info"):
        session.changed()
    return _lines([safe(line) for line in text.splitlines()])


@takes(WordsOptions)
def gdb(options: WordsOptions, context: Context) -> Answer:
    """`gdb`: the line goes to GDB; the conversation itself passes it on. Raises BadInput elsewhere."""
    raise BadInput("gdb works at the prompt only", "start a conversation: pvhdbg repl SUBJECT")


@takes(KernelOptions)
def kernel(options: KernelOptions, context: Context) -> Answer:
    """`kernel`: which file symbols, notes and rules are of."""
    session = _session(context)
    if options.file is not None:
        _face(context).machine.use_kernel(options.file)
    if session.image is None:
        session.boot()  # where the monitor names it, it is found by this
    if session.image is None:
        raise BadInput("no kernel file is known", session.naming)
    how = "named" if session.named is session.image else "found: QEMU's monitor names it, and memory holds it"
    missing = session.placement.missing
    return _lines([f"{safe(session.image.path)} ({how})", *([missing] if missing else [])])


# --- coming and going ---------------------------------------------------------------------------------------------


@takes(NoOptions)
def reset(options: NoOptions, context: Context) -> Answer:
    """`reset`: back to before the first instruction; the machine stays stopped."""
    _face(context).machine.reset()
    return _lines([f"reset: {_place(_session(context))}"])


@takes(NoOptions)
def restart(options: NoOptions, context: Context) -> Answer:
    """`restart`: boot again to the entry."""
    machine = _face(context).machine
    machine.restart()
    entry = machine.session.boot().snapshot.entry
    name = f"<{printable(entry.symbol)}> " if entry.symbol else ""
    at = f"{entry.address:#x} " if entry.address is not None else ""
    return _lines([f"booted again: at the entry {at}{name}".rstrip(), *_instruction(context, named=False)])


@takes(SourceOptions)
def source(options: SourceOptions, context: Context) -> Answer:
    """`source`: the lines of a file; the first error ends it."""
    return _face(context).source(options.file)


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
    face = _face(context)
    _session(context).needs_control("kill")
    face.machine.needs_machine()
    if not face.confirm(f"end the machine at {face.machine.session.target.name}?"):
        return _lines(["not killed"])
    left = face.machine.close(Leave.KILLED)
    return _lines([left or "killed (boot it again: restart)"])


def _leave(context: Context, leave: Leave | None) -> Answer:
    face = _face(context)
    left = face.machine.close(leave)
    face.leaving = True
    return _lines([left] if left else [])
