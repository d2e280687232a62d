"""The walk ahead: which places are stopped at, by code that is written here byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.tracing.engines.next_stops import next_stops

AT = 0x1000


def sites(code: bytes, bits: int = 32, most: int = 20, pc: int = AT) -> list[int]:
    def read(linear: int, size: int) -> bytes:
        return code[linear - AT : linear - AT + size] if linear >= AT else b""

    return [one - AT for one in next_stops(pc, bits, read, most=most)]


def test_the_way_ends_at_the_first_system_instruction() -> None:
    assert sites(b"\x90\x0f\x22\xe0\x0f\x22\xd8") == [1]  # nop; mov cr4, eax; mov cr3, eax


def test_both_ways_of_a_branch_are_walked() -> None:
    assert sites(b"\x74\x03\x0f\x30\xf4\x0f\x22\xc0") == [2, 5]  # je +3; wrmsr; hlt; mov cr0, eax


def test_a_called_function_and_what_follows_the_call() -> None:
    # call +1; hlt; nop; ret: the return of a function that was called from here is no goal of its own
    assert sites(b"\xe8\x01\x00\x00\x00\xf4\x90\xc3") == [5]
    assert sites(b"\xe8\x01\x00\x00\x00\xf4\x0f\x30") == [5, 6]


def test_what_only_the_cpu_knows_is_stopped_at() -> None:
    assert sites(b"\x90\xc3") == [1]  # a return past the beginning
    assert sites(b"\xff\xe0") == [0]  # jmp eax
    assert sites(b"\x90\xff\xd0\xf4") == [1]  # call eax


def test_a_loop_without_an_end_has_no_sites() -> None:
    assert sites(b"\xeb\xfe") == []
    assert sites(b"\x90\xeb\xfd") == []


def test_a_far_jump_by_the_width_of_the_code() -> None:
    code = b"\xea\x00\x00\x00\x00\x10\x00"
    assert sites(code) == [0]
    assert sites(code, bits=64) == []  # no instruction there


@given(st.binary(max_size=300), st.sampled_from((16, 32, 64)), st.integers(1, 20))
def test_any_bytes_end_soon_and_keep_to_the_bound(code: bytes, bits: int, most: int) -> None:
    found = sites(code, bits, most)
    assert len(found) == len(set(found)) <= most
