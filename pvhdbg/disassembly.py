"""Machine code as text, by the mode that the CPU executes it in (capstone, which every distribution packages)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from capstone import Cs


class Instruction(NamedTuple):
    """One instruction: its address, its bytes, and its text in Intel's syntax."""

    address: int
    data: bytes
    text: str


@cache
def available() -> bool:
    """Whether there is a disassembler: GDB's own Python may have none."""
    return find_spec("capstone") is not None


def disassemble(code: bytes, address: int, bits: int = 32, count: int = 0) -> Iterator[Instruction]:
    """The instructions of `code`, which lies at `address` and is executed in 16-, 32- or 64-bit mode.

    At most `count` of them, all for 0. It ends before what is no instruction, or is cut short.
    """
    for at, size, mnemonic, operands in _engine(bits).disasm_lite(code, address, count):
        start = at - address
        yield Instruction(at, code[start : start + size], f"{mnemonic} {operands}".rstrip())


def first_as_qemu(code: bytes, address: int, bits: int) -> Instruction | None:
    """The first instruction of `code` in AT&T's syntax, laid out as QEMU's monitor does it; None for what is none.

    Raises ImportError without capstone.
    """
    for at, size, mnemonic, operands in _engine(bits, att=True).disasm_lite(code, address, 1):
        return Instruction(at, code[:size], f"{mnemonic:<8} {operands}".rstrip())
    return None


@cache  # making one takes longer than most that is done with it
def _engine(bits: int, att: bool = False) -> Cs:
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    engine = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    if att:
        engine.syntax = capstone.CS_OPT_SYNTAX_ATT
    return engine
