"""Machine code as text, against binutils."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvhdbg import guests
from pvhdbg.disassembly import disassemble, first_as_qemu
from pvhdbg.kernel.image import open_kernel
from tests.support.objdump import Row, listing
from tests.support.sorting import examples

LONGEST = 15
# Where both may write the same in two ways: what strings are at, a no-operation's operand and prefixes, a product's two operands.
TWO_WAYS = re.compile(
    r"(?:rep\w* |cs |data16 )*(?:nop|movs|cmps|outs|ins|stos|scas|lods|imul)|lea. (?:%ds:)?0x0\(%(\w+),%[er]iz,1\),%\1"
)
UNSUFFIXED = ("bswap", "jmp", "lgdt", "lidt", "sgdt", "sidt", "verr", "verw")


def parts(text: str) -> tuple[str, list[str], list[int]]:
    """The mnemonic without a size that follows from the operands, the registers, and the numbers that must be written."""
    text = re.sub(r"^rex(?:\.\w+)? (?=\w)", "", text)  # binutils since 2.40 name a prefix that has no effect
    mnemonic, *operands = text.replace(",", " ").split()
    plain = next((one for one in UNSUFFIXED if mnemonic.startswith(one)), mnemonic)
    numbers = [int(one, 0) for word in operands for one in re.findall(r"(?<![\w%])-?(?:0x[0-9a-f]+|\d+)", word)]
    registers = re.findall(r"%\w+", " ".join(operands))
    return (
        plain,
        [one for one in registers if one not in ("%eiz", "%riz")],
        [one & (1 << 64) - 1 for one in numbers if one not in (0, 1)],
    )


def check(code: bytes, address: int, bits: int) -> int:
    """Compare all that binutils take for an instruction; how many there were."""
    rows = [row for row in listing(code, address, bits) if row.at <= len(code) - LONGEST and "(bad)" not in row.text]
    wrong = list[tuple[Row, str]]()
    for row in rows:
        one = first_as_qemu(code[row.at : row.at + LONGEST], address + row.at, bits)
        if one is None or len(one.data) != row.size or (parts(one.text) != parts(row.text) and not TWO_WAYS.match(row.text)):
            wrong.append((row, "" if one is None else one.text))
    assert wrong == []
    return len(rows)


@pytest.mark.parametrize("bits", [64, 32])
def test_debians_kernel(request: pytest.FixtureRequest, bits: int) -> None:
    kernel: Path = request.getfixturevalue("vmlinux" if bits == 64 else "vmlinux32")
    with kernel.open("rb") as file:
        file.seek(2 << 20)  # .text
        code = file.read(100_000)
    assert check(code, 0xFFFFFFFF81000000 if bits == 64 else 0xC1000000, bits) > 20_000


@pytest.mark.parametrize("name", ["hello", "long_mode"])
def test_a_guest_from_its_entry_on(name: str) -> None:
    with open_kernel(str(guests.path(name))) as image:
        entry = image.kernel().entry
        load = next(one for one in image.elf.loads if entry is not None and one.p_paddr <= entry < one.p_paddr + one.p_memsz)
        assert entry is not None
        code = bytes(image.data[load.p_offset + entry - load.p_paddr :][:60])
        assert check(code, entry, 32) >= 5


@settings(max_examples=examples(2000), deadline=None)
@given(st.binary(max_size=64), st.sampled_from((16, 32, 64)), st.sampled_from((0, 0xFFF0, 0xFFFF0, 0xFFFFFFF0, (1 << 64) - 16)))
def test_any_bytes(code: bytes, bits: int, address: int) -> None:
    at = address
    for one in disassemble(code, address, bits):
        assert one.address == at
        assert code[at - address :].startswith(one.data)
        assert 1 <= len(one.data) <= LONGEST
        assert re.fullmatch(r"[a-z][ -~]*", one.text)
        at += len(one.data)
    assert len(list(disassemble(code, address, bits, 2))) <= 2
    first_as_qemu(code, address, bits)


def test_far_and_near_jumps_of_real_mode() -> None:
    """A linear address stays one; an offset wraps, as ip does."""
    assert [one.text for one in disassemble(b"\xea\x5b\xe0\x00\xf0", 0xFFFFFFF0, 16)] == ["jmp 0xf000:0xe05b"]
    assert [one.text for one in disassemble(b"\xeb\xfe\xe9\x00\x20", 0xFFFF0, 16)] == ["jmp 0xffff0", "jmp 0x101ff5"]
    assert [one.text for one in disassemble(b"\xe9\x00\x20", 0xFFF0, 16)] == ["jmp 0x1ff3"]
    assert first_as_qemu(b"\x0f\x94\xc0", 0, 32) == (0, b"\x0f\x94\xc0", "sete     %al")
