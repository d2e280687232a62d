"""The effect of an instruction on the system state, from its bytes (Intel SDM volume 2, appendix A).

Only instructions that matter to a boot are distinguished; for all others use a disassembler.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import NamedTuple


class Effect(Enum):
    """The effect of an instruction, as far as it matters to a boot."""

    OTHER = ""
    CALL = "call"
    RETURN = "return"
    REP = "rep"
    HLT = "hlt"
    INT3 = "int3"
    INT = "int"
    IRET = "iret"
    CLI = "cli"
    STI = "sti"
    UD2 = "ud2"
    FAR_CALL = "far call"
    FAR_JUMP = "far jump"
    FAR_RETURN = "far return"
    SYSCALL = "syscall"
    SYSRET = "sysret"
    INVD = "invd"
    WBINVD = "wbinvd"
    WRMSR = "wrmsr"
    RDMSR = "rdmsr"
    CPUID = "cpuid"
    LOAD_ES = "load es"
    LOAD_CS = "load cs"  # an invalid encoding
    LOAD_SS = "load ss"
    LOAD_DS = "load ds"
    LOAD_FS = "load fs"
    LOAD_GS = "load gs"
    LGDT = "lgdt"
    LIDT = "lidt"
    LLDT = "lldt"
    LTR = "ltr"
    LMSW = "lmsw"
    WRITE_CR0 = "write cr0"
    WRITE_CR2 = "write cr2"
    WRITE_CR3 = "write cr3"
    WRITE_CR4 = "write cr4"
    WRITE_CR8 = "write cr8"


_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf0\xf2\xf3")
_STRINGS = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_SEGMENT_LOADS = (Effect.LOAD_ES, Effect.LOAD_CS, Effect.LOAD_SS, Effect.LOAD_DS, Effect.LOAD_FS, Effect.LOAD_GS)
_ONE_BYTE = {
    0x9A: Effect.FAR_CALL, 0xCA: Effect.FAR_RETURN, 0xCB: Effect.FAR_RETURN, 0xCC: Effect.INT3, 0xCD: Effect.INT, 0xCF: Effect.IRET,
    0xEA: Effect.FAR_JUMP, 0xF4: Effect.HLT, 0xFA: Effect.CLI, 0xFB: Effect.STI, 0xE8: Effect.CALL, 0xC2: Effect.RETURN,
    0xC3: Effect.RETURN,
}  # fmt: skip
_TWO_BYTES = {
    0x05: Effect.SYSCALL, 0x07: Effect.SYSRET, 0x08: Effect.INVD, 0x09: Effect.WBINVD, 0x0B: Effect.UD2, 0x30: Effect.WRMSR,
    0x32: Effect.RDMSR, 0xA1: Effect.LOAD_FS, 0xA2: Effect.CPUID, 0xA9: Effect.LOAD_GS, 0xB2: Effect.LOAD_SS, 0xB4: Effect.LOAD_FS,
    0xB5: Effect.LOAD_GS,
}  # fmt: skip
_NOT_IN_64_BIT = {
    0x07: Effect.LOAD_ES, 0x17: Effect.LOAD_SS, 0x1F: Effect.LOAD_DS, 0xC4: Effect.LOAD_ES, 0xC5: Effect.LOAD_DS,
}  # fmt: skip
_GROUP_5 = {2: Effect.CALL, 3: Effect.FAR_CALL, 5: Effect.FAR_JUMP}  # ff, by the register field
_GROUP_6 = {2: Effect.LLDT, 3: Effect.LTR}  # 0f 00
_GROUP_7 = {2: Effect.LGDT, 3: Effect.LIDT}  # 0f 01, with a memory operand
_CONTROL_WRITES = {
    0: Effect.WRITE_CR0, 2: Effect.WRITE_CR2, 3: Effect.WRITE_CR3, 4: Effect.WRITE_CR4, 8: Effect.WRITE_CR8,
}  # fmt: skip
# Effects that change segments, tables, control registers or MSRs.
SYSTEM = frozenset(
    {
        *_SEGMENT_LOADS, *_CONTROL_WRITES.values(), Effect.FAR_CALL, Effect.FAR_JUMP, Effect.FAR_RETURN, Effect.LGDT, Effect.LIDT,
        Effect.LTR, Effect.LLDT, Effect.WRMSR, Effect.LMSW, Effect.IRET, Effect.SYSCALL, Effect.SYSRET, Effect.INT, Effect.INT3,
    }
)  # fmt: skip


@lru_cache(maxsize=1 << 16)
def effect_of(code: bytes, bits: int) -> Effect:
    """The effect of an instruction in code of `bits` bits; OTHER for one that does not matter here, and for incomplete bytes."""
    at, repeated, extension = 0, False, 0
    while at < len(code) and code[at] in _PREFIXES:
        repeated |= code[at] in (0xF2, 0xF3)
        at += 1
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        extension = code[at]
        at += 1
    if at >= len(code):
        return Effect.OTHER
    opcode = code[at]
    operand = code[at + 1] if at + 1 < len(code) else None
    if repeated and opcode in _STRINGS:
        return Effect.REP
    if opcode == 0x0F and operand is not None:
        return _two_bytes(operand, code[at + 2] if at + 2 < len(code) else None, extension)
    if opcode == 0x8E and operand is not None:
        register = operand >> 3 & 7
        return _SEGMENT_LOADS[register] if register < len(_SEGMENT_LOADS) else Effect.OTHER
    if opcode == 0xFF and operand is not None:
        return _GROUP_5.get(operand >> 3 & 7, Effect.OTHER)
    if bits != 64 and opcode in _NOT_IN_64_BIT:
        in_vex = opcode in (0xC4, 0xC5) and (operand is None or operand >= 0xC0)
        return Effect.OTHER if in_vex else _NOT_IN_64_BIT[opcode]
    if bits == 64 and opcode in (0x9A, 0xEA):
        return Effect.OTHER
    return _ONE_BYTE.get(opcode, Effect.OTHER)


def _two_bytes(opcode: int, operand: int | None, extension: int) -> Effect:
    if opcode in _TWO_BYTES:
        return _TWO_BYTES[opcode]
    if operand is None:
        return Effect.OTHER
    register = operand >> 3 & 7
    if opcode == 0x22:
        return _CONTROL_WRITES.get(register + (8 if extension & 4 else 0), Effect.OTHER)
    if opcode == 0x01:
        if register == 6:
            return Effect.LMSW
        return _GROUP_7.get(register, Effect.OTHER) if operand < 0xC0 else Effect.OTHER
    if opcode == 0x00:
        return _GROUP_6.get(register, Effect.OTHER)
    return Effect.OTHER


@lru_cache(maxsize=1 << 16)
def is_system(code: bytes, bits: int) -> bool:
    """Whether the instruction may change segments, tables, control registers or MSRs."""
    return effect_of(code, bits) in SYSTEM


def is_effect_in_any_width(code: bytes, effect: Effect) -> bool:
    """Whether the bytes have this effect in 32-bit or in 64-bit code, for callers that do not know the mode."""
    return effect in (effect_of(code, 32), effect_of(code, 64))


class PortWrite(NamedTuple):
    """What an `out` instruction writes: `value` to `port`, `size` bytes of it."""

    port: int
    value: int
    size: int


def port_write(code: bytes, state: Mapping[str, int]) -> PortWrite | None:
    """The write of an `out` instruction in 32- or 64-bit code, by the registers before it; None for another instruction, or unknown ones."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    opcode = code[at : at + 1]
    size = 1 if opcode in (b"\xe6", b"\xee") else 2 if b"\x66" in code[:at] else 4
    if opcode in (b"\xe6", b"\xe7") and at + 1 < len(code):
        port: int | None = code[at + 1]
    elif opcode in (b"\xee", b"\xef"):
        port = state.get("rdx")
    else:
        return None
    value = state.get("rax")
    return None if port is None or value is None else PortWrite(port & 0xFFFF, value & (1 << 8 * size) - 1, size)


def _opcode_at(code: bytes, bits: int) -> tuple[int, int]:
    """Where the opcode begins behind the prefixes, and the REX prefix, 0 without one."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    rex = bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40
    return (at + 1, code[at]) if rex else (at, 0)


def stored(code: bytes, bits: int, state: Mapping[str, int]) -> int | None:
    """The byte that a `mov` stores to memory, by the registers before it; None for another instruction, another width, or an unknown register."""
    at, extension = _opcode_at(code, bits)
    if at + 1 >= len(code) or code[at] not in (0x88, 0xA2, 0xC6) or (code[at] != 0xA2 and code[at + 1] >> 6 == 3):
        return None
    if code[at] == 0xC6:
        return code[-1]
    number = 0 if code[at] == 0xA2 else code[at + 1] >> 3 & 7
    if number > 3 or extension & 4:
        return None  # AH to BH, or a register that has its low byte only with REX
    value = state.get(_REGISTERS[number])
    return None if value is None else value & 0xFF


class Divisor(NamedTuple):
    """The divisor of `div` or `idiv`: a register by its 64-bit name, or memory (""), and its size in bytes."""

    register: str
    size: int


_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")


def divisor(code: bytes, bits: int) -> Divisor | None:
    """The divisor of a division; None for another instruction."""
    at, extension = _opcode_at(code, bits)
    if at + 1 >= len(code) or code[at] not in (0xF6, 0xF7) or code[at + 1] >> 3 & 7 not in (6, 7):
        return None
    size = 1 if code[at] == 0xF6 else 8 if extension & 8 else 2 if b"\x66" in code[:at] else 4
    operand = code[at + 1]
    if operand >> 6 != 3:
        return Divisor("", size)
    number = operand & 7 | (8 if extension & 1 else 0)
    if size == 1 and number in (4, 5, 6, 7):
        return None  # AH to BH, or SPL to DIL
    return Divisor(f"r{number}" if number > 7 else _REGISTERS[number], size)
