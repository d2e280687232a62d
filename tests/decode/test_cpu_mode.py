"""The mode of a CPU by its registers, with and without hidden segment state."""

import pytest

from pvhdbg.decode.cpu_mode import Mode, linear_pc, mode_in, mode_of, mode_of_hflags, observed_mode, pc_in, runs_64_bit_code
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
    found = observed_mode(Registers({"cr0": cr0, "cr4": cr4, "efer": efer, "eflags": 2}), segments(cs))
    assert (found.name, found.paging, found.code) == (name, paging, code)


def test_every_bit_that_has_a_name_has_words() -> None:
    assert {name: set(words) for name, words in BIT_WORDS.items()} == {name: set(bits) for name, bits in REGISTER_BITS.items()}


def test_virtual_8086() -> None:
    found = observed_mode(Registers({"cr0": 0x80000011, "cr4": 0, "efer": 0, "eflags": 1 << 17}), segments(CODE_16 | 3 << 13))
    assert (found.name, found.code, found.privilege) == ("virtual-8086 mode", 16, 3)


def test_what_was_not_observed_stays_open() -> None:
    found = observed_mode(Registers({}), segments(None))
    assert (found.name, found.code, found.privilege) == ("mode not observed", None, None)
    assert found.paging.startswith("paging not known")
    assert all(fact.value is None for fact in found.evidence)
    long = observed_mode(Registers({"cr0": 0x80000011, "cr4": 0x20, "efer": 0x500}), segments(None))
    assert (long.name, long.words, long.code) == ("long mode", "long mode, 4-level paging", None)
    assert next(fact for fact in long.evidence if fact.name == "CS.L").value is None
    narrow = observed_mode(Registers({"cr0": 0x11}))
    assert (narrow.name, narrow.words) == ("protected mode", "protected mode, paging off")


def test_a_pc_above_4_gib_tells_long_mode_where_efer_is_not_observed() -> None:
    """A core has no EFER. Below 4 GiB it stays open."""
    state = {"cr0": 0x80000011, "cr3": 0x1000, "cr4": 0x20, "eflags": 2, "rip": 0xFFFFFFFF81000000}
    found = observed_mode(Registers(state), segments(CODE_64))
    assert (found.name, found.paging, found.code) == ("64-bit long mode", "4-level paging", 64)
    low = observed_mode(Registers(state | {"rip": 0x81000000}), segments(None))
    assert (low.name, low.paging.partition(":")[0]) == ("protected mode", "paging not known")


def test_one_line_says_mode_and_paging() -> None:
    def words(cr0: int, cr4: int, efer: int, cs: int | None) -> str:
        return observed_mode(Registers({"cr0": cr0, "cr4": cr4, "efer": efer}), segments(cs)).words

    assert words(0x10, 0, 0, CODE_16) == "real mode"
    assert words(0x11, 0, 0, CODE_32) == "32-bit protected mode, paging off"
    assert words(0x80000011, 0x20, 0, CODE_32) == "32-bit protected mode, PAE paging"
    assert words(0x80000011, 0x20, 0x500, CODE_64) == "64-bit long mode, 4-level paging"
    assert observed_mode(Registers({})).words == "mode not observed"
    assert observed_mode(Registers({"cr0": 0x80000011}), segments(CODE_32)).words == "32-bit protected mode, paging on"


MODES = {
    Mode.REAL: (0x10, 0, 0, CODE_16, 0),
    Mode.VM86: (0x80000011, 0, 0, CODE_16, 1 << 7 | 1 << 17),
    Mode.PROTECTED16: (0x11, 0, 0, CODE_16, 1 << 7),
    Mode.PROTECTED: (0x11, 0, 0, CODE_32, 1 << 7 | 1 << 4),
    Mode.PAGED: (0x80000011, 0, 0, CODE_32, 1 << 7 | 1 << 4),
    Mode.PAE: (0x80000011, 0x20, 0, CODE_32, 1 << 7 | 1 << 4),
    Mode.COMPATIBILITY: (0x80000011, 0x20, 0x500, CODE_32, 1 << 7 | 1 << 14 | 1 << 4),
    Mode.LONG: (0x80000011, 0x20, 0x500, CODE_64, 1 << 7 | 1 << 14 | 1 << 15),
}


@pytest.mark.parametrize("mode", Mode)
def test_every_way_to_a_mode_names_the_same_one(mode: Mode) -> None:
    cr0, cr4, efer, cs, hflags = MODES[mode]
    state = {"cr0": cr0, "cr4": cr4, "efer": efer, "eflags": 1 << 17 if mode is Mode.VM86 else 2}
    assert mode_of(cr0, cr4, efer, cs, state["eflags"]) is mode
    assert mode_in({**state, "cs_flags": cs}) is mode
    seen = observed_mode(Registers(state), segments(cs))
    assert (seen.name, seen.code) == (mode.title, mode.bits)
    assert mode.words.startswith(mode.title)
    without_paging = Mode.PROTECTED if mode in (Mode.PAGED, Mode.PAE) else mode  # QEMU's hidden flags do not show it
    assert mode_of_hflags(hflags) is without_paging
    assert runs_64_bit_code(Registers(state), segments(cs)) == (mode is Mode.LONG)


def test_a_mode_needs_all_control_registers() -> None:
    assert mode_in({"cr0": 0x11, "cr4": 0}) is None
    assert mode_in({}) is None


def test_the_base_of_cs_counts_outside_of_64_bit_code() -> None:
    assert linear_pc(0xFFF0, 0xFFFF0000, 16) == 0xFFFFFFF0
    assert linear_pc(0x10, 0xFFFFFFF8, 32) == 8
    assert linear_pc(0xFFFFFFFF81000000, 0x1000, 64) == 0xFFFFFFFF81000000
    assert linear_pc(0x7C00, None, None) == 0x7C00
    assert pc_in({"rip": 0xFFF0, "cs_base": 0xFFFF0000, "cr0": 0x10, "cr4": 0, "efer": 0}) == 0xFFFFFFF0
    assert pc_in({"cs_base": 1}) is None
