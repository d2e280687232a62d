"""What an instruction is for, as far as a boot is concerned, from its bytes (Intel SDM volume 2, appendix A).

Only instructions that change the system are told apart; for everything else a disassembler is the right tool.
"""

from __future__ import annotations

from functools import lru_cache

_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf0\xf2\xf3")
_STRINGS = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_ONE_BYTE = {
    0x9A: "far call", 0xCA: "far return", 0xCB: "far return", 0xCC: "int3", 0xCD: "int", 0xCF: "iret", 0xEA: "far jump",
    0xF4: "hlt", 0xFA: "cli", 0xFB: "sti", 0xE8: "call", 0xC2: "return", 0xC3: "return",
}  # fmt: skip
_TWO_BYTES = {
    0x05: "syscall", 0x07: "sysret", 0x08: "invd", 0x09: "wbinvd", 0x0B: "ud2", 0x30: "wrmsr", 0x32: "rdmsr", 0xA1: "load fs",
    0xA2: "cpuid", 0xA9: "load gs", 0xB2: "load ss", 0xB4: "load fs", 0xB5: "load gs",
}  # fmt: skip
_POPS = {0x07: "load es", 0x17: "load ss", 0x1F: "load ds", 0xC4: "load es", 0xC5: "load ds"}  # not in 64-bit code
_TABLES = {2: "lgdt", 3: "lidt"}


@lru_cache(maxsize=1 << 16)
def kind_of(code: bytes, bits: int) -> str:
    """A word for what the instruction does to the system ("write cr0", "load ds", "lgdt", "rep", …); "" for the rest."""
    at, repeated, extension = 0, False, 0
    while at < len(code) and code[at] in _PREFIXES:
        repeated |= code[at] in (0xF2, 0xF3)
        at += 1
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        extension = code[at]
        at += 1
    if at >= len(code):
        return ""
    opcode = code[at]
    operand = code[at + 1] if at + 1 < len(code) else None
    if repeated and opcode in _STRINGS:
        return "rep"
    if opcode == 0x0F and operand is not None:
        return _two_bytes(operand, code[at + 2] if at + 2 < len(code) else None, extension)
    if opcode == 0x8E and operand is not None:
        register = operand >> 3 & 7
        return f"load {_SEGMENTS[register]}" if register < len(_SEGMENTS) else ""
    if opcode == 0xFF and operand is not None:
        return {2: "call", 3: "far call", 5: "far jump"}.get(operand >> 3 & 7, "")
    if bits != 64 and opcode in _POPS:
        in_vex = opcode in (0xC4, 0xC5) and (operand is None or operand >= 0xC0)
        return "" if in_vex else _POPS[opcode]
    if bits == 64 and opcode in (0x9A, 0xEA):
        return ""
    return _ONE_BYTE.get(opcode, "")


def _two_bytes(opcode: int, operand: int | None, extension: int) -> str:
    if opcode in _TWO_BYTES:
        return _TWO_BYTES[opcode]
    if operand is None:
        return ""
    register = operand >> 3 & 7
    if opcode == 0x22:
        return f"write cr{register + (8 if extension & 4 else 0)}"
    if opcode == 0x01:
        return "lmsw" if register == 6 else _TABLES.get(register, "") if operand < 0xC0 else ""
    if opcode == 0x00:
        return {2: "lldt", 3: "ltr"}.get(register, "")
    return ""


_SYSTEM = ("write ", "load ", "far ", "lgdt", "lidt", "ltr", "lldt", "wrmsr", "lmsw", "iret", "sys", "int")


def is_system(code: bytes, bits: int) -> bool:
    """Whether the instruction may change segments, tables, control registers or MSRs."""
    return kind_of(code, bits).startswith(_SYSTEM)
