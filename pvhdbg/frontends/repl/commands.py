"""What the prompt's own verbs do. Each takes a Request whose session's `face` is the conversation, and returns an Answer."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING

from pvhdbg.decode.text import printable, safe
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.frontends.repl.breakpoints import Breakpoint, resolve
from pvhdbg.frontends.standing import instruction, place
from pvhdbg.frontends.verb import Answer, Request
from pvhdbg.model import Registers
from pvhdbg.spec.x86 import EFER
from pvhdbg.targets.target import Leave, Stop, StopKind
from pvhdbg.trace.event import mode_of
from pvhdbg.trace.mode_words import MODES

if TYPE_CHECKING:
    from pvhdbg.frontends.repl.conversation import Conversation
    from pvhdbg.frontends.session import Session

_MOST_STEPS = 1_000_000  # of one `until MODE`: minutes
_MOST_BYTES = 1 << 14  # that x shows at once
_ROW = 16  # bytes of a line
_STRING = 200  # bytes of a string that x shows


def _face(request: Request) -> Conversation:
    assert request.session is not None
    face: Conversation = request.session.face
    return face


def _session(request: Request) -> Session:
    assert request.session is not None
    return request.session


def _lines(lines: list[str]) -> Answer:
    text = "".join(f"{line}\n" for line in lines)
    return Answer(lambda _: text)


# --- running ------------------------------------------------------------------------------------------------------


def continue_(request: Request) -> Answer:
    """`continue`: to the next stop."""
    stop, found = _face(request).machine.runner.go()
    return _lines(_stopped(request, stop, found))


def stepi(request: Request) -> Answer:
    """`stepi`: some instructions."""
    if not 0 < request.count <= _MOST_STEPS:
        raise BadInput(f"{request.count} instructions cannot be stepped", f"give a count of 1 to {_MOST_STEPS}")
    machine = _face(request).machine
    found = machine.runner.step(request.count)
    if machine.ended is not None:
        return _lines(_stopped(request, Stop(StopKind.SHUTDOWN, 3, machine.ended), None))
    return _lines([*([_of(found, request)] if found is not None else []), *_instruction(request)])


def until(request: Request) -> Answer:
    """`until`: to a symbol or an address at full speed, or step by step into a mode."""
    where = " ".join(request.where)
    if where in MODES:
        return _until_mode(request, where)
    session = _session(request)
    addresses = resolve(session, where).addresses
    session.needs_control("until")
    if session.registers()["rip"] in addresses:
        raise BadInput(f"the machine stands at {where} already", "go on with: continue, stepi")
    stop, found = _face(request).machine.runner.go(addresses)
    return _lines(_stopped(request, stop, found))


def _until_mode(request: Request, mode: str) -> Answer:
    session, machine = _session(request), _face(request).machine
    session.needs_control("until")
    machine.needs_machine()
    reached = _reaches(session, mode)
    if reached(session.registers()):
        raise BadInput(f"the machine is in that mode already: {mode}", "see: mode")
    since, steps = time.monotonic(), [0]

    def counted(registers: Registers) -> bool:
        steps[0] += 1
        return reached(registers)

    with machine.directly():
        done, found = machine.runner.step_until(counted, _MOST_STEPS)
    if machine.ended is not None:
        return _lines(_stopped(request, Stop(StopKind.SHUTDOWN, 3, machine.ended), None))
    took = f"{steps[0]} instructions, {time.monotonic() - since:.1f} s"
    said = f"{mode} after {took}" if done else f"not in {mode} yet after {took}"
    return _lines([*([_of(found, request)] if found is not None else []), said, *_instruction(request)])


class _reaches:
    """Whether registers show one of the modes of a word; for 64-bit code CS is asked for, at each step once long mode is active."""

    def __init__(self, session: Session, mode: str) -> None:
        self._session, self._mode = session, mode
        if session.registers().get("cr0") is None:
            raise TargetError("this stub does not show cr0: the mode cannot be followed", "use a symbol: until SYMBOL")

    def __call__(self, registers: Registers) -> bool:
        cr0, cr4, efer, eflags = (registers.get(name) or 0 for name in ("cr0", "cr4", "efer", "eflags"))
        flags = self._cs_flags() if efer >> EFER["LMA"] & 1 else None  # a selector may stay the same: Linux keeps 8
        return mode_of(cr0, cr4, efer, flags, eflags) in MODES[self._mode]

    def _cs_flags(self) -> int:
        """The cached descriptor of CS; where it is not shown, that of 64-bit code, for which kernels leave compatibility mode at once."""
        if not self._session.target.capabilities.monitor:
            return 1 << 21
        from pvhdbg.decode import qemu_monitor

        return qemu_monitor.cpu_state(self._session.target.monitor("info registers")).segments["cs"].flags or 0


def _stopped(request: Request, stop: Stop, found: Breakpoint | None) -> list[str]:
    """What a stop is worth saying: why, where, and the next instruction."""
    machine = _face(request).machine
    if machine.ended is not None:
        return [f"{machine.ended} (boot it again: restart)", *_instruction(request)]
    if stop.kind is StopKind.SHUTDOWN:
        return [stop.text]
    if found is not None:
        return [_of(found, request), *_instruction(request, named=False)]
    words = {StopKind.INTERRUPT: "interrupted", StopKind.ERROR: f"stopped: {stop.text}"}.get(stop.kind, "stopped")
    return [f"{words}: {_place(_session(request))}", *_instruction(request, named=False)]


def _of(found: Breakpoint, request: Request) -> str:
    return f"breakpoint {found.number}, {_place(_session(request))}"


def _place(session: Session) -> str:
    return ", ".join(place(session))


def _instruction(request: Request, named: bool = True) -> list[str]:
    return instruction(_session(request), named)


# --- breakpoints --------------------------------------------------------------------------------------------------


def break_(request: Request) -> Answer:
    """`break`: at a symbol, an address, or here."""
    session = _session(request)
    session.needs_control("break")
    one = _face(request).machine.breakpoints.add(session, " ".join(request.where) or "$pc")
    at = " and ".join(f"{address:#x}" for address in one.addresses)
    doubt = session.placement.missing if one.physical is not None else ""
    return _lines([f"breakpoint {one.number}: {one.where} at {at}", *([doubt] if doubt else [])])


def delete(request: Request) -> Answer:
    """`delete`: by number, or all."""
    breakpoints = _face(request).machine.breakpoints
    if not request.number:
        breakpoints.clear()
    for number in request.number:
        breakpoints.delete(number)
    return _lines([])


def info_breakpoints(request: Request) -> Answer:
    """`info breakpoints`: one line each."""
    return _lines([one.line() for one in _face(request).machine.breakpoints.all()] or ["no breakpoints"])


# --- looking ------------------------------------------------------------------------------------------------------


def info_registers(request: Request) -> Answer:
    """`info registers`: all as `regs` shows them, or some by name."""
    if not request.name:
        from pvhdbg.frontends.actions import regs

        return regs(request)
    session, lines = _session(request), []
    for word in request.name:
        name = word.removeprefix("$")
        value = session.address(f"${name}")
        named = session.name_of(value) if name in ("rip", "eip", "pc", "rsp", "sp") else None
        lines.append(f"{name:<8} {value:#x}" + (f"  <{printable(named)}>" if named else ""))
    return _lines(lines)


_X = re.compile(r"/(\d{0,5})([xduisbhwg]{0,2})", re.ASCII)
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}


def x(request: Request) -> Answer:
    """`x`: memory at a linear address. An empty line goes on where it ended."""
    from pvhdbg.frontends import disassemble

    face, session = _face(request), _session(request)
    first, words = request.format_, list(request.address)
    if first is not None and not first.startswith("/"):
        first, words = None, [first, *words]
    match = _X.fullmatch(first or "/")
    if match is None:
        raise BadInput(f"{first} is no format", "write a count, one of x d u i s, and one of b h w g: /8xw")
    count, letters = int(match[1] or 1), match[2]
    unit = next((_SIZES[letter] for letter in letters if letter in _SIZES), 4)
    kind = next((letter for letter in letters if letter not in _SIZES), "x")
    if not 0 < count * (16 if kind in "is" else unit) <= _MOST_BYTES:
        raise BadInput(f"{count} cannot be shown at once", "give a smaller count")
    address = session.address(" ".join(words)) if words else session.address("$pc")
    if kind == "i":
        lines = disassemble.lines(session, address, count + 1)
        instructions = [line for line in lines[1:] if not line.startswith("<")]
        if len(instructions) > count:
            face.goes_on(f"x{first} {instructions[count].split(':')[0].split()[-1]}")
            lines = lines[: lines.index(instructions[count])]
        return _lines([line for line in lines[1:] if line])
    if kind == "s":
        return _lines(_strings(request, address, count, first or "/s"))
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


def _strings(request: Request, address: int, count: int, format: str) -> list[str]:
    session, lines = _session(request), []
    for _ in range(count):
        data = bytearray()
        while len(data) < _STRING:
            byte = session.linear(address + len(data), 1)
            if byte == b"\0":
                break
            data += byte
        lines.append(f'{address:#x}:  "{printable(bytes(data))}"' + ("…" if len(data) == _STRING else ""))
        address += len(data) + (len(data) < _STRING)
    _face(request).goes_on(f"x{format} {address:#x}")
    return lines


def monitor(request: Request) -> Answer:
    """`monitor`: what QEMU's monitor prints."""
    session = _session(request)
    session.needs_control("monitor")
    if not request.command:
        raise BadInput("monitor needs a command", "usage: monitor COMMAND")
    text = session.target.monitor(str(request.command))
    if not str(request.command).startswith("info"):
        session.changed()
    return _lines([safe(line) for line in text.splitlines()])


def gdb(request: Request) -> Answer:
    """`gdb`: the line goes to GDB; the conversation itself passes it on. Raises BadInput elsewhere."""
    raise BadInput("there is no GDB here", "start a conversation: pvhdbg repl SUBJECT")


# --- coming and going ---------------------------------------------------------------------------------------------


def reset(request: Request) -> Answer:
    """`reset`: before the first instruction; nothing runs."""
    _face(request).machine.reset()
    return _lines([f"reset: {_place(_session(request))}"])


def restart(request: Request) -> Answer:
    """`restart`: booted again, at the entry."""
    machine = _face(request).machine
    machine.restart()
    entry = machine.session.boot().snapshot.entry
    name = f"<{printable(entry.symbol)}> " if entry.symbol else ""
    at = f"{entry.address:#x} " if entry.address is not None else ""
    return _lines([f"booted again: at the entry {at}{name}".rstrip(), *_instruction(request, named=False)])


def source(request: Request) -> Answer:
    """`source`: the lines of a file; the first error ends it."""
    return _face(request).source(str(request.file))


def shell(request: Request) -> Answer:
    """`shell`: what the user typed goes to the user's shell."""
    if not request.command:
        raise BadInput("shell needs a command", "usage: shell COMMAND")
    done = subprocess.run(str(request.command), shell=True, check=False)  # noqa: S602 - a shell is what was asked for
    return Answer(lambda _: "", exit_code=done.returncode)


def detach(request: Request) -> Answer:
    """`detach`: the machine runs on."""
    return _leave(request, Leave.RUNNING)


def quit(request: Request) -> Answer:
    """`quit`: the machine is left as the command line said."""
    return _leave(request, None)


def kill(request: Request) -> Answer:
    """`kill`: the VMM ends; the prompt stays."""
    face = _face(request)
    _session(request).needs_control("kill")
    face.machine.needs_machine()
    if not face.confirm(f"end the machine at {face.machine.session.target.name}?"):
        return _lines(["not killed"])
    left = face.machine.close(Leave.KILLED)
    return _lines([left or "killed (boot it again: restart)"])


def _leave(request: Request, leave: Leave | None) -> Answer:
    face = _face(request)
    left = face.machine.close(leave)
    face.leaving = True
    return _lines([left] if left else [])
