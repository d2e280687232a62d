"""Where to stop next: the first instructions on each way from here that change the system, found without running anything.

The code is walked from a place along falls through, direct jumps and direct calls. A way ends at the first instruction that changes
the system, at one whose goal only the CPU knows (an indirect jump or call, a return past the beginning), and at `hlt`. Whoever stops there,
steps once and walks again sees every such instruction, however the code goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pvhdbg.tracing.encoding import LONGEST, goal, is_jump, length
from pvhdbg.tracing.opcodes import kind_of

_INSTRUCTIONS = 2000  # that one walk looks at
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
            code = _instruction(at, bits, read, base)
            if not code:
                break  # no code that can be read: this way is lost
            seen.add(at)
            kind, leads_to, jumps = kind_of(code, bits), goal(code, at, bits), is_jump(code, bits)
            unknown = (kind == "return" and depth == 0) or (leads_to is None and (jumps or kind == "call"))
            if kind.startswith(_SITES) or unknown:
                found.append(at)
                break
            if kind == "return":
                break
            if leads_to is not None:
                waiting.append((leads_to, depth + (kind == "call")))
            if jumps:
                break
            at += len(code)
    return tuple(found)


def _instruction(at: int, bits: int, read: Read, base: int) -> bytes:
    code = read(at + base & (0xFFFFFFFFFFFFFFFF if bits == 64 else 0xFFFFFFFF), LONGEST)
    return code[: length(code, bits)]
