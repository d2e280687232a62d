"""Where to stop next: the first instructions on each way from here that change the system, found without running anything.

The code is walked from a place along falls through, direct jumps and direct calls. A way ends at the first instruction that changes
the system, at one whose goal only the CPU knows (an indirect jump or call, a return past the beginning), and at `hlt`. Whoever stops there,
steps once and walks again sees every such instruction, however the code goes on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from pvhdbg.disassembly import Instruction, disassemble
from pvhdbg.tracing.opcodes import kind_of

_INSTRUCTIONS = 2000  # that one walk looks at
_GOAL = re.compile(r"0x[0-9a-f]+|\d+")
_SITES = ("write cr", "wrmsr", "lmsw", "lgdt", "lidt", "far ", "iret", "load ds", "hlt")

Read = Callable[[int, int], bytes]


def next_sites(pc: int, bits: int, read: Read, *, base: int = 0, most: int = 20) -> tuple[int, ...]:
    """At most `most` places after `pc`, nearest first. `read(linear, size)` gives what can be read there, perhaps less or nothing.

    `base` is CS's; the places are offsets, as `pc` is. The instruction at `pc` itself can be one of them.
    """
    found: list[int] = []
    seen: set[int] = set()
    waiting = deque([(pc, 0)])  # where a way goes on, and how many calls deep
    while waiting and len(seen) < _INSTRUCTIONS and len(found) < most:
        at, depth = waiting.popleft()
        while at not in seen and len(seen) < _INSTRUCTIONS:
            one = _instruction(at, bits, read, base)
            if one is None:
                break  # no code that can be read: this way is lost
            seen.add(at)
            kind = kind_of(one.data, bits)
            goal = _goal(one)
            jumps = "jmp" in one.text.split()[:2]
            unknown = (kind == "return" and depth == 0) or (goal is None and (jumps or kind == "call"))
            if kind.startswith(_SITES) or unknown:
                found.append(at)
                break
            if kind == "return":
                break
            following = at + len(one.data)
            if goal is not None:
                waiting.append((goal, depth + (kind == "call")))
            if jumps:
                break
            at = following
    return tuple(found)


def _instruction(at: int, bits: int, read: Read, base: int) -> Instruction | None:
    linear = at + base & (0xFFFFFFFFFFFFFFFF if bits == 64 else 0xFFFFFFFF)
    return next(disassemble(read(linear, 15), at, bits, 1), None)


def _goal(one: Instruction) -> int | None:
    """Where a direct jump, branch, loop or call leads to; None for all else."""
    name, _, operand = one.text.partition(" ")
    if not (name.startswith(("j", "loop")) or name == "call") or not _GOAL.fullmatch(operand):
        return None
    return int(operand, 0)
