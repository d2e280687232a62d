"""The symbol table that a Linux kernel carries for itself: distributions strip .symtab, and leave this (CONFIG_KALLSYMS).

Nothing in the file says where it is. It is found by its token table, in which the digits stand one after the other, and is
believed only when the parts agree: the token index with the token table, the markers with the names that they point to, as
many rising addresses as there are names. Layouts: scripts/kallsyms.c of Linux 4.6 to 6.16 (KALLSYMS_BASE_RELATIVE, where on x86-64
a negative offset counts down from the base as long as per-CPU symbols are absolute). Each part is aligned to the kernel's word.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

from pvhdbg.decode.notes import Buffer

_DIGITS = re.compile(re.escape(b"".join(bytes([digit, 0]) for digit in b"0123456789")))
_DIGITS_SIZE = 20
_TOKENS = 256
_TOKEN_BOUND = 64  # bytes of one token; the longest known has about 20
_FEWEST, _MOST = 256, 1 << 21  # symbols of one kernel: 60 000 to 250 000
_NAME_BOUND = 512  # bytes of a name (KSYM_NAME_LEN)
_BLOCK = 256  # symbols between two markers
_REACH = 16 << 20  # bytes in front of the token table that hold the names: 1 to 4 MB
_SEARCHED, _PIECE = 1 << 28, 1 << 20  # bytes of the file that are looked through, and at once
_DIGITS_BOUND, _TABLES_BOUND = 1024, 4  # rows of digits, and token tables, before it is given up
_TRIES_BOUND, _CHAINS_BOUND = 4096, 16  # numbers that could be that of the names; those that names do follow
_HIGH = {8: 0xFFFF800000000000, 4: 0x40000000}  # by the bytes of a word: from where on kernels are linked (VMSPLIT_1G)


@dataclass(frozen=True)
class Kallsyms:
    """The table: `packed` names are decoded when they are asked for, addresses lie in rising order."""

    packed: bytes = field(repr=False)
    markers: array[int] = field(repr=False)
    tokens: tuple[bytes, ...] = field(repr=False)
    addresses: array[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.addresses)

    def name(self, row: int) -> str:
        """The name of the symbol in that row, without its type letter."""
        at = self.markers[row // _BLOCK]
        for _ in range(row % _BLOCK):
            length, at = _length(self.packed, at)
            at += length
        return self._expand(at)[1:]

    def rows(self) -> Iterator[tuple[str, int]]:
        """All names, without type letters, and their addresses."""
        at = 0
        for address in self.addresses:
            yield self._expand(at)[1:], address
            length, at = _length(self.packed, at)
            at += length

    def exact(self, address: int) -> str | None:
        """The first symbol at exactly that address."""
        row = bisect_left(self.addresses, address)
        return self.name(row) if row < len(self) and self.addresses[row] == address else None

    def nearest(self, address: int) -> tuple[str, int] | None:
        """The symbol at or below the address, and the distance to it."""
        row = bisect_right(self.addresses, address) - 1
        if row < 0:
            return None
        first = bisect_left(self.addresses, self.addresses[row])
        return self.name(first), address - self.addresses[row]

    def _expand(self, at: int) -> str:
        length, at = _length(self.packed, at)
        return b"".join([self.tokens[token] for token in self.packed[at : at + length]]).decode("utf-8", "surrogateescape")


def find(data: Buffer, bits: int = 64) -> Kallsyms | None:
    """The table in a kernel's ELF of `bits`, 32 or 64, or None. Raises nothing: what does not fit together is not one."""
    word = bits // 8
    tables = (table for place in islice(_digits(data), _DIGITS_BOUND) if (table := _token_table(data, place, word)))
    return next((found for table in islice(tables, _TABLES_BOUND) if (found := _names(data, *table, word))), None)


def _digits(data: Buffer) -> Iterator[int]:
    """Every place where the digits stand in a row."""
    for start in range(0, min(len(data), _SEARCHED), _PIECE):
        for match in _DIGITS.finditer(data[start : start + _PIECE + _DIGITS_SIZE - 1]):
            yield start + match.start()


def _token_table(data: Buffer, digits: int, word: int) -> tuple[int, int, tuple[bytes, ...]] | None:
    """Where the token table begins and the token index ends, and the tokens, if the index says the same."""
    first = max(digits - ord("0") * _TOKEN_BOUND, 0)
    before = bytes(data[first:digits])
    start = len(before)
    for _ in range(ord("0")):
        start = before.rfind(b"\0", 0, max(start - 1, 0)) + 1
        if not start:
            return None
    text = bytes(data[first + start : first + start + _TOKENS * _TOKEN_BOUND])
    words, offsets, at = [], [], 0
    for _ in range(_TOKENS):
        end = text.find(b"\0", at)
        if end < 0:
            return None
        words.append(text[at:end])
        offsets.append(at)
        at = end + 1
    index = struct.pack(f"<{_TOKENS}H", *offsets) if offsets[-1] < 1 << 16 else b""
    place = first + start + at
    place += -place % word
    if not index or bytes(data[place : place + len(index)]) != index:
        return None
    return first + start, place + len(index), tuple(words)


def _names(data: Buffer, start: int, end: int, tokens: tuple[bytes, ...], word: int) -> Kallsyms | None:
    """The names in front of the token table: their number, word-aligned, then they, then the markers."""
    low = max(start - _REACH, 0)
    low += -low % word
    region = bytes(data[low:start])
    padding = bytes(word - 4)
    tries = chains = 0
    # The number is 32 bits, padded with zeros: look for what can be one, nearest first, since the names follow it at once.
    for at in range(len(region) - 16 & -word, -1, -word):
        if region[at + 3] or region[at + 4 : at + word] != padding:
            continue
        count = int.from_bytes(region[at : at + 4], "little")
        if not _FEWEST <= count <= _MOST or count > len(region) - at:
            continue
        tries += 1
        if tries > _TRIES_BOUND:
            return None
        after = _after_block(region, at + word)
        if after is None:
            continue
        chains += 1
        if chains > _CHAINS_BOUND:
            return None
        markers = _markers(region, at + word, after, count)
        addresses = None if markers is None else _addresses(data, low + at, end, count, word)
        if markers is not None and addresses is not None:
            return Kallsyms(region[at + word :], markers, tokens, addresses)
    return None


def _after_block(region: bytes, block: int) -> int | None:
    """Where the 257th name begins, if 256 follow each other from `block` on."""
    for _ in range(_BLOCK):
        if block >= len(region):
            return None
        length, block = _length(region, block)
        block += length
        if not 1 < length < _NAME_BOUND:
            return None
    return block


def _markers(region: bytes, names: int, block: int, count: int) -> array[int] | None:
    """The offset of every 256th name; `block` is where the 257th begins, which the second one says."""
    place = region.find(struct.pack("<II", 0, block - names), block)
    number = -(-count // _BLOCK)
    if place < 0 or place % 4 or place + 4 * number > len(region):
        return None
    markers = _array("I", region[place : place + 4 * number])
    rising = all(a < b for a, b in pairwise(markers))
    return markers if rising and names + markers[-1] < place else None


def _addresses(data: Buffer, number_at: int, after_tokens: int, count: int, word: int) -> array[int] | None:
    """The addresses: 32-bit offsets and their base in front of the number (up to 6.3) or behind the token index."""
    size = 4 * count + -4 * count % word
    for offsets, base_at in ((number_at - word - size, number_at - word), (after_tokens, after_tokens + size)):
        if offsets < 0 or base_at + word > len(data):
            continue
        base = int.from_bytes(bytes(data[base_at : base_at + word]), "little")
        if base < _HIGH[word]:
            continue
        found = _absolute(_array("i", bytes(data[offsets : offsets + 4 * count])), base, 1 << 8 * word)
        if found is not None:
            return found
    return None


def _absolute(offsets: array[int], base: int, limit: int) -> array[int] | None:
    """Offsets as addresses: below the base by what is negative, absolute where it is not; or, newer, all above the base."""
    below = [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    above = [base + (offset & 0xFFFFFFFF) for offset in offsets]
    for values in (below, above):
        if base <= values[-1] < limit and all(a <= b for a, b in pairwise(values)):
            return array("Q", values)
    return None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length of a name in tokens, and where they begin: one byte, or two from 128 on (Linux 6.1)."""
    if at >= len(data):
        return 0, at  # names that run past the end are empty
    first = data[at]
    if first < 0x80 or at + 1 >= len(data):
        return first, at + 1
    return first & 0x7F | data[at + 1] << 7, at + 2


def _array(code: str, raw: bytes) -> array[int]:
    return array(code, struct.unpack(f"<{len(raw) // 4}{code}", raw))
