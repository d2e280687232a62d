"""The next stops: the first instruction on each path from here that changes the system, found by reading code only.

A walk follows the next instruction, direct jumps and direct calls. A path ends at the first instruction that changes the system, at one
whose target only the CPU knows (an indirect jump or call, `int`, a return past the beginning), and at `hlt`. An engine that stops there,
steps once and walks again sees every such instruction, whatever path the CPU takes, as long as it also stops at the paths that the walk
left unfinished.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from pvhdbg.decode.paging import Read
from pvhdbg.tracing.encoding import LONGEST, goal, is_jump, length
from pvhdbg.tracing.opcodes import Effect, effect_of

_INSTRUCTIONS = 2000  # in one walk
_STOPS = frozenset(
    {
        Effect.WRITE_CR0, Effect.WRITE_CR2, Effect.WRITE_CR3, Effect.WRITE_CR4, Effect.WRITE_CR8, Effect.WRMSR, Effect.LMSW,
        Effect.LGDT, Effect.LIDT, Effect.FAR_CALL, Effect.FAR_JUMP, Effect.FAR_RETURN, Effect.IRET, Effect.LOAD_DS, Effect.HLT,
        Effect.INT, Effect.SYSCALL, Effect.SYSRET,
    }
)  # fmt: skip


class NextStops(NamedTuple):
    """The pcs of next stops, nearest first, and the pcs where the paths go on that were not walked to their end."""

    found: tuple[int, ...]
    unfinished: tuple[int, ...]


def next_stops(
    pc: int, bits: int, read: Read, *, base: int = 0, most: int = 20, ends: int | None = None, within: int = _INSTRUCTIONS
) -> NextStops:
    """At most `most` next stops; the instruction at `pc` itself can be one of them.

    `read(linear, size)` reads code, and may give fewer bytes or none. `base` is that of CS; the results are offsets, as `pc` is. With
    `ends`, no path is followed into a branch that would make more than that many stops and unfinished paths. `within` bounds the
    instructions that are looked at.
    """
    found: list[int] = []
    unfinished: list[int] = []
    seen: set[tuple[int, bool]] = set()
    waiting = deque([(pc, False)])  # the next pc of a path, and whether it is in a function that was called on the way
    while waiting and len(found) < most:
        at, called = waiting.popleft()
        while (at, called) not in seen:
            code = _instruction(at, bits, read, base) if len(seen) < within else b""
            effect, target, jumps = effect_of(code, bits), goal(code, at, bits), is_jump(code, bits)
            forks = target is not None and not jumps
            if not code or (forks and ends is not None and len(found) + len(unfinished) + len(waiting) + 2 > ends):
                unfinished.append(at)
                break
            seen.add((at, called))
            only_the_cpu_knows = (effect is Effect.RETURN and not called) or (target is None and (jumps or effect is Effect.CALL))
            if effect in _STOPS or only_the_cpu_knows:
                found.append(at)
                break
            if effect is Effect.RETURN:
                break
            if target is not None:
                waiting.append((target, called or effect is Effect.CALL))
            if jumps:
                break
            at += len(code)
    left = (at for at, called in waiting if (at, called) not in seen)
    return NextStops(tuple(found), tuple(dict.fromkeys((*unfinished, *left))))


def _instruction(at: int, bits: int, read: Read, base: int) -> bytes:
    code = read(at + base & (0xFFFFFFFFFFFFFFFF if bits == 64 else 0xFFFFFFFF), LONGEST)
    return code[: length(code, bits)]
