"""Block coverage: functions in the order in which a boot first reached them, from QEMU's `in_asm` log.

QEMU logs a block with its disassembly when it translates it, which costs a whole boot about a third more time, without stepping. A
block may run into the next function without a jump: that counts as reaching it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pvhdbg.tracing.symbol_text import base

_BLOCK = re.compile(rb"^IN:[^\n]*\n((?:0x[0-9a-f]+:[^\n]*\n)+)(?=\n)", re.MULTILINE)
_HALF_BLOCK = b"\nIN:"
_UNFINISHED_BOUND = 8 << 20  # bytes without the end of a block, after which they are dropped


class Block(NamedTuple):
    """A block at its first translation: the addresses of its first and of its last instruction."""

    pc: int
    last: int


class ReachedFunction(NamedTuple):
    """A function that was reached for the first time: its number from 0, the address, and the number of blocks before."""

    order: int
    name: str
    pc: int
    block: int


class BlockReader:
    """Feed it the log in any pieces; it returns the blocks that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that `data` completes."""
        text = self._rest + data
        cut = text.rfind(_HALF_BLOCK)
        if cut < 0:
            self._rest = text if len(text) < _UNFINISHED_BOUND else b""
            return []
        self._rest = text[cut:]
        return list(self._blocks(text[: cut + 1]))

    def finish(self) -> list[Block]:
        """The blocks that are left at the end of the log."""
        rest, self._rest = self._rest, b""
        return list(self._blocks(rest))

    def _blocks(self, text: bytes) -> Iterator[Block]:
        for match in _BLOCK.finditer(text):
            lines = match[1]
            last = lines.rfind(b"\n", 0, len(lines) - 1) + 1
            yield Block(int(lines[2 : lines.index(b":")], 16), int(lines[last + 2 : lines.index(b":", last)], 16))


class Functions:
    """Turns blocks into the functions that they reach first; `name` gives "function" or "function+0x10" for an address."""

    def __init__(self, name: Callable[[int], str | None]) -> None:
        self.blocks = 0
        self._name = name
        self._known: set[str] = set()

    def feed(self, blocks: list[Block]) -> list[ReachedFunction]:
        """The functions that were not reached before."""
        found: list[ReachedFunction] = []
        for block in blocks:
            self.blocks += 1
            for pc in (block.pc, block.last):
                name = self._name(pc)
                function = None if name is None else base(name)
                if function is not None and function not in self._known:
                    self._known.add(function)
                    found.append(ReachedFunction(len(self._known) - 1, function, pc, self.blocks - 1))
        return found
