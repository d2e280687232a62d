"""Linux' log buffer in a machine's memory: what `dmesg` would show, of a kernel that can no longer say it.

Linux 5.10 and later (kernel/printk/printk_ringbuffer.h): `prb` points to a `struct printk_ringbuffer`: a ring of descriptors, an
array of `struct printk_info` beside it, and a ring of text blocks, each an id and the text. Before 5.10 (kernel/printk/printk.c) `__log_buf`
holds `struct printk_log` one after the other. Where there are no symbols, the first message is searched for: "Linux version".

The memory is hostile: counts and sizes are bounded before they are used, and no record is read twice.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Unavailable

ReadLinear = Callable[[int, int], bytes]  # linear address, size; raises MemoryUnreadable

_MOST_RECORDS = 1 << 18
_MOST_BYTES = 1 << 25  # of text
_LONGEST = 1 << 12  # bytes of one message
_COMMITTED, _FINALIZED = 1, 2  # states of a descriptor that has its text
_PAGE = 0x1000
_FIRST = b"Linux version "
_NANO = 10**9
_CONTINUED = re.compile(rb"\x01[0-7cd]\n?\Z")


class Message(NamedTuple):
    """One message: seconds of the kernel's clock, None where they are not known, the level (0 to 7, or None), and the text."""

    seconds: float | None
    level: int | None
    text: bytes

    def line(self) -> bytes:
        """As the kernel writes it to a console: `[    0.000000] Linux version …`. It cuts the microseconds, and does not round them."""
        if self.seconds is None:
            return self.text
        micro = round(self.seconds * _NANO) // 1000
        return b"[%5d.%06d] %s" % (micro // 1_000_000, micro % 1_000_000, self.text)


class Ring(NamedTuple):
    """Where the parts of a ring of messages are, by linear addresses."""

    count_bits: int
    descriptors: int
    infos: int
    head: int
    tail: int
    size_bits: int
    text: int


def from_ring(read: ReadLinear, pointer: int, word: int) -> list[Message]:
    """The messages of the ring that the word at `pointer` (the symbol `prb`) points to; none where there is no sound ring.

    `word` is the size of a long in the kernel, 4 or 8 bytes.
    """
    try:
        address = int.from_bytes(read(pointer, word), "little")
        head = read(address, 14 * word)
    except (MemoryUnreadable, Unavailable):
        return []
    ring = next((found for extra in (0, 1) if (found := _ring(head, word, extra)) is not None), None)
    if ring is None:
        return []
    try:
        return list(_messages(read, ring, word))
    except (MemoryUnreadable, Unavailable):
        return []


def from_buffer(read: ReadLinear, address: int) -> list[Message]:
    """The messages of a buffer as it was before Linux 5.10, which begins at `address` (the symbol `__log_buf`)."""
    found: list[Message] = []
    at = address
    while len(found) < _MOST_RECORDS and at - address < _MOST_BYTES:
        try:
            record = _old_record(read, at)
        except (MemoryUnreadable, Unavailable):
            break
        if record is None:
            break
        message, size = record
        found.append(message)
        at += size
    return found


def search(memory: bytes) -> list[Message]:
    """The messages in a piece of memory that holds a whole buffer, of either form, by its first message; none where there is none."""
    at = -1
    while (at := memory.find(_FIRST, at + 1)) >= 0:
        for found in (_blocks(memory, at), _old_records(memory, at)):
            if len(found) > 1:
                return found
    return []


# --- 5.10 and later -----------------------------------------------------------------------------------------------


def _ring(head: bytes, word: int, extra: int) -> Ring | None:
    """The ring by its first words; `extra` is 1 where the descriptors have a last_finalized_id (5.18 and later)."""
    words = [int.from_bytes(head[at : at + word], "little") for at in range(0, len(head), word)]
    count_bits, size_bits = words[0] & 0xFFFFFFFF, words[5 + extra] & 0xFFFFFFFF
    if not 4 <= count_bits <= 20 or not 8 <= size_bits <= 25 or count_bits >= size_bits:
        return None
    ring = Ring(count_bits, words[1], words[2], words[3], words[4], size_bits, words[6 + extra])
    # The number of a message, and the bits of the size behind it, may pass for a ring of the other form: neither is an address.
    return ring if min(ring.descriptors, ring.infos, ring.text) >= _PAGE else None


def _messages(read: ReadLinear, ring: Ring, word: int) -> Iterator[Message]:
    count, size = 1 << ring.count_bits, 1 << ring.size_bits
    id_mask = (1 << 8 * word - 2) - 1
    first, last = ring.tail & id_mask, ring.head & id_mask
    wanted = min((last - first & id_mask) + 1, count)
    descriptors = _cyclic(read, ring.descriptors, count, 3 * word, first % count, wanted)
    info_size = _info_size(read, ring, first % count, count)
    infos = _cyclic(read, ring.infos, count, info_size, first % count, wanted)
    text = _Text(read, ring.text, size)
    for index in range(wanted):
        state, begin, behind = struct.unpack_from("<3Q" if word == 8 else "<3I", descriptors, index * 3 * word)
        number = first + index & id_mask
        if state & id_mask != number or state >> 8 * word - 2 not in (_COMMITTED, _FINALIZED):
            continue
        _, nanoseconds, length, _, flags = struct.unpack_from("<QQHBB", infos, index * info_size)
        if begin & 1 or length > _LONGEST:
            data = b""  # an empty line, or one that found no room
        else:
            # a block that does not fit before the end of the ring lies at its beginning
            start = begin % size if begin // size == (behind - 1) // size else 0
            data = text.at(start + word, length)
        yield Message(nanoseconds / _NANO, flags >> 5, data)


def _cyclic(read: ReadLinear, base: int, count: int, size: int, first: int, wanted: int) -> bytes:
    """`wanted` elements of an array that goes on at its beginning, from number `first` on."""
    straight = min(wanted, count - first)
    data = read(base + first * size, straight * size)
    return data + read(base, (wanted - straight) * size) if wanted > straight else data


def _info_size(read: ReadLinear, ring: Ring, at: int, count: int) -> int:
    """Bytes of a struct printk_info: 88, or more where the kernel also keeps the task (CONFIG_PRINTK_EXECUTION_CTX)."""
    if at + 1 == count:
        at = 0  # in a ring that is not full yet the first descriptor is the last of the array
    for size in (88, 112, 104, 96):
        data = read(ring.infos + at * size, 2 * size)
        one, two = (int.from_bytes(data[start : start + 8], "little") for start in (0, size))
        if two == one + 1:
            return size
    return 88


class _Text:
    """The ring of texts, read in pieces that are kept."""

    _PIECE = 1 << 12

    def __init__(self, read: ReadLinear, base: int, size: int) -> None:
        self._read, self._base, self._size = read, base, size
        self._pieces: dict[int, bytes] = {}

    def at(self, start: int, length: int) -> bytes:
        found = b""
        for piece in range(start // self._PIECE, (start + length - 1) // self._PIECE + 1 if length else 0):
            if piece not in self._pieces:
                place = piece * self._PIECE
                self._pieces[piece] = self._read(self._base + place, min(self._PIECE, max(self._size - place, 0)))
            found += self._pieces[piece]
        offset = start % self._PIECE
        return found[offset : offset + length]


def _blocks(memory: bytes, at: int) -> list[Message]:
    """Text blocks one after the other, without their descriptors: the id of each is one more than that of the one before."""
    found: list[Message] = []
    for word in (8, 4):
        start = at - word
        if start < 0:
            continue
        number = int.from_bytes(memory[start : start + word], "little")
        mask = (1 << 8 * word) - 1
        while len(found) < _MOST_RECORDS:
            following = (number + 1 & mask).to_bytes(word, "little")
            end = memory.find(following, start + word, start + word + _LONGEST)
            while end >= 0 and (end - start) % word:
                end = memory.find(following, end + 1, start + word + _LONGEST)
            text = memory[start + word : end if end >= 0 else start + word + _LONGEST]
            found.append(Message(None, None, _without_rest(text.split(b"\0")[0])))
            if end < 0:
                break
            start, number = end, number + 1 & mask
        if len(found) > 1:
            return found
        found.clear()
    return found


def _without_rest(text: bytes) -> bytes:
    """A text without what the kernel left behind it, when it took away its level ("\\0016") and its line end: the last three bytes."""
    text = _CONTINUED.sub(b"", text)
    if text.endswith(b"\n") and len(text) > 4 and text[-5:-3] == text[-3:-1]:
        return text[:-3]
    return text.removesuffix(b"\n")


# --- before 5.10 --------------------------------------------------------------------------------------------------


def _old_record(read: ReadLinear, at: int) -> tuple[Message, int] | None:
    """One struct printk_log, and its length; None where there is none."""
    nanoseconds, size, length, extra, _, flags = struct.unpack("<QHHHBB", read(at, 16))
    if size < 16 or size > _LONGEST or length + extra > size - 16 or size % 4:
        return None
    # With CONFIG_PRINTK_CALLER four more bytes come before the text; a record is padded to 4 bytes.
    header = 20 if size - length - extra >= 20 and size - length - extra < 24 else 16
    return Message(nanoseconds / _NANO, flags >> 5, read(at + header, length)), size


def _old_records(memory: bytes, at: int) -> list[Message]:
    def read(address: int, size: int) -> bytes:
        if address < 0 or address + size > len(memory):
            raise MemoryUnreadable(address, size)
        return memory[address : address + size]

    for header in (16, 20):
        found = from_buffer(read, at - header)
        if found and found[0].text.startswith(_FIRST):
            return found
    return []
