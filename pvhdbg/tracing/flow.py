"""The flow of a recorded boot: every block that a CPU executed, in order, rebuilt from what the recorder's prediction missed. Pure.

The recorder (`recorder/recorder.c`) predicts each block from the four before it, by a table that remembers what followed such a history the
last time. It writes how many predictions were right, and then the block that was not predicted; each number has 7 bits a byte, the low ones
first. Chunks begin with an empty table, so any of them can be rebuilt alone.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from pvhdbg.layout import Buffer, Structure, raw, u32, u64
from pvhdbg.tracing.recorded_numbers import BadRecording, signed

MAGIC = b"PVHDBGFL"
VERSION = 1
CHUNK = 1 << 19  # blocks
MOST_CHUNKS = 1 << 15
ROOM = 1 << 28  # bytes of a CPU's stream
_LONGEST = 5 * CHUNK  # bytes of a chunk
_LEVEL = 6


class FlowHead(Structure):
    """The head of a CPU's file; the chunks' places follow, then the stream."""

    magic: bytes = raw(8, "PVHDBGFL")
    version: int = u32("of the format")
    cpu: int = u32("CPU")
    chunk: int = u64("blocks of a chunk")
    room: int = u64("bytes that the stream can have")
    bytes: int = u64("bytes of the stream")
    run: int = u64("blocks behind it that were predicted")
    chunks: int = u64("chunks that were begun")
    full: int = u64("1: the stream ended because it was full")


class FlowChunk(Structure):
    """Where a chunk begins."""

    offset: int = u64("of its first byte in the stream")
    number: int = u64("number of its first instruction")


_STREAM = FlowHead.sizeof() + MOST_CHUNKS * FlowChunk.sizeof()
_SIZE = _STREAM + ROOM


class ExecutedAt(NamedTuple):
    """A block that was executed: the number of its first instruction, and its place in the table of blocks."""

    number: int
    block: int


class FlowBlock(Protocol):
    """What a recording says of a block: its place in the table, its instructions, and where `cpu` executed it `first`."""

    @property
    def number(self) -> int: ...
    @property
    def instructions(self) -> int: ...
    @property
    def first(self) -> int | None: ...
    @property
    def cpu(self) -> int: ...


class Flow:
    """The blocks that one CPU executed. `numbers` are those of the chunks' first instructions; `part` gives a chunk's bytes; `tail` blocks
    at the end were predicted and not written yet. `full`: the stream ended before the boot did."""

    def __init__(self, numbers: Sequence[int], part: Callable[[int], bytes], tail: int, full: bool) -> None:
        self.numbers, self.tail, self.full = tuple(numbers), tail, full
        self._part = part

    def chunk(self, index: int) -> list[int]:
        """The blocks of one chunk, in order. Raises BadRecording, IndexError."""
        last = index == len(self.numbers) - 1
        return _rebuilt(self.part(index), self.tail if last else 0)

    def part(self, index: int) -> bytes:
        """A chunk's bytes. Raises BadRecording, IndexError."""
        if not 0 <= index < len(self.numbers):
            raise IndexError(f"the flow has no chunk {index}")
        return self._part(index)

    def since(self, number: int, recorded: Iterable[FlowBlock], cpu: int = 0) -> Iterator[ExecutedAt]:
        """The executed blocks of this CPU from the one that holds instruction `number` on; `recorded` is the table. Raises BadRecording.

        Numbers are those of the recording at the beginning of a chunk and where a block is executed for the first time; in between they
        are sums over blocks, which a fault makes a little too high.
        """
        blocks = list(recorded)
        sizes = [block.instructions for block in blocks]
        firsts = sorted((block.first, block.number) for block in blocks if block.first is not None and block.cpu == cpu)
        ends = [*self.numbers[1:], 1 << 64]
        for index in range(max(bisect_right(self.numbers, number) - 1, 0), len(self.numbers)):
            at = self.numbers[index]
            new = firsts[bisect_left(firsts, (at, 0)) : bisect_left(firsts, (ends[index], 0))]
            known = {block: first for first, block in new}
            for block in self.chunk(index):
                if block >= len(sizes):
                    raise BadRecording("its flow names blocks that it does not have")
                if block in known:
                    at = known.pop(block)
                size = sizes[block]
                if at + size > number:
                    yield ExecutedAt(at, block)
                at += size


def read(data: Buffer, base: int) -> Flow:
    """The recorder's own file of a CPU, also while QEMU writes it; `base` as in the recording's header. Raises BadRecording."""
    try:
        head = FlowHead.decode(data)
    except ValueError:
        raise BadRecording("its flow is cut") from None
    if (head.magic, head.version, head.chunk, head.room) != (MAGIC, VERSION, CHUNK, ROOM) or len(data) < _SIZE:
        raise BadRecording(f"its flow is not of version {VERSION}")
    used = min(head.chunks, MOST_CHUNKS)
    rows = list(FlowChunk.rows(data, FlowHead.sizeof(), used))
    ends = [*(offset for offset, _ in rows[1:]), min(head.bytes, ROOM)]

    def part(index: int) -> bytes:
        start, end = rows[index][0], ends[index]
        if not 0 <= end - start <= _LONGEST:
            raise BadRecording("its flow is damaged")
        return bytes(data[_STREAM + start : _STREAM + end])

    return Flow([signed(number, base) for _, number in rows], part, head.run, bool(head.full))


class Saved(NamedTuple):
    """A CPU's flow as it is saved: for each chunk its first instruction and the size of its packed bytes."""

    cpu: int
    tail: int
    full: bool
    chunks: tuple[tuple[int, int], ...]


def packed(cpu: int, flow: Flow) -> tuple[Saved, list[bytes]]:
    """A flow for a file. Raises BadRecording."""
    parts = [zlib.compress(flow.part(index), _LEVEL) for index in range(len(flow.numbers))]
    return Saved(cpu, flow.tail, flow.full, tuple(zip(flow.numbers, map(len, parts), strict=True))), parts


def unpacked(saved: Saved, parts: Sequence[bytes]) -> Flow:
    """The flow of a file. Raises BadRecording where a part is read that is damaged."""

    def part(index: int) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            found = unpacker.decompress(parts[index], _LONGEST)
        except zlib.error:
            raise BadRecording("its flow is damaged") from None
        if not unpacker.eof:
            raise BadRecording("its flow is damaged")
        return found

    return Flow([number for number, _ in saved.chunks], part, saved.tail, saved.full)


def _rebuilt(data: bytes, tail: int) -> list[int]:
    """The blocks of a chunk. Written for speed: ten million blocks a second."""
    table, history, at, left, end = [0] * 65536, 0, 0, CHUNK, len(data)
    found: list[int] = []
    add = found.append
    try:
        while left > 0:
            run = tail
            if at < end:
                run, at = _number(data, at)
            run = min(run, left)
            left -= run
            for _ in range(run):
                block = table[history]
                add(block)
                history = (history << 4 ^ block) & 65535
            if left <= 0 or at >= end:
                break
            block, at = _number(data, at)
            table[history] = block
            add(block)
            history = (history << 4 ^ block) & 65535
            left -= 1
    except IndexError:
        raise BadRecording("its flow is cut") from None
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = data[at]
    at += 1
    if value < 128:
        return value, at
    value, shift = value & 127, 7
    while shift < 64:
        more = data[at]
        at += 1
        value |= (more & 127) << shift
        if more < 128:
            return value, at
        shift += 7
    raise BadRecording("its flow is damaged")
