"""The code that sets what a stub cannot write, by an independent disassembler, and free memory as sets of addresses."""

from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.stress.handover import Allocator, NotTried, Place, without
from pvhdbg.stress.trampoline import SPACE, Selectors, Trampoline, code, gdt
from tests.support.objdump import listing

WHOLE = Trampoline(Selectors(0x60, 0x68, 0, 0, 0x28), (0, 0), 0xCD7, 0xA5A5A5A5, True)


def test_the_code_is_what_it_is_meant_to_be() -> None:
    image = code(WHOLE, 0x200000, 0x201000, 0x100000, 8)
    assert len(image) == SPACE
    text = [row.text for row in listing(image[:0x80], 0x200000, 32)]
    upto = text[: next(index for index, one in enumerate(text) if one.startswith("ljmp")) + 1]
    assert upto[0] == "movl $0x200f00,%esp"
    assert upto[-1] == "ljmpl $0x60,$0x100000"
    for one in ("movl %eax,%cr2", "lidtl 0x200808", "lgdtl 0x200800", "pushl $0xcd7", "ltr"):
        assert any(line.startswith(one) for line in upto), (one, upto)
    assert upto[-2].startswith("popf"), "nothing may change the flags after they are set"


def test_the_table_holds_each_selector() -> None:
    table = gdt(WHOLE.selectors or Selectors())
    assert {at for at in range(0, len(table), 8) if any(table[at : at + 8])} == {0x60, 0x68, 0x28}


AREAS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)).map(lambda pair: range(pair[0], sum(pair))), max_size=5)


@given(AREAS, AREAS)
def test_free_memory_is_what_is_left(areas: list[range], taken: list[range]) -> None:
    left = without(areas, taken)
    assert {at for one in left for at in one} == {at for one in areas for at in one} - {at for one in taken for at in one}


@given(st.sampled_from(list(Place)), st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_no_two_parts_share_memory(place: Place, sizes: list[int]) -> None:
    ram = [range(0x9F000), range(0x100000, 0x1000000)]
    kernel = range(0x100000, 0x100100)
    allocator = Allocator(ram, [range(0x1000), kernel], len(sizes))
    seen: set[int] = set()
    for size in sizes:
        try:
            at = allocator.take(size, place)
        except NotTried:
            continue
        taken = set(range(at, at + size))
        assert not taken & seen
        assert not taken & set(kernel)
        assert any(at in area and (at + size - 1 in area or not size) for area in ram)
        seen |= taken
