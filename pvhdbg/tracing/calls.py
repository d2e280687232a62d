"""The call chain at a death: by Linux' ORC tables, by DWARF's call frame tables, by frame pointers, on from there by a debugger's frames, else
by return addresses that lie on the stack. Pure.

ORC: arch/x86/include/asm/orc_types.h and arch/x86/kernel/unwind_orc.c of Linux 4.14 to 7.2. The numbers of the types differ: up to 6.3 a
call is 0, pt_regs 1 and a part of them 2, later 2, 3 and 4. Those of the registers differ, too: 7.2 has other ones than 6.12.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import takewhile
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import long_mode_active, mode_in
from pvhdbg.decode.paging import translate
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Registers, Unavailable
from pvhdbg.spec.linux_symbols import ORC
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.stack import words

MOST = 24  # calls that are told
_PAGE = 0x1000
_FRAME = 1 << 16  # bytes of the largest frame that is believed
_UNWOUND = ("rsp", "rbp", "rbx", "r12", "r13", "r14", "r15", "rsi", "rdi")  # those that a caller's frame may depend on
_STOPS = re.compile(r"panic|assert|abort|die|fatal|bug|fail|error|halt", re.IGNORECASE)
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "rax")  # of the System V ABI, and of GCC's own for static functions of 32 bits
_WORDS = 24  # of a frame that are looked at for strings
_STRING = re.compile(rb"[\x20-\x7e\t\n]{4,200}\0")
_SAMPLE = 512
_THUNKS = ("__x86_indirect_", "__x86_return_thunk")  # retpolines, by their names
_NO_STATE: Mapping[str, int] = {}
_CALL = 7  # bytes of the longest near call
_KERNEL_CS = 0x10  # arch/x86/include/asm/segment.h
_PT_REGS_IP, _PT_REGS_CS, _PT_REGS_BP, _PT_REGS_SP = 128, 136, 32, 152


class By(Enum):
    """How a call is known; the values are those of JSON."""

    PC = "pc"  # where the CPU is
    ORC = "orc"
    CFI = "cfi"
    FRAME = "frame pointer"
    DEBUGGER = "debugger"  # as GDB unwinds the stack
    WORDS = "words"  # the kernel's own trace, in its Oops
    STACK = "stack"  # a return address that lies on the stack: perhaps of a call that had ended


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


class _Frame(NamedTuple):
    """`interrupted`: pc is that of an instruction, not a return address."""

    pc: int
    stack: int
    base: int
    interrupted: bool = False


def chain(state: Mapping[str, int], around: Surroundings, theirs: Sequence[int] = ()) -> tuple[Call, ...]:
    """The calls that led to the state, the innermost first; () where the stack or the code was not observed.

    `theirs` are the pcs of a debugger's frames at that state, where there is one: they go on where the tables and frame pointers end.
    """
    if "rsp" not in state or "rip" not in state or mode_in(state) is None:
        return ()
    tables = _OrcTables.of(around)
    memory = _Memory(state, around)
    here = _Frame(state["rip"], state["rsp"], state.get("rbp", 0), interrupted=True)
    frames = [(here, By.PC)]
    if tables is not None:
        frames += _Orc(tables, memory).unwind(here, state)
    if len(frames) == 1:
        frames += [(frame, By.CFI) for frame in _by_call_frames(here, memory, state, around)]
    if len(frames) == 1:
        framed = _by_frame_pointers(here, memory)
        frames += [(frame, By.STACK) for frame in _before_the_frame(here, framed, memory)]
        frames += [(frame, By.FRAME) for frame in framed]
    frames += [(_Frame(pc, 0, 0), By.DEBUGGER) for pc in _beyond([frame.pc for frame, _ in frames], theirs, memory)]
    if len(frames) == 1:
        frames += [(_Frame(word, at, 0), By.STACK) for at, word in words(state, around) if memory.is_return(word)]
    return tuple(_call(frame, by, memory, around, index) for index, (frame, by) in enumerate(frames[:MOST]))


def with_lines(calls: Iterable[Call], line: Callable[[int], SafeText | None]) -> tuple[Call, ...]:
    """The calls with their source lines. `line` gives that of a linear address; a return address is behind its call."""
    return tuple(one._replace(line=line(one.pc - (1 if one.returns else 0))) for one in calls)


def _beyond(known: Sequence[int], theirs: Sequence[int], memory: _Memory) -> list[int]:
    """The return addresses behind those that are known, if the debugger found all of these, up to the first that no call is before."""
    if list(theirs[: len(known)]) != list(known):
        return []
    return list(takewhile(memory.is_return, theirs[len(known) :]))


def _call(frame: _Frame, by: By, memory: _Memory, around: Surroundings, index: int) -> Call:
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


class _Memory:
    """The guest's memory by linear addresses, by words."""

    def __init__(self, state: Mapping[str, int], around: Surroundings) -> None:
        self._registers, self._around = Registers(state), around
        self._pages: dict[int, int | None] = {}  # where each one lies in physical memory: a walk reads four entries
        self.word = 8 if long_mode_active(state) else 4

    def read(self, address: int, size: int) -> bytes:
        """The bytes there, b"" where not all of them can be read."""
        if address < 0 or address % _PAGE + size > _PAGE:
            return b""
        try:
            page = self._page(address - address % _PAGE)
            return b"" if page is None else self._around.read(page + address % _PAGE, size)
        except (MemoryUnreadable, Unavailable):
            return b""

    def _page(self, address: int) -> int | None:
        if address not in self._pages:
            self._pages[address] = translate(self._registers, address, self._around.read).physical
        return self._pages[address]

    def word_at(self, address: int) -> int | None:
        data = self.read(address, self.word)
        return int.from_bytes(data, "little") if len(data) == self.word else None

    def is_code(self, address: int) -> bool:
        """Whether an address is in a PT_LOAD that may be executed, or in a function: Linux may have its .init.text in another PT_LOAD."""
        part = self._around.holds(self._around.linked(address))
        return part is True or (part is False and self._around.name(address) is not None and self._around.data_at(address) is None)

    def is_return(self, address: int) -> bool:
        """Whether a call is right before the address."""
        if not self.is_code(address - 1):  # a call may be the last thing that a function does
            return False
        return any(self._is_call(before, address) for before in self._before(address))

    def called(self, back: int) -> int | None:
        """Where the function begins that the call before a return address calls; None for a call through a pointer, or without symbols.

        A call of a retpoline is one through a pointer.
        """
        targets = (self._target(before, back) for before in self._before(back))
        target = next((one for one in targets if one is not None), None)
        return None if target is None or self.is_thunk(target) else self.function(target)

    def is_thunk(self, pc: int) -> bool:
        return (self._around.name(pc) or "").startswith(_THUNKS)

    def function(self, pc: int) -> int | None:
        """Where the function begins that holds a pc, by its symbol."""
        name, plus, offset = (self._around.name(pc) or "").partition("+")
        try:
            return pc - int(offset, 16) if plus else pc if name else None
        except ValueError:
            return None

    def _before(self, behind: int) -> list[bytes]:
        """The bytes before an address. Memory has the calls that Linux patched, the file those of code that it freed or that cannot be read."""
        start = behind - _CALL
        found = self.read(start, _CALL), self._around.file(self._around.linked(start), _CALL)
        return [before for before in found if len(before) == _CALL]

    def _target(self, before: bytes, behind: int) -> int | None:
        """The target of the direct call that the bytes before an address end with (Intel SDM 2A, CALL: E8)."""
        if before[-5] != 0xE8:
            return None
        target = behind + int.from_bytes(before[-4:], "little", signed=True) & (1 << 8 * self.word) - 1
        return target if self.is_code(target) else None

    def _is_call(self, before: bytes, behind: int) -> bool:
        """Whether the bytes before an address end with a near call (Intel SDM 2A, CALL: E8, FF /2)."""
        if self._target(before, behind) is not None:
            return True
        return any(before[-size] == 0xFF and _indirect_call(before[1 - size :]) == size for size in (2, 3, 4, 6, 7))

    def strings(self, stack: int, innermost: bool) -> tuple[str, ...]:
        """The strings of the kernel's image that the first words of a frame point to; of the innermost one also the registers."""
        found: dict[str, None] = {}
        held = [self._registers.get(name) for name in _ARGUMENTS] if innermost else []
        for pointer in (*held, *(self.word_at(stack + index * self.word) for index in range(_WORDS))):
            if pointer is None:
                continue
            physical = self._around.linked(pointer)
            if self._around.holds(physical) is None:
                continue
            match = _STRING.match(self._around.file(physical, 201))
            if match is not None:
                found[match[0][:-1].decode("ascii").strip()] = None
        return tuple(found)


def _indirect_call(operand: bytes) -> int:
    """The length of FF /2 by its ModR/M byte and what follows (Intel SDM 2A, table 2-2); 0 for another instruction."""
    mode, register, memory = operand[0] >> 6, operand[0] >> 3 & 7, operand[0] & 7
    if register != 2:
        return 0
    if mode == 3:
        return 2
    scaled = memory == 4
    base = operand[1] & 7 if scaled and len(operand) > 1 else memory
    return 2 + scaled + (4 if mode == 2 or (mode == 0 and base == 5) else mode)


def _before_the_frame(here: _Frame, framed: Sequence[_Frame], memory: _Memory) -> list[_Frame]:
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
            frames.append(_Frame(back, here.stack + (index + 1) * memory.word, here.base))
    return frames


def _by_frame_pointers(here: _Frame, memory: _Memory) -> list[_Frame]:
    frames: list[_Frame] = []
    stack, base = here.stack, here.base
    while len(frames) < MOST and 0 <= base - stack <= _FRAME and base % 4 == 0:
        previous, back = memory.word_at(base), memory.word_at(base + memory.word)
        if previous is None or back is None or not memory.is_return(back):
            break
        stack = base + 2 * memory.word
        frames.append(_Frame(back, stack, previous))
        base = previous
    return frames


def _by_call_frames(here: _Frame, memory: _Memory, state: Mapping[str, int], around: Surroundings) -> list[_Frame]:
    """The frames by DWARF's tables; each row is a register and an offset (DWARF 5, 6.4.1). Ends where a caller is not code."""
    frames: list[_Frame] = []
    registers: dict[str, int] = {name: value for name, value in state.items() if name in _UNWOUND}
    pc, stack, lowest = here.pc, here.stack, here.stack - 1
    while len(frames) < MOST:
        rule = around.frame_rule(pc - (1 if frames else 0))
        start = None if rule is None else registers.get(rule.cfa)
        if rule is None or start is None or not lowest < start + rule.offset <= stack + _FRAME:
            break
        above = start + rule.offset
        back = memory.word_at(above + rule.back)
        if back is None or not memory.is_return(back):
            break
        saved = {name: memory.word_at(above + at) for name, at in rule.saved.items()}
        registers |= {name: value for name, value in saved.items() if value is not None}
        registers["rsp"] = stack = lowest = above
        pc = back
        frames.append(_Frame(pc, stack, registers.get("rbp", 0)))
    return frames


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


class _OrcTables:
    """The ORC tables of a kernel."""

    def __init__(self, around: Surroundings, first: int, count: int, entries: int) -> None:
        self._around, self._first, self._count, self._entries = around, first, count, entries
        rows = (self._entry(index) for index in range(0, count, max(count // _SAMPLE, 1)))
        kinds = Counter((bits >> 8 & 7, bits & 0xF) for _, _, bits in filter(None, rows))
        # Most rows are those of calls, by the stack pointer.
        self.call, stack = kinds.most_common(1)[0][0] if kinds else (0, 0)
        self.numbers = next((one for one in _NUMBERS if one.stack == stack), _NUMBERS[0])

    @classmethod
    def of(cls, around: Surroundings) -> _OrcTables | None:
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


class _Orc:
    """Unwinds by the ORC tables."""

    def __init__(self, tables: _OrcTables, memory: _Memory) -> None:
        self._tables, self._memory = tables, memory

    def unwind(self, here: _Frame, state: Mapping[str, int]) -> list[tuple[_Frame, By]]:
        """The callers of `here`, the innermost first, and how each is known."""
        first = None if self._memory.is_thunk(here.pc) else self._step(here, state)
        return [(frame, By.ORC) for frame in self._from(first)] or self._behind_top(here)

    def _behind_top(self, here: _Frame) -> list[tuple[_Frame, By]]:
        """The callers from the return address on top of the stack on, or from the one below it.

        Retpolines (arch/x86/lib/retpoline.S) need it: they have no row, or one that leads to the function that they jump to by a return.
        They keep at most one word of their own on the stack. Where a function begins no call returns to, though the one before may end
        with a call.
        """
        for above in (self._memory.word, 2 * self._memory.word):
            back = self._memory.word_at(here.stack + above - self._memory.word)
            if back is None or not self._memory.is_return(back) or self._memory.function(back) == back:
                continue
            caller = _Frame(back, here.stack + above, here.base)
            frames = self._from(self._step(caller))
            if frames:
                return [(caller, By.STACK), *((frame, By.ORC) for frame in frames)]
        return []

    def _from(self, frame: _Frame | None) -> list[_Frame]:
        """The frames from one on, up to the first that is neither interrupted code nor a return address, nor where a stack begins."""
        frames: list[_Frame] = []
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

    def _step(self, frame: _Frame, state: Mapping[str, int] = _NO_STATE) -> _Frame | None:
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
        if kind != self._tables.call or (sp_reg != use.stack_indirect and not 0 < above - frame.stack <= _FRAME):
            return None
        back = self._memory.word_at(above - 8)
        base = (
            self._memory.word_at(above + bp_offset)
            if bp_reg == use.previous
            else self._memory.word_at(frame.base + bp_offset)
            if bp_reg == use.base
            else frame.base
        )
        return None if back is None else _Frame(back, above, base or 0)

    def _interrupted(self, at: int, *, whole: bool, base: int) -> _Frame | None:
        """What an exception interrupted: `at` is its struct pt_regs, or with a part of them the iret frame's place in it."""
        start = at if whole else at - _PT_REGS_IP
        pc, code, stack = (self._memory.word_at(start + offset) for offset in (_PT_REGS_IP, _PT_REGS_CS, _PT_REGS_SP))
        saved = self._memory.word_at(start + _PT_REGS_BP) if whole else base
        if pc is None or stack is None or code is None or code & 0xFFFF != _KERNEL_CS:
            return None  # user mode, which nothing called; or not the registers of an exception
        return _Frame(pc, stack, saved or 0, interrupted=True)
