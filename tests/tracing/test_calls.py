"""The call chain of small machines: what is before a return address must be a call, and Linux' ORC tables of each version are followed."""

import struct
from typing import NamedTuple

import pytest

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.tracing.addresses import Surroundings, View
from pvhdbg.tracing.calls import chain
from pvhdbg.tracing.unwinding import By

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


class Orc(NamedTuple):
    """The numbers of a Linux version in ORC's rows (arch/x86/include/asm/orc_types.h): types, and registers."""

    call: int
    regs: int
    end: int
    stack: int
    base: int
    previous: int
    stack_indirect: int


ORCS = {"6.1": Orc(0, 1, 4, 5, 4, 1, 9), "6.12": Orc(2, 3, 1, 5, 4, 1, 9), "7.2": Orc(2, 3, 1, 3, 4, 8, 9)}
LONG = {"cr0": 0x80000011, "cr3": 0x1000, "cr4": 0x20, "efer": 0x500, "cs_flags": 0xAF9B00, "eflags": 2}
LEAF, FRAMED, HANDLER, STRUCK, ROOT = 0x200100, 0x200200, 0x201100, 0x200300, 0x200400
RETPOLINE = 0x200700
TABLES, ROWS = 0x202000, 0x202800


@pytest.mark.parametrize("version", ORCS)
def test_orc_tables_of_each_version_are_followed(version: str) -> None:
    use = ORCS[version]
    rows = {
        LEAF: (8, 0, use.stack, 0, use.call),
        FRAMED: (16, -16, use.base, use.previous, use.call),
        HANDLER: (0, 0, use.stack, 0, use.regs),
        STRUCK: (8, 0, use.stack_indirect, 0, use.call),
        ROOT: (0, 0, 0, 0, use.end),
        **{0x200500 + index * 16: (8, 0, use.stack, 0, use.call) for index in range(8)},
    }
    code = bytearray(0x2000)
    for caller, called in ((FRAMED, LEAF), (HANDLER, FRAMED), (ROOT, STRUCK), (STRUCK - 5, LEAF)):
        code[caller - 0x200000 : caller - 0x200000 + 5] = b"\xe8" + (called - caller - 5).to_bytes(4, "little", signed=True)
    places = b"".join((at - TABLES - 4 * index).to_bytes(4, "little", signed=True) for index, at in enumerate(sorted(rows)))
    entries = b"".join(
        struct.pack("<hhH", sp, bp, sp_reg | bp_reg << 4 | kind << 8) for _, (sp, bp, sp_reg, bp_reg, kind) in sorted(rows.items())
    )
    kernel = bytes(code) + places.ljust(0x800, b"\0") + entries
    stack = {
        STACK: FRAMED + 5,  # LEAF was called from FRAMED
        STACK + 0x20: 0x7777, STACK + 0x28: HANDLER + 5,  # FRAMED's frame: its caller's rbp, and where it returns to
        STACK + 0x30 + 128: STRUCK, STACK + 0x30 + 136: 0x10, STACK + 0x30 + 152: 0x9000,  # HANDLER's pt_regs: ip, cs, sp
        0x9000: 0xA000, 0xA000: ROOT + 5,  # STRUCK runs on another stack: the word at its top is in the one before
        STACK - 8: STRUCK,  # a retpoline returns to the function to call
    }  # fmt: skip
    memory = {0x1000: 0x2003, 0x2000: 0x83, **stack}  # 1 GiB is mapped one to one

    def read(address: int, size: int) -> bytes:
        if 0x200000 <= address < 0x200000 + len(kernel):
            return kernel[address - 0x200000 : address - 0x200000 + size]
        if address % 8 or size != 8:
            raise MemoryUnreadable(address, size)
        return memory.get(address, 0).to_bytes(8, "little")

    around = Surroundings(
        read=read,
        name=lambda address: {STRUCK: "struck", RETPOLINE: "__x86_indirect_thunk_rax"}.get(address, f"f+{address - 0x200000:#x}"),
        views=(View(0x200000, 0x200000, 0x1000), View(0x201000, 0x201000, 0x2000, executable=False)),
        file=lambda physical, size: kernel[physical - 0x200000 : physical - 0x200000 + size] if physical >= 0x200000 else b"",
        symbol={"__start_orc_unwind_ip": TABLES, "__stop_orc_unwind_ip": TABLES + 4 * len(rows), "__start_orc_unwind": ROWS}.get,
    )
    state = {**LONG, "rbp": STACK + 0x20}
    behind = [(HANDLER + 5, By.ORC, True), (STRUCK, By.ORC, False), (ROOT + 5, By.ORC, True)]
    calls = chain({**state, "rip": LEAF, "rsp": STACK}, around)
    assert [(one.pc, one.by, one.returns) for one in calls] == [(LEAF, By.PC, False), (FRAMED + 5, By.ORC, True), *behind]
    calls = chain({**state, "rip": RETPOLINE, "rsp": STACK - 8}, around)
    assert [(one.pc, one.by, one.returns) for one in calls] == [(RETPOLINE, By.PC, False), (FRAMED + 5, By.STACK, True), *behind]


# Functions of a small machine with frame pointers, by name; INNER is in a PT_LOAD that is not executable, as Linux may have its .init.text.
FUNCTIONS = {"outer": CODE + 0x100, "middle": CODE + 0x200, "__x86_indirect_thunk_eax": CODE + 0x300, "inner": CODE + 0x1100}
OUTER, MIDDLE, THUNK, INNER = FUNCTIONS.values()
FRAME = STACK + 0x100


def calls_of(pc: int, stack: dict[int, int], frame: int = FRAME) -> list[int]:
    """The return addresses found at a pc; `middle` was called by `outer`, and its frame is at FRAME."""
    image = bytearray(b"\x90" * 0x2000)
    for place, target in ((OUTER, MIDDLE), (MIDDLE, INNER), (MIDDLE + 0x10, THUNK), (OUTER + 0x20, OUTER)):
        image[place - CODE : place - CODE + 5] = b"\xe8" + (target - place - 5 & 0xFFFFFFFF).to_bytes(4, "little")
    image[INNER - CODE : INNER - CODE + 3] = b"\x55\x89\xe5"  # push ebp; mov ebp, esp
    words = {FRAME: 0, FRAME + 4: OUTER + 5, **stack}

    def read(address: int, size: int) -> bytes:
        if CODE <= address < CODE + len(image):
            return bytes(image[address - CODE : address - CODE + size])
        return b"".join(words.get(at, 0).to_bytes(4, "little") for at in range(address, address + size, 4))

    def name(address: int) -> str | None:
        near = max((one for one in FUNCTIONS.items() if one[1] <= address), key=lambda one: one[1], default=None)
        return None if near is None else f"{near[0]}+{address - near[1]:#x}" if address > near[1] else near[0]

    views = (View(CODE, CODE, 0x1000), View(CODE + 0x1000, CODE + 0x1000, 0x1000, executable=False))
    found = chain({**FLAT, "rip": pc, "rbp": frame}, Surroundings(read=read, name=name, views=views, word=4))
    return [one.pc for one in found[1:]]


@pytest.mark.parametrize(
    ("pc", "stack", "frame", "expected"),
    [
        (INNER, {STACK: MIDDLE + 5}, FRAME, [MIDDLE + 5, OUTER + 5]),  # at its first instruction
        (INNER + 1, {STACK: FRAME, STACK + 4: MIDDLE + 5}, FRAME, [MIDDLE + 5, OUTER + 5]),  # it has pushed ebp
        (
            INNER + 1,
            {STACK: FRAME, STACK + 4: MIDDLE + 0x15},
            FRAME,
            [MIDDLE + 0x15, OUTER + 5],
        ),  # and was called through a retpoline
        (
            INNER + 3,
            {STACK: FRAME, STACK + 4: MIDDLE + 5},
            STACK,
            [MIDDLE + 5, OUTER + 5],
        ),  # with its own frame, in another PT_LOAD
        (MIDDLE + 0x40, {STACK: OUTER + 0x25}, FRAME, [OUTER + 5]),  # a word that is left over from a call is on top
        (INNER + 0x40, {STACK: OUTER + 0x25}, FRAME, [OUTER + 5]),  # and in a function without a frame: it was not called there
        (THUNK, {STACK: MIDDLE + 0x15}, FRAME, [MIDDLE + 0x15, OUTER + 5]),
        (
            THUNK + 9,
            {STACK: INNER, STACK + 4: MIDDLE + 0x15},
            FRAME,
            [MIDDLE + 0x15, OUTER + 5],
        ),  # it returns to the function to call
    ],
)
def test_frame_pointers_and_a_function_that_has_no_frame(pc: int, stack: dict[int, int], frame: int, expected: list[int]) -> None:
    assert calls_of(pc, stack, frame) == expected
