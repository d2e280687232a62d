"""Unwinding by Linux' ORC tables. Pure.

Source: arch/x86/include/asm/orc_types.h and arch/x86/kernel/unwind_orc.c of Linux 4.14 to 7.2. The numbers of the types differ: up to 6.3 a
call is 0, pt_regs 1 and a part of them 2, later 2, 3 and 4. Those of the registers differ, too: 7.2 has other ones than 6.12.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from pvhdbg.spec.linux_symbols import ORC
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.unwinding import LARGEST_FRAME, MOST, By, Frame, StackMemory

_SAMPLE = 512  # rows that tell which numbers a kernel uses
_NO_STATE: Mapping[str, int] = {}
_KERNEL_CS = 0x10  # arch/x86/include/asm/segment.h
_PT_REGS_IP, _PT_REGS_CS, _PT_REGS_BP, _PT_REGS_SP = 128, 136, 32, 152


class _Numbers(NamedTuple):
    """The numbers of the registers in ORC's rows. `others` are those that only the innermost frame has."""

    stack: int
    base: int
    previous: int
    stack_indirect: int
    base_indirect: int
    others: Mapping[int, str]


_NUMBERS = (
    _Numbers(5, 4, 1, 9, 8, {2: "rdx", 3: "rdi", 6: "r10", 7: "r13"}),
    _Numbers(3, 4, 8, 9, 10, {1: "rax", 2: "rdx", 5: "rdi", 6: "r10", 7: "r13"}),
)


class OrcTables:
    """The ORC tables of a kernel."""

    def __init__(self, around: Surroundings, first: int, count: int, entries: int) -> None:
        self._around, self._first, self._count, self._entries = around, first, count, entries
        rows = (self._entry(index) for index in range(0, count, max(count // _SAMPLE, 1)))
        kinds = Counter((bits >> 8 & 7, bits & 0xF) for _, _, bits in filter(None, rows))
        # Most rows are those of calls, by the stack pointer.
        self.call, stack = kinds.most_common(1)[0][0] if kinds else (0, 0)
        self.numbers = next((one for one in _NUMBERS if one.stack == stack), _NUMBERS[0])

    @classmethod
    def of(cls, around: Surroundings) -> OrcTables | None:
        first, behind, entries = (around.symbol(name) for name in ORC)
        if first is None or behind is None or entries is None or not 0 < behind - first < 1 << 26:
            return None
        return cls(around, first, (behind - first) // 4, entries)

    def at(self, pc: int) -> tuple[int, int, int] | None:
        """The row for a pc: the offsets of the stack pointer and of rbp, and the bits."""
        low, high = 0, self._count - 1
        while low < high:
            middle = (low + high + 1) // 2
            place = self._place(middle)
            if place is None:
                return None
            low, high = (middle, high) if place <= pc else (low, middle - 1)
        place = self._place(low) if self._count else None
        return self._entry(low) if place is not None and place <= pc else None

    def _place(self, index: int) -> int | None:
        at = self._first + 4 * index
        data = self._around.file(self._around.linked(at), 4)
        return at + struct.unpack("<i", data)[0] if len(data) == 4 else None

    def _entry(self, index: int) -> tuple[int, int, int] | None:
        data = self._around.file(self._around.linked(self._entries + 6 * index), 6)
        if len(data) < 6:
            return None
        sp_offset, bp_offset, bits = struct.unpack("<hhH", data)
        return sp_offset, bp_offset, bits


class Orc:
    """Unwinds by the ORC tables."""

    def __init__(self, tables: OrcTables, memory: StackMemory) -> None:
        self._tables, self._memory = tables, memory

    def unwind(self, here: Frame, state: Mapping[str, int]) -> list[tuple[Frame, By]]:
        """The callers of `here`, the innermost first, and how each is known."""
        first = None if self._memory.is_thunk(here.pc) else self._step(here, state)
        return [(frame, By.ORC) for frame in self._from(first)] or self._behind_top(here)

    def _behind_top(self, here: Frame) -> list[tuple[Frame, By]]:
        """The callers from the return address on top of the stack on, or from the one below it.

        Retpolines (arch/x86/lib/retpoline.S) need it: they have no row, or one that leads to the function that they jump to by a return.
        They keep at most one word of their own on the stack. Where a function begins no call returns to, though the one before may end
        with a call.
        """
        for above in (self._memory.word, 2 * self._memory.word):
            back = self._memory.word_at(here.stack + above - self._memory.word)
            if back is None or not self._memory.is_return(back) or self._memory.function(back) == back:
                continue
            caller = Frame(back, here.stack + above, here.base)
            frames = self._from(self._step(caller))
            if frames:
                return [(caller, By.STACK), *((frame, By.ORC) for frame in frames)]
        return []

    def _from(self, frame: Frame | None) -> list[Frame]:
        """The frames from one on, up to the first that is neither interrupted code nor a return address, nor where a stack begins."""
        frames: list[Frame] = []
        while len(frames) < MOST and frame is not None and self._memory.is_code(frame.pc - (0 if frame.interrupted else 1)):
            if not frame.interrupted and not self._memory.is_return(frame.pc):
                return [*frames, frame] if self._begins(frame.pc) else frames
            frames.append(frame)
            frame = self._step(frame)
        return frames

    def _begins(self, pc: int) -> bool:
        """Whether a stack begins at a pc: Linux jumps or returns to such code, and its row has no stack pointer."""
        entry = self._tables.at(pc)
        return entry is not None and entry[2] & 0xF == 0

    def _step(self, frame: Frame, state: Mapping[str, int] = _NO_STATE) -> Frame | None:
        """The caller of a frame. `state` holds the registers of the innermost frame: some of its rows depend on other ones."""
        entry = self._tables.at(frame.pc - (0 if frame.interrupted else 1))
        if entry is None:
            return None
        sp_offset, bp_offset, bits = entry
        sp_reg, bp_reg, kind = bits & 0xF, bits >> 4 & 0xF, bits >> 8 & 7
        use = self._tables.numbers
        known = {use.stack: frame.stack, use.stack_indirect: frame.stack, use.base: frame.base, use.base_indirect: frame.base}
        start = known.get(sp_reg, state.get(use.others.get(sp_reg, "")))
        if start is None:
            return None
        if sp_reg == use.base_indirect:
            start, sp_offset = self._memory.word_at(start + sp_offset), 0
        elif sp_reg == use.stack_indirect:
            start = self._memory.word_at(start)
        if start is None:
            return None
        above = start + sp_offset
        if kind == self._tables.call + 1 or kind == self._tables.call + 2:
            return self._interrupted(above, whole=kind == self._tables.call + 1, base=frame.base)
        # Linux runs a handler on the stack of interrupts: the word there that leads back is the only step to another stack.
        if kind != self._tables.call or (sp_reg != use.stack_indirect and not 0 < above - frame.stack <= LARGEST_FRAME):
            return None
        back = self._memory.word_at(above - 8)
        base = (
            self._memory.word_at(above + bp_offset)
            if bp_reg == use.previous
            else self._memory.word_at(frame.base + bp_offset)
            if bp_reg == use.base
            else frame.base
        )
        return None if back is None else Frame(back, above, base or 0)

    def _interrupted(self, at: int, *, whole: bool, base: int) -> Frame | None:
        """What an exception interrupted: `at` is its struct pt_regs, or with a part of them the iret frame's place in it."""
        start = at if whole else at - _PT_REGS_IP
        pc, code, stack = (self._memory.word_at(start + offset) for offset in (_PT_REGS_IP, _PT_REGS_CS, _PT_REGS_SP))
        saved = self._memory.word_at(start + _PT_REGS_BP) if whole else base
        if pc is None or stack is None or code is None or code & 0xFFFF != _KERNEL_CS:
            return None  # user mode, which nothing called; or not the registers of an exception
        return Frame(pc, stack, saved or 0, interrupted=True)
