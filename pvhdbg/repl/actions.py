"""The prompt's own commands. Each takes its options and a context whose `face` is the conversation, and returns an Answer."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import replace
from typing import Literal, NamedTuple

from pvhdbg.commands.declare import Answer, Context, NoOptions, takes
from pvhdbg.commands.handoff import RegsOptions, regs
from pvhdbg.commands.options import NOT_REACHED
from pvhdbg.commands.travel import moved
from pvhdbg.decode import qemu_monitor
from pvhdbg.decode.cpu_mode import CODE_64, long_mode_active, mode_of
from pvhdbg.decode.text import printable, safe
from pvhdbg.driver.travel import Travel
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.machine import context_view, disassemble
from pvhdbg.machine.session import Session
from pvhdbg.machine.stop_text import instruction, position
from pvhdbg.model import Registers
from pvhdbg.repl.breakpoints import Breakpoint, resolve
from pvhdbg.repl.conversation import Conversation
from pvhdbg.targets.target import Leave, Stop, StopKind
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.mode_words import MODES

_LONGEST = 999_999.0  # seconds of a run without a limit
_MOST_STEPS = 1_000_000  # of one `stepi`: minutes
_TELL_EVERY = 0.5  # seconds
_MOST_BYTES = 1 << 14  # that x shows at once
_ROW = 16  # bytes of a line
_STRING = 200  # bytes of a string that x shows


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


def _stopped(context: Context, stop: Stop, found: Breakpoint | None) -> list[str]:
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


def _of(found: Breakpoint, context: Context) -> str:
    return f"breakpoint {found.number}, {_place(_session(context))}"


def _place(session: Session) -> str:
    return ", ".join(position(session))


def _instruction(context: Context, named: bool = True) -> list[str]:
    """What is shown behind the reason of a stop: the next instruction, or the context view."""
    if _face(context).shows_context:
        return context_view.context(_session(context))
    return instruction(_session(context), named)


class ContextOptions(NamedTuple):
    """The options of `context`: whether each stop shows the view from now on; None shows it once."""

    when: Literal["on", "off"] | None = None


@takes(ContextOptions)
def context(options: ContextOptions, context: Context) -> Answer:
    """`context`: the view of this stop, or at each stop from now on."""
    if options.when is not None:
        _face(context).shows_context = options.when == "on"
    return _lines([] if options.when == "off" else context_view.context(_session(context)))


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
    """`info breakpoints`: one line each."""
    return _lines([one.line() for one in _face(context).machine.breakpoints.all()] or ["no breakpoints"])


# --- looking ------------------------------------------------------------------------------------------------------


@takes(RegisterOptions)
def info_registers(options: RegisterOptions, context: Context) -> Answer:
    """`info registers`: all as `regs` shows them, or some by name."""
    return regs(RegsOptions(name=options.name), context)


_X = re.compile(r"/(\d{0,5})([xduisbhwg]{0,2})", re.ASCII)
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}


@takes(MemoryOptions)
def x(options: MemoryOptions, context: Context) -> Answer:
    """`x`: memory at a linear address. An empty line continues where it ended."""
    face, session = _face(context), _session(context)
    first, words = options.format_, list(options.address)
    if first is not None and not first.startswith("/"):
        words.insert(0, first)
        first = None
    match = _X.fullmatch(first or "/")
    if match is None:
        raise BadInput(f"{first} is not a format", "write a count, one of x d u i s, and one of b h w g: /8xw")
    count, letters = int(match[1] or 1), match[2]
    unit = next((_SIZES[letter] for letter in letters if letter in _SIZES), 4)
    kind = next((letter for letter in letters if letter not in _SIZES), "x")
    if not 0 < count * (16 if kind in "is" else unit) <= _MOST_BYTES:
        raise BadInput(f"{count} cannot be shown at once", "give a smaller count")
    address = session.address(" ".join(words)) if words else session.address("$pc")
    if kind == "i":
        mode, found = disassemble.instructions(session, address, count + 1)
        if len(found) > count:
            face.goes_on(f"x{first} {found[count].address:#x}")
        return _lines(disassemble.lines(mode, found[:count])[1:])
    if kind == "s":
        return _lines(_strings(context, address, count, first or "/s"))
    data = session.linear(address, count * unit)
    face.goes_on(f"x{first or ''} {address + len(data):#x}")
    return _lines(_numbers(address, data, unit, kind))


def _numbers(address: int, data: bytes, unit: int, kind: str) -> list[str]:
    lines = []
    for start in range(0, len(data), _ROW):
        values = [data[at : at + unit] for at in range(start, min(start + _ROW, len(data)), unit)]
        if kind == "x":
            words = [f"0x{int.from_bytes(value, 'little'):0{2 * unit}x}" for value in values]
        else:
            words = [str(int.from_bytes(value, "little", signed=kind == "d")) for value in values]
        lines.append(f"{address + start:#x}:  {'  '.join(words)}")
    return lines


def _strings(context: Context, address: int, count: int, format: str) -> list[str]:
    session, lines = _session(context), []
    for _ in range(count):
        data = bytearray()
        while len(data) < _STRING:
            byte = session.linear(address + len(data), 1)
            if byte == b"\0":
                break
            data += byte
        lines.append(f'{address:#x}:  "{printable(bytes(data))}"' + ("…" if len(data) == _STRING else ""))
        address += len(data) + (len(data) < _STRING)
    _face(context).goes_on(f"x{format} {address:#x}")
    return lines


@takes(WordsOptions)
def monitor(options: WordsOptions, context: Context) -> Answer:
    """`monitor`: a command of QEMU's monitor, and its output."""
    session = _session(context)
    session.needs_control("monitor")
    command = " ".join(options.command)
    if not command:
        raise BadInput("monitor needs a command", "usage: monitor COMMAND")
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
