"""A plain mutator: one to six random changes of a whole input. For where atheris is not installed, and for short rounds."""

from __future__ import annotations

import re
from random import Random

from fuzz.target import BOUND

_EXTREMES = (0, 1, 2, 3, 4, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63,
             (1 << 64) - 1)  # fmt: skip
_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"18446744073709551616", b"0xffffffffffffffffff", b"9" * 5000, b"1_0", b"\xd9\xa3")
_STRANGE = (
    b"\x1b[2J",
    b"\x00",
    b"\xff",
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"::error::x",
    b"##[x",
    b"]]>",
    b"<!--",
    b'"',
    b"'",
    b"\\",
    b"\n",
    b"\r\n",
)
_DIGITS = re.compile(rb"(?:0x)?[0-9a-f]+")


class Mutator:
    """Makes inputs of seeds; the same `random` makes the same inputs."""

    def __init__(self, random: Random, seeds: list[bytes], words: tuple[bytes, ...] = ()) -> None:
        self._random = random
        self._seeds = [seed[:BOUND] for seed in seeds] or [b""]
        self._words = (*words, *_STRANGE)

    def input(self) -> bytes:
        """The next input."""
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 6))):
            self._change(data)
        return bytes(data[:BOUND])

    def _change(self, data: bytearray) -> None:
        random = self._random
        kind = random.randrange(10)
        near = min(len(data), 512) if random.randrange(2) else len(data)  # heads decide most
        at = random.randrange(near) if near else 0
        if kind == 0 and data:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            size = random.choice((1, 2, 4, 8))
            value = random.choice(_EXTREMES) & ((1 << 8 * size) - 1)
            data[at : at + size] = value.to_bytes(size, random.choice(("little", "little", "big")))
        elif kind == 2 and data:
            data[at] = random.randrange(256)
        elif kind == 3:
            del data[at : at + random.choice((1, 1, 4, 16, 256))]
        elif kind == 4:
            piece = data[at : at + random.choice((1, 4, 16, 256))]
            data[at:at] = piece * random.choice((1, 1, 2, 64))
        elif kind == 5:
            data[at:at] = random.choice(self._words)
        elif kind == 6:
            other = random.choice(self._seeds)
            start = random.randrange(len(other) + 1)
            data[at : at + random.randrange(64)] = other[start : start + random.randrange(512)]
        elif kind == 7:
            found = _DIGITS.search(data, at)
            if found is not None:
                data[found.start() : found.end()] = random.choice(_NUMBERS)
        elif kind == 8:
            del data[at:]
        else:
            word = random.choice(self._words)
            data[at : at + len(word)] = word
