"""The next stops: the first instruction on each path from here that changes the system, found by reading code only.

A walk follows the next instruction, direct jumps and direct calls. A path ends at the first instruction that changes the system, at one
whose target only the CPU knows (an indirect jump or call, a return past the beginning), and at `hlt`. An engine that stops there, steps
once and walks again sees every such instruction, whatever path the CPU takes.
"""

from __future__ import annotations

from collections import deque

from pvhdbg.decode.paging import Read
from pvhdbg.tracing.encoding import LONGEST, goal, is_jump, length
from pvhdbg.tracing.opcodes import Effect, effect_of

_INSTRUCTIONS = 2000  # in one walk
_STOPS = frozenset(
    {
        Effect.WRITE_CR0, Effect.WRITE_CR2, Effect.WRITE_CR3, Effect.WRITE_CR4, Effect.WRITE_CR8, Effect.WRMSR, Effect.LMSW,
        Effect.LGDT, Effect.LIDT, Effect.FAR_CALL, Effect.FAR_JUMP, Effect.FAR_RETURN, Effect.IRET, Effect.LOAD_DS, Effect.HLT,
    }
)  # fmt: skip


def next_stops(pc: int, bits: int, read: Read, *, base: int = 0, most: int = 20) -> tuple[int, ...]:
    """At most `most` pcs of next stops, nearest first; the instruction at `pc` itself can be one of them.

    `read(linear, size)` reads code, and may give fewer bytes or none. `base` is that of CS; the results are offsets, as `pc` is.
    """
    found: list[int] = []
    seen: set[int] = set()
    waiting = deque([(pc, 0)])  # the next pc of a path, and its depth in calls
    while waiting and len(seen) < _INSTRUCTIONS and len(found) < most:
        at, depth = waiting.popleft()
        while at not in seen and len(seen) < _INSTRUCTIONS:
            code = _instruction(at, bits, read, base)
            if not code:
                break  # the code cannot be read: this path is lost
            seen.add(at)
            effect, target, jumps = effect_of(code, bits), goal(code, at, bits), is_jump(code, bits)
            only_the_cpu_knows = (effect is Effect.RETURN and depth == 0) or (target is None and (jumps or effect is Effect.CALL))
            if effect in _STOPS or only_the_cpu_knows:
                found.append(at)
                break
            if effect is Effect.RETURN:
                break
            if target is not None:
                waiting.append((target, depth + (effect is Effect.CALL)))
            if jumps:
                break
            at += len(code)
    return tuple(found)


def _instruction(at: int, bits: int, read: Read, base: int) -> bytes:
    code = read(at + base & (0xFFFFFFFFFFFFFFFF if bits == 64 else 0xFFFFFFFF), LONGEST)
    return code[: length(code, bits)]
