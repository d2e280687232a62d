"""The walk ahead: which places are stopped at, by code that is written here byte by byte."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.tracing.encoding import goal, is_jump, length
from pvhdbg.tracing.engines.next_stops import NextStops, next_stops
from pvhdbg.tracing.opcodes import Effect, effect_of

AT = 0x1000
SYSTEM = (b"\x0f\x22\xc0", b"\x0f\x30", b"\xcd\x10", b"\xcf", b"\xf4")  # mov cr0, eax; wrmsr; int 0x10; iret; hlt
WORDS = (*SYSTEM, b"\x90", b"\xc3", b"\xff\xe0", *(bytes((op, at)) for op in (0x74, 0xEB) for at in (0, 3, 9, 0xF8)),
         *(b"\xe8" + at.to_bytes(4, "little", signed=True) for at in (0, 4, 11, -9)))  # fmt: skip


def reader(code: bytes) -> Callable[[int, int], bytes]:
    return lambda linear, size: code[linear - AT : linear - AT + size] if linear >= AT else b""


def sites(code: bytes, bits: int = 32, most: int = 20, pc: int = AT) -> list[int]:
    read = reader(code)
    return [one - AT for one in next_stops(pc, bits, read, most=most).found]


def test_the_way_ends_at_the_first_system_instruction() -> None:
    assert sites(b"\x90\x0f\x22\xe0\x0f\x22\xd8") == [1]  # nop; mov cr4, eax; mov cr3, eax


def test_both_ways_of_a_branch_are_walked() -> None:
    assert sites(b"\x74\x03\x0f\x30\xf4\x0f\x22\xc0") == [2, 5]  # je +3; wrmsr; hlt; mov cr0, eax


def test_a_called_function_and_what_follows_the_call() -> None:
    # call +1; hlt; nop; ret: the return of a function that was called from here is not a goal of its own
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


def test_paths_that_are_not_walked_to_their_end_are_named() -> None:
    forks = b"\x74\x02\x74\x01\x90\x90\x0f\x30"  # je +2; je +1; nop; nop; wrmsr
    assert next_stops(AT, 32, reader(forks)) == NextStops((AT + 6,), ())
    assert next_stops(AT, 32, reader(forks), ends=2) == NextStops((AT + 6,), (AT + 2,))
    assert next_stops(AT, 32, reader(forks), ends=1) == NextStops((), (AT,))
    assert next_stops(AT, 32, reader(forks), within=2) == NextStops((), (AT + 4, AT + 5))
    assert next_stops(AT, 32, reader(b"\x90\x90")) == NextStops((), (AT + 2,))  # then nothing can be read


def test_a_return_ends_the_walk_where_its_function_is_also_entered_without_a_call() -> None:
    assert sites(b"\xe8\x00\x00\x00\x00\x90\xc3") == [6]  # call the next instruction, and return from there
    assert sites(b"\xe8\x02\x00\x00\x00\xeb\x00\x90\xc3") == [8]  # call a function, then jump to it


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), st.integers(1, 6), st.lists(st.booleans(), max_size=60))
def test_no_path_misses_all_stops(words: list[bytes], ends: int, choices: list[bool]) -> None:
    """Follow one path through the code, with the calls and returns of a CPU, up to the first instruction that must be a stop."""
    code = b"".join(words)
    read = reader(code)
    found = next_stops(AT, 32, read, most=ends, ends=ends)
    stops = {*found.found, *found.unfinished}
    assert len(stops) <= ends
    pc, stack, taken = AT, list[int](), iter(choices)
    while pc not in stops:
        one = read(pc, 15)[: length(read(pc, 15), 32)]
        effect, target = effect_of(one, 32), goal(one, pc, 32)
        assert one
        assert one not in (*SYSTEM, b"\xff\xe0")
        assert effect is not Effect.RETURN or stack
        choice = next(taken, None)
        if choice is None:
            return
        if effect is Effect.RETURN:
            pc = stack.pop()
        elif effect is Effect.CALL:
            stack.append(pc + len(one))
            pc = target or 0
        else:
            pc = target if target is not None and (choice or is_jump(one, 32)) else pc + len(one)
