"""The executed instructions before a machine's place, newest first, from the recorder's ring: who wrote a register, who called.

The ring names blocks; the code is read from the machine's memory, as it is now.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import mode_of
from pvhdbg.disassembly import CallFlow, CodePart, has_iced, parts
from pvhdbg.errors import MemoryUnreadable, TargetError
from pvhdbg.targets.target import Target
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.recorded_parts import RecordedBlock
from pvhdbg.tracing.recording import Recording

_LOW_RAM = 1 << 31  # below it, QEMU's number of a byte of RAM is its physical address on each machine type


class ExecutedInstruction(NamedTuple):
    """An instruction that was executed. `follows` is the address of the one behind it in memory, `next` of the one that ran next."""

    number: int
    pc: int
    part: CodePart
    follows: int
    next: int


class History:
    """What a stopped machine executed up to instruction `number`, which has not begun. Raises TargetError without a disassembler."""

    def __init__(self, target: Target, recording: Recording, number: int, pc: int) -> None:
        if not has_iced():
            raise TargetError(
                "this Python has no disassembler (iced-x86), by which calls and writers of registers are found",
                "install it, or use the prompt: pvhdbg repl KERNEL",
            )
        self._target, self._recording = target, recording
        self._number, self._pc = number, pc
        self._known: dict[tuple[int, int], list[CodePart]] = {}
        states = [one for one in recording.states() if one.number >= 0 and one.pc is not None]
        self._since = [one.number for one in states]
        self._bits = [_bits(one.text) for one in states]

    def backwards(self) -> Iterator[ExecutedInstruction]:
        """The instructions, as far as the ring and readable code reach."""
        cpu = self._recording.header.entry_cpu
        after, pc = self._number, self._pc
        for one in reversed(self._recording.last(cpu)):
            if one.number < 0:
                return
            code = self._parts(one.block, one.number)
            count = min(after - one.number, one.block.instructions)
            if count > len(code):
                return  # the code has changed since, or cannot be read
            for index in range(count - 1, -1, -1):
                part = code[index]
                at = one.block.linear + part.offset
                yield ExecutedInstruction(one.number + index, at, part, at + part.size, pc)
                pc = at
            after = min(after, one.number)

    def last_writer(self, register: str) -> ExecutedInstruction | None:
        """The last instruction that wrote this register, by its full name."""
        return next((one for one in self.backwards() if register in one.part.written), None)

    def caller(self, handlers: frozenset[int]) -> ExecutedInstruction | None:
        """The call that the code at the machine's place has not returned from. None where the ring does not reach it, and for the
        handler of an interrupt; `handlers` are the addresses in the IDT.
        """
        depth = 0
        for one in self.backwards():
            flow = one.part.flow
            if _interrupted(one, handlers):
                if depth == 0:
                    return None
                depth -= 1
            if flow in (CallFlow.RETURN, CallFlow.INTERRUPT_RETURN):
                depth += 1
            elif flow is CallFlow.CALL:
                if depth == 0:
                    return one
                depth -= 1
        return None

    def _parts(self, block: RecordedBlock, number: int) -> list[CodePart]:
        at = bisect_right(self._since, number) - 1
        bits = self._bits[at] if at >= 0 else 32
        key = (block.number, bits)
        if key not in self._known:
            try:
                there = block.physical is not None and block.physical < _LOW_RAM
                code = self._target.read_memory(block.physical or 0, block.size) if there else b""
            except MemoryUnreadable:
                code = b""
            self._known[key] = parts(code, block.linear, bits)
        return self._known[key]


def _interrupted(one: ExecutedInstruction, handlers: frozenset[int]) -> bool:
    """Whether an interrupt or exception came behind the instruction, or in it."""
    leads = one.part.leads
    return one.next in handlers if leads is None else one.next not in (one.follows, one.pc, *leads)


def _bits(text: bytes) -> int:
    state = decode(text)
    return mode_of(
        state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"), state.get("eflags", 0)
    ).bits
