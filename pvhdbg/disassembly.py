"""Machine code as text, by the mode that the CPU executes it in (iced-x86)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from iced_x86 import Formatter


class Instruction(NamedTuple):
    """One instruction: its address, its bytes, and its text in Intel's syntax."""

    address: int
    data: bytes
    text: str


@cache
def available() -> bool:
    """Whether there is a disassembler: GDB's own Python may have none."""
    return find_spec("iced_x86") is not None


def disassemble(code: bytes, address: int, bits: int = 32, count: int = 0) -> Iterator[Instruction]:
    """The instructions of `code`, which lies at `address` and is executed in 16-, 32- or 64-bit mode.

    At most `count` of them, all for 0. Ends before an invalid or incomplete instruction. Raises ImportError without iced-x86.
    """
    return islice(_decoded(code, address, bits, _intel()), count or None)


@lru_cache(maxsize=1 << 12)
def instruction_text(code: bytes, pc: int, bits: int) -> str:
    """The instruction as text; as bytes when it is invalid or there is no disassembler."""
    return next((one.text for one in disassemble(code, pc, bits, 1)), code.hex(" ")) if available() else code.hex(" ")


def first_as_qemu(code: bytes, address: int, bits: int) -> Instruction | None:
    """The first instruction of `code` in AT&T's syntax, laid out as in QEMU's monitor; None for an invalid one.

    Raises ImportError without iced-x86.
    """
    for one in _decoded(code, address, bits, _att()):
        mnemonic, _, operands = one.text.partition(" ")
        if mnemonic.startswith("set"):
            mnemonic = mnemonic.removesuffix("b")  # of "seteb": setcc writes bytes only and needs no size suffix
        return one._replace(text=f"{mnemonic:<8} {operands}".rstrip())
    return None


def _decoded(code: bytes, address: int, bits: int, formatter: Formatter) -> Iterator[Instruction]:
    from iced_x86 import Decoder, OpKind

    at = 0
    for one in Decoder(bits, code, ip=address):
        if one.is_invalid:
            return
        start, at = at, at + one.len
        if bits == 16 and address >> 16 and one.op0_kind == OpKind.NEAR_BRANCH16:  # linear, as `address` is
            one.op0_kind = OpKind.NEAR_BRANCH32
            one.near_branch32 = address + at + (one.near_branch16 - address - at + 0x8000 & 0xFFFF) - 0x8000 & 0xFFFFFFFF
        yield Instruction(address + start, code[start:at], formatter.format(one))


@cache
def _intel() -> Formatter:
    from iced_x86 import Formatter, FormatterSyntax

    return _laid_out(Formatter(FormatterSyntax.MASM))  # its INTEL swaps far pointers: "jmp far 0x100210, 8"


@cache
def _att() -> Formatter:
    from iced_x86 import Formatter, FormatterSyntax

    formatter = _laid_out(Formatter(FormatterSyntax.GAS))
    formatter.gas_show_mnemonic_size_suffix = True
    return formatter


def _laid_out(formatter: Formatter) -> Formatter:
    formatter.hex_prefix, formatter.hex_suffix, formatter.uppercase_hex = "0x", "", False
    formatter.branch_leading_zeros = formatter.add_leading_zero_to_hex_numbers = False
    formatter.space_after_operand_separator = formatter.space_between_memory_add_operators = True
    formatter.rip_relative_addresses = True
    formatter.show_branch_size = formatter.masm_add_ds_prefix32 = False
    return formatter
