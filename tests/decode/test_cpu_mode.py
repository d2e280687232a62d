"""The mode of a CPU by its registers, with and without hidden segment state."""

from __future__ import annotations

import pytest

from pvhdbg.decode.cpu_mode import mode_of
from pvhdbg.model import Registers, Segment, Segments
from pvhdbg.spec.x86 import BIT_WORDS, REGISTER_BITS

CODE_16, CODE_32, CODE_64 = 0x9B00, 0xC09B00, 0xA09B00


def segments(flags: int | None) -> Segments:
    return Segments() if flags is None else Segments({"cs": Segment(8, 0, 0xFFFFFFFF, flags)})


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "cs", "name", "paging", "code"),
    [
        (0x10, 0, 0, CODE_16, "real mode", "paging off", 16),
        (0x10, 0, 0, CODE_32, "real mode (32-bit code: unreal)", "paging off", 32),
        (0x11, 0, 0, CODE_16, "16-bit protected mode", "paging off", 16),
        (0x11, 0, 0, CODE_32, "32-bit protected mode", "paging off", 32),
        (0x80000011, 0x10, 0, CODE_32, "32-bit protected mode", "32-bit paging", 32),
        (0x80000011, 0x20, 0, CODE_32, "32-bit protected mode", "PAE paging", 32),
        (0x80000011, 0x20, 0x500, CODE_32, "compatibility mode", "4-level paging", 32),
        (0x80000011, 0x20, 0x500, CODE_16, "compatibility mode", "4-level paging", 16),
        (0x80000011, 0x20, 0x500, CODE_64, "64-bit long mode", "4-level paging", 64),
        (0x80000011, 0x1020, 0x500, CODE_64, "64-bit long mode", "5-level paging", 64),
        # LME without paging: long mode is asked for, and not active.
        (0x11, 0x20, 0x100, CODE_32, "32-bit protected mode", "paging off", 32),
    ],
)
def test_modes(cr0: int, cr4: int, efer: int, cs: int, name: str, paging: str, code: int) -> None:
    found = mode_of(Registers({"cr0": cr0, "cr4": cr4, "efer": efer, "eflags": 2}), segments(cs))
    assert (found.name, found.paging, found.code) == (name, paging, code)


def test_every_bit_that_has_a_name_has_words() -> None:
    assert {name: set(words) for name, words in BIT_WORDS.items()} == {name: set(bits) for name, bits in REGISTER_BITS.items()}


def test_virtual_8086() -> None:
    found = mode_of(Registers({"cr0": 0x80000011, "cr4": 0, "efer": 0, "eflags": 1 << 17}), segments(CODE_16 | 3 << 13))
    assert (found.name, found.code, found.privilege) == ("virtual-8086 mode", 16, 3)


def test_what_was_not_observed_stays_open() -> None:
    found = mode_of(Registers({}), segments(None))
    assert (found.name, found.code, found.privilege) == ("mode not observed", None, None)
    assert found.paging.startswith("paging not known")
    assert all(fact.value is None for fact in found.evidence)
    long = mode_of(Registers({"cr0": 0x80000011, "cr4": 0x20, "efer": 0x500}), segments(None))
    assert "CS was not observed" in long.name
    assert long.code is None
