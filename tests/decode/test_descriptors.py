"""Descriptor tables; the values beside them are worked out by hand from the SDM's figures."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.descriptors import TSS_BYTES, descriptors, gates, task_state, vectors

FLAT_CODE, FLAT_DATA, LONG_CODE = 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00AF9A000000FFFF


def table(*entries: int) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries)


def test_a_flat_gdt() -> None:
    code, data = descriptors(table(0, FLAT_CODE, FLAT_DATA), long_mode=False)
    assert (code.selector, code.base, code.limit, code.dpl, code.present) == (8, 0, 0xFFFFFFFF, 0, True)
    assert (code.meaning, data.meaning) == ("32-bit code, read/execute", "32-bit data, read/write")


def test_a_limit_without_granularity_is_in_bytes() -> None:
    (one,) = descriptors(table(0x004089ABCDEF1234 & ~(1 << 55)), long_mode=False)
    assert (one.limit, one.base, one.granularity) == (0x1234, 0x00ABCDEF, False)


def test_the_meaning_of_l_depends_on_the_mode() -> None:
    (one,) = descriptors(table(LONG_CODE), long_mode=True)
    assert (one.long, one.meaning) == (True, "64-bit code, read/execute")
    (one,) = descriptors(table(LONG_CODE), long_mode=False)
    assert one.meaning == "16-bit code, read/execute"


def test_a_system_descriptor_takes_two_places_in_long_mode() -> None:
    entries = table(0, LONG_CODE, 0x80008B1060000067, 0xFFFFFFFF, FLAT_DATA)
    code, tss, data = descriptors(entries, long_mode=True)
    assert (tss.selector, tss.size, tss.base, tss.limit, tss.meaning) == (16, 16, 0xFFFFFFFF80106000, 0x67, "TSS64-busy")
    assert (code.selector, data.selector) == (8, 32)
    assert [one.selector for one in descriptors(entries, long_mode=False)] == [8, 16, 24, 32]


def test_a_cut_off_system_descriptor_is_shown_as_it_is() -> None:
    (one,) = descriptors(table(0x00008B0000000067), long_mode=True)
    assert one.size == 8


@pytest.mark.parametrize(
    ("kind", "long", "meaning"),
    [(0x8E, False, "interrupt gate 32"), (0x8F, False, "trap gate 32"), (0x85, False, "task gate"), (0x86, False, "interrupt gate 16"),
     (0x8E, True, "interrupt gate 64"), (0x8F, True, "trap gate 64"), (0x85, True, "not a gate: type 0x5"), (0x92, False, "not a gate: type 0x12")],
)  # fmt: skip
def test_gates(kind: int, long: bool, meaning: str) -> None:
    raw = 0x1234 << 48 | kind << 40 | 0x0010 << 16 | 0x5678
    data = table(raw) + (table(0xFFFFFFFF) if long else b"")
    (one,) = gates(bytes(len(data)) + data, long)
    assert (one.vector, one.selector, one.meaning, one.present) == (1, 0x10, meaning, True)
    assert one.offset == (0xFFFFFFFF12345678 if long else 0x12345678)


def test_an_interrupt_stack() -> None:
    (one,) = gates(table(0x8E03 << 32 | 1, 0), long_mode=True)
    assert (one.ist, one.dpl) == (3, 0)


def test_real_mode_vectors() -> None:
    zero, two = vectors(struct.pack("<HHHHHH", 0xFF53, 0xF000, 0, 0, 0x10, 0x20))
    assert (zero.vector, zero.selector, zero.offset) == (0, 0xF000, 0xFF53)
    assert (two.vector, two.type) == (2, None)


def test_task_states() -> None:
    data = bytes(range(TSS_BYTES))
    narrow = task_state(data, 9, long_mode=False)
    assert (narrow.width, narrow.values["esp0"], narrow.values["iomap"], narrow.missing) == (32, 0x07060504, 0x6766, ())
    wide = task_state(data, 9, long_mode=True)
    assert (wide.width, wide.values["rsp0"], wide.values["ist7"]) == (64, 0x0B0A090807060504, 0x5B5A595857565554)
    assert task_state(data, 1, long_mode=False).values["ldt"] == 0x2B2A
    short = task_state(data[:9], 11, long_mode=False)
    assert "esp0" in short.values
    assert "ss0" in short.missing


@given(st.binary(max_size=512), st.booleans(), st.integers(0, 15))
def test_any_bytes_make_rows(data: bytes, long: bool, type: int) -> None:
    for one in descriptors(data, long):
        assert 0 <= one.base < 1 << 64
        assert one.selector + one.size <= len(data)
    for gate in gates(data, long):
        assert gate.meaning
    assert len(list(vectors(data))) <= len(data) // 4
    state = task_state(data[:TSS_BYTES], type, long)
    assert not set(state.values) & set(state.missing)
