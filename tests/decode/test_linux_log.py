"""Log buffers of both forms, made by hand, and arbitrary bytes. A real one is in tests/commands/test_last_words.py."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvhdbg.decode.linux_log import Message, from_buffer, from_ring, search
from pvhdbg.errors import MemoryUnreadable

BASE = 0xC2000000  # of 32 bits, so that both forms can have it
TEXTS = [b"Linux version 6.1.0", b"Command line: quiet", b"", b"Kernel panic - not syncing: no root"]


def reader(memory: bytes) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        at = address - BASE
        if at < 0 or at + size > len(memory):
            raise MemoryUnreadable(address, size)
        return memory[at : at + size]

    return read


def ring(texts: list[bytes], *, word: int = 8, later: bool = False, bits: int = 8, first: int = 0, info: int = 88) -> bytes:
    """A ring of 16 descriptors and 1 << bits bytes of text; the first message has the number `first`, `info` is the size of its struct."""
    long = "Q" if word == 8 else "I"
    mask, size = (1 << 8 * word) - 1, 1 << bits
    data, descriptors, infos = bytearray(size), bytearray(16 * 3 * word), bytearray(16 * info)
    position = 0
    for index, text in enumerate(texts):
        number = first + index
        need = -(-(word + len(text)) // word) * word
        begin, end = (1, 1) if not text else (position, position + need)
        if text:
            place = begin % size
            if place + need > size:  # it goes to the beginning
                end = (begin // size + 1) * size + need
                place = 0
            data[place : place + word + len(text)] = struct.pack(f"<{long}", number) + text
            position = end
        struct.pack_into(f"<3{long}", descriptors, number % 16 * 3 * word, 2 << 8 * word - 2 | number, begin, end)
        struct.pack_into("<QQHBBI", infos, number % 16 * info, number, 1_500_000_000 + index, len(text), 0, 6 << 5, 0)
    head = 16 * word
    at = [BASE + word + head, 0, 0]
    at[1] = at[0] + len(descriptors)
    at[2] = at[1] + len(infos)
    last = first + len(texts) - 1
    words = [4, at[0], at[1], last, first & mask, *([last] if later else []), bits, at[2], position, 0, 0]
    struct_bytes = struct.pack(f"<{len(words)}{long}", *words).ljust(head, b"\0")
    return struct.pack(f"<{long}", BASE + word).ljust(word, b"\0") + struct_bytes + descriptors + infos + data


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("later", [False, True])
def test_a_ring(word: int, later: bool) -> None:
    found = from_ring(reader(ring(TEXTS, word=word, later=later)), BASE, word)
    assert [one.text for one in found] == TEXTS
    assert (found[0].level, found[0].line()) == (6, b"[    1.500000] Linux version 6.1.0")


@pytest.mark.parametrize("first", [0, 15])  # in a ring that is not full yet Linux begins with the last descriptor
@pytest.mark.parametrize("info", [88, 96, 104, 112])
def test_a_ring_that_also_keeps_tasks(info: int, first: int) -> None:
    found = from_ring(reader(ring(TEXTS, later=True, info=info, first=first)), BASE, 8)
    assert [one.text for one in found] == TEXTS
    assert found[3].seconds == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [(0.0, "    0.000000"), (1.2345678, "    1.234567"), (0.000123, "    0.000123"), (12345.999999999, "12345.999999")],
)
def test_the_time_is_cut_as_the_kernel_does(seconds: float, stamp: str) -> None:
    assert Message(seconds, None, b"x").line() == f"[{stamp}] x".encode()


def test_a_ring_that_went_around() -> None:
    texts = [b"message %02d with some more text" % index for index in range(12)]
    memory = ring(texts, first=11)
    found = [one.text for one in from_ring(reader(memory), BASE, 8)]
    assert found[-4:] == texts[-4:]


def test_a_buffer_of_old() -> None:
    memory = b""
    for index, text in enumerate(TEXTS):
        size = -(-(16 + len(text)) // 4) * 4
        memory += struct.pack("<QHHHBB", index * 10**9, size, len(text), 0, 0, 4 << 5) + text.ljust(size - 16, b"\0")
    found = from_buffer(reader(memory + bytes(64)), BASE)
    assert [one.text for one in found] == TEXTS
    assert found[3].line() == b"[    3.000000] Kernel panic - not syncing: no root"
    assert [one.text for one in search(b"\xff" * 40 + memory + bytes(64))] == TEXTS


def test_blocks_without_their_descriptors() -> None:
    texts = [one for one in TEXTS if one]
    memory = bytes(48)
    for number, text in enumerate(texts, 7):
        memory += struct.pack("<Q", number) + text.ljust(-(-len(text) // 8) * 8, b"\0")
    assert [one.text for one in search(memory + bytes(64))] == texts


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    memory = struct.pack("<Q", BASE + 8) + data
    for word in (4, 8):
        assert isinstance(from_ring(reader(memory), BASE, word), list)
    assert isinstance(from_buffer(reader(memory), BASE), list)
    assert isinstance(search(memory + b"Linux version " + data), list)
