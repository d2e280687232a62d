"""The symbol table that a Linux kernel carries for itself: distributions strip .symtab, and leave this (CONFIG_KALLSYMS).

Nothing in the file says where it is. It is found by its token table, in which the digits stand one after the other, and is
believed only when the parts agree: the token index with the token table, the markers with the names that they point to, as
many rising addresses as there are names. Layouts: scripts/kallsyms.c of Linux 4.6 to 7.2. Each part is aligned to the kernel's word,
in the newest to 4 bytes. Addresses are 32-bit offsets: from a base that stands beside them (on x86-64 a negative one counts down
from it as long as per-CPU symbols are absolute), in the newest each from its own place.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import count as counted
from itertools import islice, pairwise

from pvhdbg.decode.notes import Buffer

_DIGITS = re.compile(re.escape(b"".join(bytes([digit, 0]) for digit in b"0123456789")))
_DIGITS_SIZE = 20
_TOKENS = 256
_TOKEN_BOUND = 64  # bytes of one token; the longest known has about 20
_FEWEST, _MOST = 256, 1 << 21  # symbols of one kernel: 60 000 to 250 000
_NAME_BOUND = 512  # bytes of a name (KSYM_NAME_LEN)
_BLOCK = 256  # symbols between two markers
_LOOKED_AT = 3  # tokens of a name that are compared before the name is decoded
_REACHES = (4 << 20, 16 << 20)  # bytes in front of the token table that hold the names, 1 to 4 MB of them: few are read first
_SEARCHED, _PIECE = 1 << 28, 1 << 20  # bytes of the file that are looked through, and at once
_DIGITS_BOUND, _TABLES_BOUND = 1024, 4  # rows of digits, and token tables, before it is given up
_TRIES_BOUND = 4096  # numbers that could be that of the names
_SAMPLE = 512  # addresses that are looked at to see whether they rise
_SEQUENCE = 3  # bytes a name in the list of names by order, which Linux 6.2 put between markers and tokens
_BIG_ENDIAN = struct.pack("=H", 1) != struct.pack("<H", 1)  # the host
LinkedAt = Callable[[int], int | None]

_HIGH = {8: 0xFFFF800000000000, 4: 0x40000000}  # by the bytes of a word: from where on kernels are linked (VMSPLIT_1G)


class Addresses:
    """The addresses in rising order, each worked out from its row and its offset when it is looked at."""

    def __init__(self, offsets: array[int], address_of: Callable[[int, int], int]) -> None:
        self._offsets, self._address_of = offsets, address_of

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> int:
        return self._address_of(row, self._offsets[row])

    def __iter__(self) -> Iterator[int]:
        return map(self._address_of, counted(), self._offsets)

    def rise(self) -> bool:
        """Whether a sample of them does. One that does not, in between, makes a search find a neighbour, and nothing worse."""
        sample = [self[row] for row in (*range(0, len(self), max(len(self) // _SAMPLE, 1)), len(self) - 1)]
        return sample == sorted(sample)


class Kallsyms:
    """The table: `packed` names are decoded when they are asked for, addresses lie in rising order."""

    def __init__(self, packed: bytes, markers: array[int], tokens: tuple[bytes, ...], addresses: Addresses) -> None:
        self.packed, self.markers, self.tokens, self.addresses = packed, markers, tokens, addresses
        self._names: dict[int, str] = {}  # that were decoded, by row: one costs a walk over a block of them

    def __len__(self) -> int:
        return len(self.addresses)

    def name(self, row: int) -> str:
        """The name of the symbol in that row, without its type letter."""
        if row not in self._names:
            at = self.markers[row // _BLOCK]
            for _ in range(row % _BLOCK):
                length, at = _length(self.packed, at)
                at += length
            self._names[row] = self._expand(at)[1:]
        return self._names[row]

    def rows(self) -> Iterator[tuple[str, int]]:
        """All names, without type letters, and their addresses."""
        at = 0
        for address in self.addresses:
            yield self._expand(at)[1:], address
            length, at = _length(self.packed, at)
            at += length

    def lettered(self) -> Iterator[tuple[str, bytes, int]]:
        """All symbols: nm's letter for its kind, the name, the address."""
        at = 0
        for address in self.addresses:
            length, at = _length(self.packed, at)
            word = b"".join([self.tokens[token] for token in self.packed[at : at + min(length, _NAME_BOUND)]])
            yield word[:1].decode("latin-1"), word[1:], address
            at += length

    def names(self, prefix: bytes = b"") -> Iterator[bytes]:
        """The names that begin so, in the table's order."""
        return (name for _, name in self._alike((prefix,)) if name.startswith(prefix))

    def values(self, names: Collection[bytes]) -> dict[bytes, int]:
        """The addresses of those names that there are, by one walk; of several with the name, the first."""
        missing, found = set(names), dict[bytes, int]()
        for row, name in self._alike(names) if missing else ():
            if name in missing:
                found[name] = self.addresses[row]
                missing.remove(name)
                if not missing:
                    break
        return found

    def _alike(self, beginnings: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
        """Rows and names, in order, of which one may begin so. Only those whose first letters fit are decoded."""
        packed, tokens, at, last = self.packed, self.tokens, 0, len(self.packed) - 4
        fits = _Fits(beginnings)
        # The first token is the type's letter alone, or that with the first letters of the name.
        first = bytes(fits(token[1:]) for token in tokens)
        known: dict[bytes, bool] = {}  # whether the first tokens fit
        for row in range(len(self)):
            if at > last:
                break  # names that run past the end are empty
            length = packed[at]
            at += 1
            if length & 0x80:
                length, at = _length(packed, at - 1)
            if first[packed[at]]:
                start = packed[at : at + (length if length < _LOOKED_AT else _LOOKED_AT)]
                if start not in known:
                    known[start] = fits(b"".join([tokens[token] for token in start])[1:])
                if known[start]:
                    yield row, b"".join([tokens[token] for token in packed[at : at + min(length, _NAME_BOUND)]])[1:]
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


def find(data: Buffer, bits: int = 64, linked_at: LinkedAt = lambda _: None, first: int = 0) -> Kallsyms | None:
    """The table in a kernel's ELF of `bits`, 32 or 64, or None. Raises nothing: what does not fit together is not one.

    `linked_at` gives the link-time address of a file offset, None where it has none. From the offset `first` on it is looked for
    first.
    """
    tries = ((place, grain) for place in islice(_digits(data, first), _DIGITS_BOUND) for grain in ((8, 4) if bits == 64 else (4,)))
    tables = ((table, grain) for place, grain in tries if (table := _token_table(data, place, grain)))

    def addresses_of(number_at: int, end: int, count: int) -> Addresses | None:
        return _addresses(data, number_at, end, count, bits // 8, linked_at)

    for (start, end, tokens), grain in islice(tables, _TABLES_BOUND):
        for reach in _REACHES:
            found = _names(data, reach, start, end, tokens, grain, addresses_of)
            if found is not None:
                return found
    return None


def _digits(data: Buffer, first: int) -> Iterator[int]:
    """Every place where the digits stand in a row, those from `first` on before the others."""
    for start in (*range(first, min(len(data), _SEARCHED), _PIECE), *range(0, min(len(data), first, _SEARCHED), _PIECE)):
        for match in _DIGITS.finditer(data[start : start + _PIECE + _DIGITS_SIZE - 1]):
            yield start + match.start()


def _token_table(data: Buffer, digits: int, grain: int) -> tuple[int, int, tuple[bytes, ...]] | None:
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
        if end - at > _TOKEN_BOUND:
            return None  # a file of 2 MB could else hold 60 GB of names
        words.append(text[at:end])
        offsets.append(at)
        at = end + 1
    index = struct.pack(f"<{_TOKENS}H", *offsets) if offsets[-1] < 1 << 16 else b""
    place = first + start + at
    place += -place % grain
    if not index or bytes(data[place : place + len(index)]) != index:
        return None
    return first + start, place + len(index), tuple(words)


def _names(
    data: Buffer,
    reach: int,
    start: int,
    end: int,
    tokens: tuple[bytes, ...],
    grain: int,
    addresses_of: Callable[[int, int, int], Addresses | None],
) -> Kallsyms | None:
    """The names in front of the token table: their number, `grain` bytes, then they, then the markers.

    `addresses_of` takes where that number is, where the token index ends, and the number.
    """
    low = max(start - reach, 0)
    low += -low % grain
    region = bytes(data[low:start])
    tries = 0
    # The number is 32 bits, padded with zeros: look for what can be one, nearest first, since the names follow it at once.
    for at in _small_numbers(region, grain):
        count = int.from_bytes(region[at : at + 4], "little")
        if not _FEWEST <= count <= _MOST or count > len(region) - at:
            continue
        tries += 1
        if tries > _TRIES_BOUND:
            return None
        after = _after_block(region, at + grain)
        if after is None:
            continue
        markers = _markers(region, at + grain, after, count, grain)
        addresses = None if markers is None else addresses_of(low + at, end, count)
        if markers is not None and addresses is not None:
            return Kallsyms(region[at + grain :], markers, tokens, addresses)
    return None


def _small_numbers(region: bytes, grain: int) -> Iterator[int]:
    """Every multiple of `grain` where a number below 2^24 stands in as many bytes, the last one first."""
    zeros = bytes(grain - 3)
    at = len(region) - 16 + grain
    while (place := region.rfind(zeros, 0, at)) >= 3:
        at = place - 3 & -grain
        if region.startswith(zeros, at + 3):
            yield at
        at += grain - 1  # what is found next begins before this one's zeros


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


def _markers(region: bytes, names: int, block: int, count: int, grain: int) -> array[int] | None:
    """The offset of every 256th name; `block` is where the 257th begins, which the second one says. The tokens come next, or soon."""
    number = -(-count // _BLOCK)
    size = 4 * number + -4 * number % grain
    for place in (len(region) - size, len(region) - size - _SEQUENCE * count - -_SEQUENCE * count % grain):
        if place < block or region[place : place + 8] != struct.pack("<II", 0, block - names):
            continue
        markers = _array("I", region[place : place + 4 * number])
        if all(a < b for a, b in pairwise(markers)) and names + markers[-1] < place:
            return markers
    return None


def _addresses(data: Buffer, number_at: int, after_tokens: int, count: int, word: int, linked_at: LinkedAt) -> Addresses | None:
    """The addresses: offsets and their base in front of the number (up to 6.3) or behind the token index, there without one last."""
    size = 4 * count + -4 * count % word
    limit = 1 << 8 * word
    for offsets, base_at in ((number_at - word - size, number_at - word), (after_tokens, after_tokens + size)):
        if offsets < 0 or base_at + word > len(data):
            continue
        base = int.from_bytes(bytes(data[base_at : base_at + word]), "little")
        if base < _HIGH[word]:
            continue
        found = _absolute(_array("i", bytes(data[offsets : offsets + 4 * count])), base, limit)
        if found is not None:
            return found
    here = linked_at(after_tokens)
    if here is None or here < _HIGH[word] or after_tokens + 4 * count > len(data):
        return None
    from_themselves = _array("i", bytes(data[after_tokens : after_tokens + 4 * count]))
    found = Addresses(from_themselves, lambda row, offset: here + 4 * row + offset)
    return found if _HIGH[word] <= found[0] and found[count - 1] < limit and found.rise() else None


def _absolute(offsets: array[int], base: int, limit: int) -> Addresses | None:
    """Offsets as addresses: below the base by what is negative, absolute where it is not; or, newer, all above the base."""
    for found in (
        Addresses(offsets, lambda _, offset: offset if offset >= 0 else base - 1 - offset),
        Addresses(offsets, lambda _, offset: base + (offset & 0xFFFFFFFF)),
    ):
        if base <= found[len(found) - 1] < limit and found.rise():
            return found
    return None


class _Fits:
    """Whether a name that starts with a text may begin with one of the `beginnings`."""

    def __init__(self, beginnings: Collection[bytes]) -> None:
        self._beginnings = tuple(beginnings)
        self._parts = {one[:size] for one in beginnings for size in range(len(one))}

    def __call__(self, text: bytes) -> bool:
        return text in self._parts or text.startswith(self._beginnings)


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length of a name in tokens, and where they begin: one byte, or two from 128 on (Linux 6.1)."""
    if at >= len(data):
        return 0, at  # names that run past the end are empty
    first = data[at]
    if first < 0x80 or at + 1 >= len(data):
        return first, at + 1
    return first & 0x7F | data[at + 1] << 7, at + 2


def _array(code: str, raw: bytes) -> array[int]:
    found = array(code, raw)  # as one piece: a kernel has 150 thousand of them
    if _BIG_ENDIAN:
        found.byteswap()
    return found
