"""The length of an instruction and the target of a direct branch, from its bytes (Intel SDM volume 2, chapter 2 and appendix A).

Tracing needs only these, so it works in every Python, without a disassembler. An undefined opcode gets the length of its
neighbours: the CPU faults on it anyway.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

LONGEST = 15  # bytes: the CPU refuses more

_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf0\xf2\xf3")
_VECTOR = frozenset(
    (0x62, 0xC4, 0xC5)
)  # EVEX and VEX; outside 64-bit code only if the next byte cannot be a ModRM with a memory operand


def _opcodes(*ranges: tuple[int, int]) -> frozenset[int]:
    return frozenset(opcode for first, last in ranges for opcode in range(first, last + 1))


# Opcodes of one byte: those with a ModRM byte, and those with an immediate, of one byte or of the operand's size.
_MODRM = _opcodes(*((row, row + 3) for row in range(0, 0x40, 8)), (0x62, 0x63), (0x69, 0x69), (0x6B, 0x6B), (0x80, 0x8F), (0xC0, 0xC1),
                  (0xC4, 0xC7), (0xD0, 0xD3), (0xD8, 0xDF), (0xF6, 0xF7), (0xFE, 0xFF))  # fmt: skip
_BYTE = _opcodes(*((row, row) for row in range(4, 0x40, 8)), (0x6A, 0x6B), (0x70, 0x80), (0x82, 0x83), (0xA8, 0xA8), (0xB0, 0xB7),
                 (0xC0, 0xC1), (0xC6, 0xC6), (0xC8, 0xC8), (0xCD, 0xCD), (0xD4, 0xD5), (0xE0, 0xE7), (0xEB, 0xEB))  # fmt: skip
_FULL = _opcodes(*((row, row) for row in range(5, 0x40, 8)), (0x68, 0x69), (0x81, 0x81), (0x9A, 0x9A), (0xA9, 0xA9), (0xB8, 0xBF),
                 (0xC7, 0xC7), (0xE8, 0xEA))  # fmt: skip
_WORD = frozenset((0x9A, 0xC2, 0xC8, 0xCA, 0xEA))  # two bytes; of a far pointer they follow the offset
_NOT_IN_64 = _opcodes(*((row, row + 1) for row in (6, 0x16, 0x1E)), (0x0E, 0x0E), *((row, row) for row in range(0x27, 0x40, 8)),
                      (0x60, 0x61), (0x82, 0x82), (0x9A, 0x9A), (0xCE, 0xCE), (0xD4, 0xD6), (0xEA, 0xEA))  # fmt: skip
# After 0F: opcodes without a ModRM byte, and those with an immediate of one byte.
_BARE = _opcodes((0x04, 0x0C), (0x0E, 0x0E), (0x30, 0x37), (0x77, 0x77), (0x80, 0x8F), (0xA0, 0xA2), (0xA8, 0xAA), (0xC8, 0xCF))
_BYTE_0F = _opcodes((0x0F, 0x0F), (0x70, 0x73), (0xA4, 0xA4), (0xAC, 0xAC), (0xBA, 0xBA), (0xC2, 0xC2), (0xC4, 0xC6))
_BRANCHES = _opcodes((0x70, 0x7F), (0xE0, 0xE3), (0xE8, 0xE9), (0xEB, 0xEB), (0x0F80, 0x0F8F))


class Encoding(NamedTuple):
    """The properties of an instruction that follow from its bytes."""

    length: int
    opcode: int  # 0x0F84 for one of two bytes; 0 for one with a VEX or EVEX prefix
    modrm: int | None
    constant: int  # bytes of the immediate at its end
    wide: int  # bits of its operand, 16, 32 or 64


@lru_cache(maxsize=1 << 16)
def encoding(code: bytes, bits: int) -> Encoding | None:
    """The first instruction of `code` in 16-, 32- or 64-bit mode; None where it is incomplete, too long, or invalid in 64-bit mode."""
    at, rex, prefixes = _prefixes(code, bits)
    if at == len(code) or (bits == 64 and code[at] in _NOT_IN_64):
        return None
    narrow = (0x66 in prefixes) != (bits == 16)
    wide = 64 if rex & 8 else 16 if narrow else 32
    opcode, modrm, constant = code[at], False, 0
    at += 1
    if opcode in _VECTOR and (bits == 64 or code[at : at + 1] >= b"\xc0"):
        at, modrm, constant = _vector(code, at, opcode)
        opcode = 0
    elif opcode == 0x0F:
        second = code[at] if at < len(code) else 0
        opcode = 0x0F00 | second
        at += 2 if second in (0x38, 0x3A) else 1  # these have a third opcode byte
        modrm, constant = _after_0f(second, prefixes, narrow and bits != 64)
    else:
        modrm, constant = opcode in _MODRM, _constant(opcode, bits, wide, narrow, 0x67 in prefixes)
    found = code[at] if modrm and at < len(code) else None
    if modrm:
        if opcode in (0xF6, 0xF7) and found is not None and not found & 0x30:  # test has an immediate; the others have none
            constant = 1 if opcode == 0xF6 else min(wide // 8, 4)
        at += 1 if 0x0F20 <= opcode <= 0x0F23 else _operand(code, at, bits == 16, 0x67 in prefixes and bits != 64)
    at += constant
    return Encoding(at, opcode, found, constant, wide) if at <= min(len(code), LONGEST) else None


def _prefixes(code: bytes, bits: int) -> tuple[int, int, set[int]]:
    """Where the opcode begins, the REX prefix (0 without one), and all prefixes."""
    at, rex, prefixes = 0, 0, set[int]()
    while at < len(code) and (code[at] in _PREFIXES or (bits == 64 and code[at] & 0xF0 == 0x40)):
        rex = 0 if code[at] in _PREFIXES else code[at]  # valid only directly before the opcode
        prefixes.add(code[at])
        at += 1
    return at, rex, prefixes


def _after_0f(second: int, prefixes: set[int], narrow: bool) -> tuple[bool, int]:
    """For the opcode 0F `second`: whether it has a ModRM, and the bytes of its immediate. `narrow`: a branch has 16 bits."""
    if second in (0x38, 0x3A):
        return True, int(second == 0x3A)
    if 0x80 <= second <= 0x8F:  # branches
        return False, 2 if narrow else 4
    if second == 0x78 and prefixes & {0x66, 0xF2}:  # extrq, insertq
        return True, 2
    return second not in _BARE, int(second in _BYTE_0F)


def _constant(opcode: int, bits: int, wide: int, narrow: bool, other_addresses: bool) -> int:
    """The number of bytes after an opcode of one byte, and its ModRM."""
    if 0xA0 <= opcode <= 0xA3:  # an address
        return {16: 4 if other_addresses else 2, 32: 2 if other_addresses else 4, 64: 4 if other_addresses else 8}[bits]
    if opcode in (0xE8, 0xE9) and bits == 64:
        return 4
    full = 8 if wide == 64 and 0xB8 <= opcode <= 0xBF else 2 if narrow and wide != 64 else 4
    return (opcode in _BYTE) + 2 * (opcode in _WORD) + full * (opcode in _FULL)


def _vector(code: bytes, at: int, prefix: int) -> tuple[int, bool, int]:
    """For a VEX or EVEX prefix: the offset of the ModRM, whether it has one, and the bytes of its immediate."""
    table = 1 if prefix == 0xC5 else code[at] & (0x1F if prefix == 0xC4 else 7) if at < len(code) else 0
    at += {0xC5: 1, 0xC4: 2, 0x62: 3}[prefix]
    opcode = code[at] if at < len(code) else 0
    return at + 1, (table, opcode) != (1, 0x77), int(table == 3 or (table == 1 and opcode in _BYTE_0F))


def _operand(code: bytes, at: int, short: bool, other: bool) -> int:
    """The number of bytes of the ModRM at `at`, its SIB and displacement; `short` or `other` selects 16-bit addresses."""
    mod, rm = (code[at] >> 6, code[at] & 7) if at < len(code) else (3, 0)
    if mod == 3:
        return 1
    if short != other:
        return 1 + (2 if mod == 2 or (mod == 0 and rm == 6) else mod)
    index = rm == 4
    base = code[at + 1] & 7 if index and at + 1 < len(code) else rm
    return 1 + index + (4 if mod == 2 or (mod == 0 and base == 5) else mod)


def length(code: bytes, bits: int) -> int:
    """The length of the first instruction in bytes; 0 where it is incomplete or invalid."""
    found = encoding(code, bits)
    return 0 if found is None else found.length


def goal(code: bytes, pc: int, bits: int) -> int | None:
    """The target of a direct jump, branch, loop or call at `pc`; None for all other instructions."""
    found = encoding(code, bits)
    if found is None or found.opcode not in _BRANCHES:
        return None
    distance = int.from_bytes(code[found.length - found.constant : found.length], "little", signed=True)
    return pc + found.length + distance & (1 << (64 if bits == 64 else found.wide)) - 1


def is_jump(code: bytes, bits: int) -> bool:
    """Whether it is an unconditional jump, direct, indirect or far."""
    found = encoding(code, bits)
    if found is None:
        return False
    return found.opcode in (0xE9, 0xEA, 0xEB) or (
        found.opcode == 0xFF and found.modrm is not None and found.modrm >> 3 & 7 in (4, 5)
    )
