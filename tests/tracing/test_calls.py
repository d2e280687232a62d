"""Return addresses on the stack of a small machine without paging: what is before them must be a call."""

import pytest

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.tracing.addresses import Surroundings, View
from pvhdbg.tracing.calls import By, chain

CODE, STACK, BEHIND = 0x100000, 0x8000, 0x100800  # BEHIND is the word on the stack
FLAT = {"cr0": 0x11, "cr3": 0, "cr4": 0, "efer": 0, "cs_flags": 0xCF9B00, "eflags": 2, "rsp": STACK, "rip": CODE, "rbp": 0}
PADDING = "90" * 7


def found(there: str, in_file: str) -> list[int]:
    """The return addresses that are found where memory and the file have these bytes before the word on the stack."""
    before = bytes.fromhex(PADDING + there)[-7:]
    page = bytes(0x7F9) + before + bytes(0x800)

    def read(address: int, size: int) -> bytes:
        for start, data in ((CODE, page), (STACK, BEHIND.to_bytes(4, "little") + bytes(0xFFC))):
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise MemoryUnreadable(address, size)

    def file(physical: int, _size: int) -> bytes:
        return bytes.fromhex(PADDING + in_file)[-7:] if physical == BEHIND - 7 else b""

    calls = chain(FLAT, Surroundings(read=read, views=(View(CODE, CODE, 0x1000),), file=file, word=4))
    assert calls[0].by is By.PC
    return [one.pc for one in calls[1:]]


NEAR = "e800f8ffff"  # to CODE
# Intel SDM 2A, CALL and table 2-2: call eax, [eax], [eax+8], [eax+ecx*4], [eax+ecx*4+8], [disp32], [eax+disp32], [ecx*4+disp32],
# [eax+ecx*4+disp32]
CALLS = (NEAR, "ffd0", "ff10", "ff5008", "ff1488", "ff548808", "ff1500001000", "ff9000001000", "ff148d00001000", "ff948800001000")


@pytest.mark.parametrize("call", CALLS)
def test_a_word_behind_a_call_is_a_return_address_by_memory_or_by_the_file(call: str) -> None:
    assert found(call, "") == found("", call) == [BEHIND]


@pytest.mark.parametrize(
    "other",
    [
        "e800f8ff7f",  # a call to where no code is
        "e931feffff90",  # a jump: its last bytes are those of a call by [eax+disp32], which is longer
        "ff50",  # [eax+disp8] without its displacement
        "ff14",  # its SIB byte is missing
        "ffe0",  # jmp eax
        "ff7308",  # push
        "9a",
    ],
)
def test_other_bytes_are_not_a_call(other: str) -> None:
    assert found(other, other) == []
