"""`finish` without debug info: run until the current function returns to its caller.

A function's own return finds the stack pointer where it is now or above; a return of a call inside the function finds it below. So
every instruction that can leave the function (a return, a jump out of it) gets a breakpoint, and the machine runs at full speed until one of
them is executed in the function's own frame. Behind a jump out, the function that it leads to is the one that returns. Where the function's
limits are not known (no symbol), or it has more ways out than there are breakpoints, the machine is stepped, and calls are run over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.disassembly import CallFlow, CodePart, has_iced, parts
from pvhdbg.errors import PvhdbgError, TargetError
from pvhdbg.machine.disassemble import linear_pc
from pvhdbg.repl.running import Went
from pvhdbg.targets.target import Stop, StopKind

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.repl.running import Runner

_LONGEST_FUNCTION = 1 << 16  # bytes
_LONGEST_CODE = 15  # bytes of an instruction
_HOPS = 100_000  # stops at ways out; the time limit comes first
_STEPS = 100_000  # instructions
_LEAST = 0.001  # seconds of a run
_RETURNS = (CallFlow.RETURN, CallFlow.INTERRUPT_RETURN)


class _Way(Enum):
    """How an instruction leaves a function."""

    RETURN = "return"
    JUMP = "jump"
    END = "the code behind it"


def finish(runner: Runner, session: Session, seconds: float, tell: Callable[[str], None]) -> Went | None:
    """Run until the current function has returned: None. Where something else stopped the machine first, how it did.

    Raises TargetError where the stack pointer is not known, or no disassembler is installed.
    """
    if not has_iced():
        raise TargetError("finish needs a disassembler", "install it: pip install iced-x86")
    deadline = time.monotonic() + seconds
    frame = _stack(session)
    for _ in range(_HOPS):
        ways = _ways_out(session)
        if ways is None or len(ways) > runner.slots():
            return _by_steps(runner, session, frame, deadline, tell)
        went = _to_a_way_out(runner, session, frame, ways, deadline)
        if went is not None:
            return went
        way = ways[linear_pc(session)]
        if way is _Way.END:
            continue
        went = _stepped(runner, deadline)
        if went is not None or way is _Way.RETURN:
            return went
    return Went(Stop(StopKind.BREAKPOINT), late=True)


def _stack(session: Session) -> int:
    found = session.registers().get("rsp")
    if found is None:
        raise TargetError("the stack pointer was not observed", "run to a place: until ADDRESS")
    return found


def _to_a_way_out(runner: Runner, session: Session, frame: int, ways: dict[int, _Way], deadline: float) -> Went | None:
    """Run to one of the ways out in this frame: None. Else how the run ended."""
    for _ in range(_HOPS):
        if linear_pc(session) in ways:
            if _stack(session) >= frame:
                return None
            went = _stepped(runner, deadline)  # of a call of the same function, further down
            if went is not None:
                return went
            continue
        went = runner.go(tuple(ways), max(deadline - time.monotonic(), _LEAST))
        if went.found is not None or went.late or went.stop.kind is not StopKind.BREAKPOINT or linear_pc(session) not in ways:
            return went
    return Went(Stop(StopKind.BREAKPOINT), late=True)


def _stepped(runner: Runner, deadline: float) -> Went | None:
    """One instruction; how it ended where that was not as asked."""
    walked = runner.step_until(lambda _: False, 1, max(deadline - time.monotonic(), _LEAST))
    if runner.ended is not None:
        return Went(Stop(StopKind.SHUTDOWN, 3, runner.ended))
    if walked.found is not None or walked.stop is not None:
        return Went(walked.stop or Stop(StopKind.BREAKPOINT), walked.found)
    return None


def _ways_out(session: Session) -> dict[int, _Way] | None:
    """The instructions by which the function at the pc is left; None where its code cannot be followed."""
    pc, bits = linear_pc(session), observed_mode(*session.cpu()).code
    limits = _limits(session, pc)
    if limits is None or bits is None:
        return None
    start, end = limits
    try:
        code = session.linear(start, end - start)
    except PvhdbgError:
        return None
    found = {end: _Way.END}
    at = start
    for one in parts(code, start, bits):
        at = start + one.offset
        outside = one.leads is None or any(not start <= lead < end for lead in one.leads)
        if one.flow in _RETURNS:
            found[at] = _Way.RETURN
        elif one.flow is CallFlow.NEXT and outside:
            found[at] = _Way.JUMP
        at += one.size
    return found if pc < at else None  # else the code in front of the pc could not be decoded


def _limits(session: Session, pc: int) -> tuple[int, int] | None:
    """The linear addresses of the function's first byte and of the one behind its last, by the symbols."""
    symbols, placement = session.symbols, session.placement
    physical = placement.physical(pc)
    if symbols is None or physical is None or placement.found is False:
        return None
    linked = physical - placement.load_bias
    near = symbols.nearest(linked)
    if near is None or near[1] > _LONGEST_FUNCTION:
        return None
    first = linked - near[1]
    low, high = linked, linked + _LONGEST_FUNCTION  # the last address inside lies in between
    while low < high:
        middle = (low + high + 1) // 2
        at = symbols.nearest(middle)
        if at is not None and middle - at[1] == first:
            low = middle
        else:
            high = middle - 1
    if low == linked + _LONGEST_FUNCTION:
        return None
    return pc - near[1], pc + low + 1 - linked


def _instruction(session: Session, pc: int, bits: int) -> CodePart | None:
    """The instruction at the pc; None where it cannot be read, as before the fault of a jump to nowhere."""
    for size in (_LONGEST_CODE, 0x1000 - pc % 0x1000):
        try:
            return next(iter(parts(session.linear(pc, size), pc, bits)), None)
        except PvhdbgError:
            pass
    return None


def _by_steps(runner: Runner, session: Session, frame: int, deadline: float, tell: Callable[[str], None]) -> Went | None:
    bits = observed_mode(*session.cpu()).code
    if bits is None:
        raise TargetError("the width of the code was not observed", "run to a place: until ADDRESS")
    for _ in range(_STEPS):
        pc, stack = linear_pc(session), _stack(session)
        tell(f"finish: at {pc:#x}")
        one = _instruction(session, pc, bits)
        if time.monotonic() > deadline:
            break
        went = _stepped(runner, deadline)
        if went is not None:
            return went
        if one is not None and one.flow in _RETURNS and stack >= frame:
            return None
        if one is not None and one.flow is CallFlow.CALL and _stack(session) < stack:
            went = _to_a_way_out(runner, session, stack, {pc + one.size: _Way.END}, deadline)
            if went is not None:
                return went
    return Went(Stop(StopKind.BREAKPOINT), late=True)
