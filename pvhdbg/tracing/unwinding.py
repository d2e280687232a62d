"""What the unwinders of a call chain share: a frame, how it is known, and the guest's stack and code by linear addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import long_mode_active
from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Registers, Unavailable
from pvhdbg.tracing.addresses import Surroundings

MOST = 24  # calls that are told
LARGEST_FRAME = 1 << 16  # bytes of a frame that is believed
_PAGE = 0x1000
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "rax")  # of the System V ABI, and of GCC's own for static functions of 32 bits
_WORDS = 24  # of a frame that are looked at for strings
_STRING = re.compile(rb"[\x20-\x7e\t\n]{4,200}\0")
_THUNKS = ("__x86_indirect_", "__x86_return_thunk")  # retpolines, by their names
_CALL = 7  # bytes of the longest near call


class By(Enum):
    """How a call is known; the values are those of JSON."""

    PC = "pc"  # where the CPU is
    ORC = "orc"
    CFI = "cfi"
    FRAME = "frame pointer"
    DEBUGGER = "debugger"  # as GDB unwinds the stack
    WORDS = "words"  # the kernel's own trace, in its Oops
    STACK = "stack"  # a return address that lies on the stack: perhaps of a call that had ended


class Frame(NamedTuple):
    """`interrupted`: pc is that of an instruction, not a return address."""

    pc: int
    stack: int
    base: int
    interrupted: bool = False


class StackMemory:
    """The guest's stack and code by linear addresses, by words."""

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
        """The bytes before an address. StackMemory has the calls that Linux patched, the file those of code that it freed or that cannot be read."""
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
