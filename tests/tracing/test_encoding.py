"""How long instructions are and where they lead, against binutils and against the disassembler."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind

from pvhdbg.tracing.encoding import LONGEST, goal, is_jump, length
from tests.support.objdump import listing
from tests.support.sorting import examples

NEAR = {OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64}
JUMPS = {FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH}
FIRST = [
    b"",
    b"\x0f",
    b"\x66",
    b"\x67",
    b"\x66\x67",
    b"\xf2",
    b"\xf3",
    b"\x48",
    b"\x66\x48\x0f",
    b"\xc4",
    b"\xc5",
    b"\x62",
    b"\x0f\x38",
    b"\x0f\x3a",
]


def agrees(code: bytes, at: int, bits: int, one: Instruction) -> None:
    leads_to = one.near_branch_target if one.op0_kind in NEAR and one.mnemonic != Mnemonic.XBEGIN else None
    assert length(code, bits) == one.len
    assert goal(code, at, bits) == leads_to
    assert is_jump(code, bits) == (one.flow_control in JUMPS)


def test_debians_kernel(vmlinux: Path) -> None:
    """100 000 instructions of it as binutils divide them."""
    with vmlinux.open("rb") as file:
        file.seek(2 << 20)  # .text
        code = file.read(400_000)
    rows = [row for row in listing(code, 0xFFFFFFFF81000000, 64) if row.at <= len(code) - LONGEST and "(bad)" not in row.text]
    assert len(rows) > 90_000
    assert [row for row in rows if length(code[row.at : row.at + LONGEST], 64) != row.size] == []


@settings(max_examples=examples(3000), deadline=None)
@given(st.sampled_from(FIRST), st.binary(min_size=LONGEST, max_size=LONGEST), st.sampled_from((16, 32, 64)))
def test_any_bytes(first: bytes, rest: bytes, bits: int) -> None:
    code = (first + rest)[:LONGEST]
    one = Decoder(bits, code, DecoderOptions.NO_INVALID_CHECK, ip=0x1234).decode()
    if not one.is_invalid:
        agrees(code, 0x1234, bits, one)
        assert length(code[: one.len - 1], bits) == 0
    assert 0 <= length(code, bits) <= LONGEST


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_every_opcode_with_every_operand(bits: int) -> None:
    opcodes = [bytes([one]) for one in range(256)] + [bytes([0x0F, one]) for one in range(256)]
    for opcode in opcodes:
        for modrm in range(256):
            code = opcode + bytes([modrm, 0x25]) + bytes(11)
            one = Decoder(bits, code, DecoderOptions.NO_INVALID_CHECK, ip=0x1234).decode()
            if not one.is_invalid:
                agrees(code, 0x1234, bits, one)


def test_fifteen_bytes_are_the_most() -> None:
    assert length(b"\x66" * 14 + b"\x90", 32) == 15
    assert length(b"\x66" * 15 + b"\x90", 32) == 0
    assert length(b"", 64) == 0
