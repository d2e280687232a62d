"""Control registers that follow from instructions: the way of a real kernel into 64-bit code, and what ends the knowledge."""

from functools import partial

import pytest

from pvhdbg.decode.cpu_mode import CODE_32, CODE_64, Mode, mode_of
from pvhdbg.decode.followed_control import AT_ENTRY, Control, after
from pvhdbg.spec.x86 import CR0, CR4, EFER

GDT = 0x5000
MEMORY = {
    0x4002: GDT.to_bytes(4, "little"),
    0x4000: (0x27).to_bytes(2, "little"),
    GDT + 8 + 4: (0x00CF9A00).to_bytes(4, "little"),
    GDT + 16 + 4: (0x00AF9A00).to_bytes(4, "little"),
    0x6004: (0x10).to_bytes(2, "little"),
    0x6008: (0x8).to_bytes(2, "little"),
}


def read(address: int, size: int) -> bytes:
    return MEMORY.get(address, b"")[:size]


def followed(control: Control | None, *steps: tuple[str, dict[str, int]]) -> Control | None:
    for code, registers in steps:
        assert control is not None
        control = after(control, bytes.fromhex(code), partial(dict, registers), read)
    return control


INTO_LONG_MODE: tuple[tuple[str, dict[str, int]], ...] = (
    ("0f 01 15 00 40 00 00", {}),  # lgdt [0x4000]
    ("0f 22 e0", {"rax": 0x20}),  # mov cr4, eax
    ("0f 22 d8", {"rax": 0x2000}),  # mov cr3, eax
    ("0f 30", {"rcx": 0xC0000080, "rax": 0x100, "rdx": 0}),  # wrmsr
    ("0f 22 c0", {"rax": 0x80000001}),  # mov cr0, eax
)


def mode(control: Control | None) -> Mode:
    assert control is not None
    return mode_of(control.cr0, control.cr4, control.efer, control.cs_flags)


def test_the_way_into_64_bit_code() -> None:
    assert mode(AT_ENTRY) is Mode.PROTECTED
    control = followed(AT_ENTRY, *INTO_LONG_MODE)
    assert control is not None
    assert (control.cr3, control.cr4, control.gdt) == (0x2000, 1 << CR4["PAE"], GDT)
    assert control.cr0 == 1 << CR0["PG"] | 1 << CR0["ET"] | 1 << CR0["PE"]
    assert control.efer == 1 << EFER["LME"] | 1 << EFER["LMA"]
    assert mode(control) is Mode.COMPATIBILITY
    for far in ("ea 00 00 10 00 10 00", "cb", "ff 28"):  # jmp 0x10:0x100000; retf; jmp far [eax]
        there = followed(control, (far, {"rsp": 0x6000, "rax": 0x6000}))
        assert there is not None
        assert there.cs_flags == 0x00A09A00, far
        assert mode(there) is Mode.LONG
    back = followed(there, ("48 cf", {"rsp": 0x6000}))  # iretq
    assert back is not None
    assert back.cs_flags == 0x00C09A00


def test_long_mode_ends_with_paging() -> None:
    control = followed(AT_ENTRY, *INTO_LONG_MODE, ("0f 22 c0", {"rax": 1}))
    assert control is not None
    assert control.efer == 1 << EFER["LME"]


def test_other_instructions_change_nothing() -> None:
    for code in ("90", "0f a2", "0f 20 c0", "0f 32", "ff e0", "0f 01 1d 00 00 00 00", "", "f4", "0f"):
        assert followed(AT_ENTRY, (code, {})) == AT_ENTRY, code
    assert followed(AT_ENTRY, ("0f 30", {"rcx": 0x10})) == AT_ENTRY


def test_clts_and_64_bit_registers() -> None:
    task = AT_ENTRY._replace(cr0=AT_ENTRY.cr0 | 1 << CR0["TS"])
    assert followed(task, ("0f 06", {})) == AT_ENTRY
    long = AT_ENTRY._replace(efer=1 << EFER["LMA"] | 1 << EFER["LME"], cr0=0x80000011, cs_flags=CODE_64)
    found = followed(long, ("41 0f 22 d9", {"r9": 0x1_0000_2000}))
    assert found is not None
    assert found.cr3 == 0x1_0000_2000


@pytest.mark.parametrize("code", ["ea 00 00 10 00 18 00", "cb", "ea 00 00 10 00 0c 00", "0f 01 14 85 00 40 00 00"])
def test_what_cannot_be_known_is_not(code: str) -> None:
    """A descriptor that cannot be read, a stack that cannot, a local table, an lgdt by an index."""
    control = followed(AT_ENTRY._replace(gdt=GDT), (code, {"rsp": 0x9000, "rax": 0}))
    assert control is not None
    assert control.cs_flags is None or control.gdt is None


def test_an_unknown_effect_ends_it() -> None:
    assert followed(AT_ENTRY, ("0f 01 f0", {"rax": 1})) is None  # lmsw ax
    assert AT_ENTRY.cs_flags == CODE_32
