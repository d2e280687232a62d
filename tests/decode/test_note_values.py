"""Notes in words: every kind that elfnote.h has, right and wrong widths, and random bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.note_values import owner_name, value
from pvhdbg.decode.notes import Note
from pvhdbg.spec.elf_notes import OTHER_NOTES, XEN_NOTES


def note(type: int, desc: bytes, owner: bytes = b"Xen\0") -> Note:
    return Note(owner, type, desc, 0, 0, 4)


@pytest.mark.parametrize(
    ("type", "desc", "text"),
    [
        (18, b"\x50\x08\x00\x01", "0x1000850"),
        (18, b"\x50\x08\x00\x01\0\0\0\0", "0x1000850"),
        (14, b"\1", "0x1"),
        (16, b"\1\0", "0x1"),
        (6, b"linux\0", "“linux”"),
        (6, b"linux", "“linux”"),
        (6, b"a\x1b[0m\0", "“a\\x1b[0m”"),
        (18, b"\1\2\3", "010203"),
        (0x1000001, b"", "nothing"),
    ],
)
def test_values(type: int, desc: bytes, text: str) -> None:
    assert value(note(type, desc)).text == text


def test_features_are_told_by_bit_and_by_name() -> None:
    words = value(note(10, b"!writable_page_tables|pae_pgdir_above_4gb|nonsense\0")).lines
    assert words == (
        "writable_page_tables: required, bit 0",
        "pae_pgdir_above_4gb: supported, bit 4",
        "nonsense: supported, not a feature of Xen",
    )
    assert value(note(17, (0x8801 | 1 << 31).to_bytes(4, "little"))).lines == (
        "bit 0: writable_page_tables",
        "bit 11: dom0",
        "bit 15: linux_rsdp_unrestricted",
        "bit 31: not a feature of Xen",
    )


def test_arrays() -> None:
    assert value(note(13, (1).to_bytes(8, "little") * 2)).lines == ("mask 0x1, value 0x1",)
    assert value(note(13, (1).to_bytes(4, "little") * 2)).lines == ("mask 0x1, value 0x1",)
    assert value(note(19, b"")).lines == (
        "alignment: 0x200000 (default)", "lowest start: 0x0 (default)", "highest end: 0xffffffff (default)",
    )  # fmt: skip
    assert value(note(19, b"\0\0\x10\0\0\0\x10\0")).lines[:2] == ("alignment: 0x100000", "lowest start: 0x100000")


def test_others_are_told_by_owner_and_number() -> None:
    assert value(note(3, b"\xab\xcd", b"GNU\0")).name == "BUILD_ID"
    assert value(note(3, b"\0" * 8)).name == "VIRT_BASE"
    assert value(note(0x100, b"6.1\0", b"Linux\0")).text == "“6.1”"
    assert value(note(18, b"\0" * 4, b"GNU\0")).name == "type 0x12"
    assert owner_name(note(18, b"", b"\x1b]0;x")) == "\\x1b]0;x"


@given(
    st.sampled_from([*XEN_NOTES, 99]),
    st.binary(max_size=200),
    st.sampled_from([b"Xen\0", b"Xen", *(owner for owner, _ in OTHER_NOTES)]),
)
def test_no_descriptor_is_too_odd(type: int, desc: bytes, owner: bytes) -> None:
    said = value(note(type, desc, owner))
    for text in (said.text, *said.lines):
        assert all(letter.isprintable() for letter in text)
        assert len(text) < 2000
