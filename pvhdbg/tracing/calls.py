"""The call chain at a death: by Linux' ORC tables, by DWARF's call frame tables, by frame pointers, on from there by a debugger's frames, else
by return addresses that lie on the stack. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import mode_in
from pvhdbg.decode.text import SafeText
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.orc import Orc, OrcTables
from pvhdbg.tracing.stack import words
from pvhdbg.tracing.unwinding import LARGEST_FRAME, MOST, By, Frame, StackMemory

_UNWOUND = ("rsp", "rbp", "rbx", "r12", "r13", "r14", "r15", "rsi", "rdi")  # those that a caller's frame may depend on
_STOPS = re.compile(r"panic|assert|abort|die|fatal|bug|fail|error|halt", re.IGNORECASE)


class Call(NamedTuple):
    """One place in the chain, the innermost first: an address, its name, how it is known, and the strings that its frame points to.

    `line` is "file:line" of the call, by the kernel's debug info. `returns`: pc is a return address, behind its call; else it is that of
    an instruction, where the CPU is or where it was interrupted.
    """

    pc: int
    name: str | None
    by: By
    strings: tuple[str, ...] = ()
    line: SafeText | None = None
    returns: bool = True


class LastFunctions(NamedTuple):
    """The last functions that a CPU ran by the flight recorder, the last one at the end, and the number of blocks that were kept of it."""

    cpu: int
    functions: tuple[str, ...]
    blocks: int


def chain(state: Mapping[str, int], around: Surroundings, theirs: Sequence[int] = ()) -> tuple[Call, ...]:
    """The calls that led to the state, the innermost first; () where the stack or the code was not observed.

    `theirs` are the pcs of a debugger's frames at that state, where there is one: they go on where the tables and frame pointers end.
    """
    if "rsp" not in state or "rip" not in state or mode_in(state) is None:
        return ()
    tables = OrcTables.of(around)
    memory = StackMemory(state, around)
    here = Frame(state["rip"], state["rsp"], state.get("rbp", 0), interrupted=True)
    frames = [(here, By.PC)]
    if tables is not None:
        frames += Orc(tables, memory).unwind(here, state)
    if len(frames) == 1:
        frames += [(frame, By.CFI) for frame in _by_call_frames(here, memory, state, around)]
    if len(frames) == 1:
        framed = _by_frame_pointers(here, memory)
        frames += [(frame, By.STACK) for frame in _before_the_frame(here, framed, memory)]
        frames += [(frame, By.FRAME) for frame in framed]
    frames += [(Frame(pc, 0, 0), By.DEBUGGER) for pc in _beyond([frame.pc for frame, _ in frames], theirs, memory)]
    if len(frames) == 1:
        frames += [(Frame(word, at, 0), By.STACK) for at, word in words(state, around) if memory.is_return(word)]
    return tuple(_call(frame, by, memory, around, index) for index, (frame, by) in enumerate(frames[:MOST]))


def with_lines(calls: Iterable[Call], line: Callable[[int], SafeText | None]) -> tuple[Call, ...]:
    """The calls with their source lines. `line` gives that of a linear address; a return address is behind its call."""
    return tuple(one._replace(line=line(one.pc - (1 if one.returns else 0))) for one in calls)


def _beyond(known: Sequence[int], theirs: Sequence[int], memory: StackMemory) -> list[int]:
    """The return addresses behind those that are known, if the debugger found all of these, up to the first that no call is before."""
    if list(theirs[: len(known)]) != list(known):
        return []
    return list(takewhile(memory.is_return, theirs[len(known) :]))


def _call(frame: Frame, by: By, memory: StackMemory, around: Surroundings, index: int) -> Call:
    # A return address may be that of the next function, where the call is the last thing that a function does.
    returns = not frame.interrupted and memory.is_return(frame.pc)
    name = around.name(frame.pc - (1 if returns else 0))
    shown = around.name(frame.pc) if name is None or not returns else _plus_one(name)
    strings = (
        memory.strings(frame.stack, index == 0)
        if name is not None and _STOPS.search(name) and by not in (By.STACK, By.DEBUGGER)
        else ()
    )
    return Call(frame.pc, shown, by, strings, returns=returns)


def _plus_one(name: str) -> str:
    symbol, plus, offset = name.partition("+")
    try:
        return f"{symbol}+{int(offset or '0', 16) + 1:#x}"
    except ValueError:
        return f"{symbol}{plus}{offset}"


def _before_the_frame(here: Frame, framed: Sequence[Frame], memory: StackMemory) -> list[Frame]:
    """The return addresses of the innermost function where it has no frame of its own, at its beginning and end or never; [] where it has.

    They are on top of the stack, or below one word of the function's own.
    """
    if not framed:
        return []
    function, frames = memory.function(here.pc), []
    if function not in (None, here.pc) and memory.called(framed[0].pc) == function:
        return []
    # Code that has just pushed rbp, or a retpoline, has one word of its own there.
    deeper = memory.is_thunk(here.pc) or memory.read(here.pc, 3).removeprefix(b"\x48")[:2] in (b"\x89\xe5", b"\x8b\xec")
    for index in range(2):
        back = memory.word_at(here.stack + index * memory.word)
        if back is None or back == framed[0].pc or not memory.is_return(back):
            continue
        called = memory.called(back)
        if called == function if None not in (called, function) else index == 0 or deeper:
            frames.append(Frame(back, here.stack + (index + 1) * memory.word, here.base))
    return frames


def _by_frame_pointers(here: Frame, memory: StackMemory) -> list[Frame]:
    frames: list[Frame] = []
    stack, base = here.stack, here.base
    while len(frames) < MOST and 0 <= base - stack <= LARGEST_FRAME and base % 4 == 0:
        previous, back = memory.word_at(base), memory.word_at(base + memory.word)
        if previous is None or back is None or not memory.is_return(back):
            break
        stack = base + 2 * memory.word
        frames.append(Frame(back, stack, previous))
        base = previous
    return frames


def _by_call_frames(here: Frame, memory: StackMemory, state: Mapping[str, int], around: Surroundings) -> list[Frame]:
    """The frames by DWARF's tables; each row is a register and an offset (DWARF 5, 6.4.1). Ends where a caller is not code."""
    frames: list[Frame] = []
    registers: dict[str, int] = {name: value for name, value in state.items() if name in _UNWOUND}
    pc, stack, lowest = here.pc, here.stack, here.stack - 1
    while len(frames) < MOST:
        rule = around.frame_rule(pc - (1 if frames else 0))
        start = None if rule is None else registers.get(rule.cfa)
        if rule is None or start is None or not lowest < start + rule.offset <= stack + LARGEST_FRAME:
            break
        above = start + rule.offset
        back = memory.word_at(above + rule.back)
        if back is None or not memory.is_return(back):
            break
        saved = {name: memory.word_at(above + at) for name, at in rule.saved.items()}
        registers |= {name: value for name, value in saved.items() if value is not None}
        registers["rsp"] = stack = lowest = above
        pc = back
        frames.append(Frame(pc, stack, registers.get("rbp", 0)))
    return frames
