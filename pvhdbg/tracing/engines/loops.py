"""The loop that a CPU is in: whether anything in it can change, or what it may wait for.

A loop is endless where each round is a function of the general registers alone, and the registers come back to the same values: all its
instructions are plain (`disassembly.reach`), each byte that a round reads was written earlier in the same round, all that it
writes is RAM, and interrupts are off. A round may be counted from any of its instructions, but only from one where the registers were
the same twice: a `ret` to the beginning of a function whose first call has the same stack comes to equal registers by other memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pvhdbg.disassembly import Access, Reach, reach
from pvhdbg.tracing.death import Awaited

PAUSE = b"\xf3\x90"


@dataclass(frozen=True)
class Stepped:
    """One instruction that was stepped over: the registers before it, and those after it."""

    pc: int
    code: bytes
    bits: int
    before: Mapping[str, int]
    after: Mapping[str, int]

    @property
    def reach(self) -> Reach:
        return reach(self.code, self.pc, self.bits, self.before.get)


def stepped(
    pc: int, code: bytes, bits: int, before: Mapping[str, int], after: Mapping[str, int], code_at: Callable[[int], bytes]
) -> list[Stepped]:
    """What one step of the machine was. QEMU: a step over `pause` goes on over the next instruction."""
    behind = pc + len(PAUSE)
    if not code.startswith(PAUSE) or after.get("rip") == behind:
        return [Stepped(pc, code, bits, before, after)]
    between = {**before, "rip": behind}
    return [Stepped(pc, code, bits, before, between), Stepped(behind, code_at(behind), bits, between, after)]


@dataclass(frozen=True)
class Loop:
    """Instructions in a row that the CPU comes back to the first of. With `same` its registers were then those of the round before; with
    `twice` those at each instruction were, too: two rounds were seen. `before` is the round before, where it took the same instructions."""

    steps: tuple[Stepped, ...]
    same: bool
    twice: bool = False
    before: tuple[Stepped, ...] = ()

    @property
    def pcs(self) -> tuple[int, ...]:
        """The addresses, each once, in the order of their first execution."""
        return tuple(dict.fromkeys(step.pc for step in self.steps))

    def endless(self, is_ram: Callable[[int], bool]) -> bool:
        """Whether nothing in it can change. `is_ram` says whether RAM is behind a linear address."""
        reached = [step.reach for step in self.steps]
        if not self.same or not all(one.plain for one in reached):
            return False
        ends = [step.after.get("rip") for step in self.steps]
        if any(one.follows and end not in one.follows for one, end in zip(reached, ends, strict=True)):
            return False  # more was executed than was seen
        if not all(not access.segment or access.segment in ("cs", "ds", "es", "ss") for one in reached for access in one.writes):
            return False  # a base that is not known
        if not all(is_ram(access.offset) and is_ram(access.offset + access.size - 1) for one in reached for access in one.writes):
            return False
        starts = range(len(reached)) if self.twice else (0,)
        return any(_closed(reached[start:] + reached[:start]) for start in starts)

    @property
    def shut(self) -> bool:
        """Whether all that it reads was written in it, counted from its first instruction."""
        return _closed([step.reach for step in self.steps])

    def awaited(self, memory: Callable[[int, int], int | None]) -> tuple[Awaited, ...]:
        """What it reads or changes, each once, without registers and its own stack. `memory` gives a value at a linear address.

        Memory that is another in each round, as of a loop that goes through a string, is not what it waits for.
        """
        reached = [step.reach for step in self.steps]
        start = next((at for at in range(len(reached)) if _closed(reached[at:] + reached[:at])), 0)
        own: set[tuple[str, int]] = set()
        written = {byte for one in reached for access in one.writes for byte in _bytes(access)}
        found: dict[tuple[int | None, int | None, str], Awaited] = {}
        earlier = {access for step in self.before for access in step.reach.reads}
        for step, one in zip(self.steps[start:] + self.steps[:start], reached[start:] + reached[:start], strict=True):
            if one.port is not None:
                value = step.after.get("rax", 0) & (1 << 8 * one.width) - 1
                _add(found, Awaited(port=one.port, size=one.width, value=value))
            if one.counter:
                _add(found, Awaited(what=one.counter))
            for access in one.reads:
                if not own.issuperset(_bytes(access)) and (self.same or access in earlier):
                    counts = not written.isdisjoint(_bytes(access))
                    _add(found, Awaited(None, access.offset, "", access.size, memory(access.offset, access.size), counts))
            own.update(byte for access in one.writes for byte in _bytes(access))
        return tuple(found.values())


def period(steps: Sequence[Stepped], last: Mapping[str, int]) -> Loop | None:
    """The loop at the end of some steps, to the state `last`; None where the CPU did not come back to an address with the same stack.

    The loop with the same registers again is preferred to a shorter one whose registers differ.
    """
    states = [step.before for step in steps]
    for index in range(len(steps) - 1, -1, -1):
        if states[index] == last:
            size = len(steps) - index
            return Loop(tuple(steps[index:]), True, index >= size and states[index - size : index] == states[index:])
    for index in range(len(steps) - 1, -1, -1):
        if states[index].get("rip") == last.get("rip") and states[index].get("rsp") == last.get("rsp"):
            size = len(steps) - index
            before = tuple(steps[max(index - size, 0) : index])
            again = [one.pc for one in before] == [one.pc for one in steps[index:]]
            return Loop(tuple(steps[index:]), False, before=before if again else ())
    return None


def _closed(reached: Sequence[Reach]) -> bool:
    """Whether each byte that is read was written before it in these instructions."""
    written: set[tuple[str, int]] = set()
    for one in reached:
        if not all(written.issuperset(_bytes(access)) for access in one.reads):
            return False
        written.update(byte for access in one.writes for byte in _bytes(access))
    return True


def _bytes(access: Access) -> set[tuple[str, int]]:
    return {(access.segment, access.offset + index) for index in range(access.size)}


def _add(found: dict[tuple[int | None, int | None, str], Awaited], one: Awaited) -> None:
    found[one.port, one.address, one.what] = one
