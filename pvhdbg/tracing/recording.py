"""The flight recorder's file: a reader that works while QEMU still writes. `recording_layout` has the layout.

A *block* is QEMU's unit of translation: consecutive instructions, up to a jump. Instructions are numbered from the first
execution of the entry on, which is number 0. In an `exact` recording, all iterations of one REP are one
instruction. In others, numbers are sums over blocks: a fault cuts a block short, so they are a few millionths too high.

`Recording` reads a file that QEMU is still writing to. QEMU writes a record first and then says that it is there, so no record is read
half written, not even after a SIGKILL of QEMU: a record that is incomplete, or that may be overwritten at the moment, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise, repeat
from typing import Any

from pvhdbg.layout import Buffer
from pvhdbg.tracing.flow import Flow
from pvhdbg.tracing.recorded_numbers import BEFORE, NEVER, BadRecording, signed
from pvhdbg.tracing.recorded_parts import Discontinuity, DiscontinuityKind, Executed, MemoryWrite, RecordedBlock, State, System
from pvhdbg.tracing.recorded_registers import SIZE
from pvhdbg.tracing.recording_layout import (
    CHAPTER_BLOCKS,
    COUNT,
    ENTRY,
    MAGIC,
    MOST_BLOCKS,
    MOST_CHAPTERS,
    MOST_CODE,
    MOST_CPUS,
    MOST_DISCONTINUITIES,
    MOST_MARKS,
    MOST_REGISTERS,
    MOST_STATES,
    MOST_SYSTEMS,
    MOST_WRITES,
    PAGE,
    PLACE,
    RING,
    STATE_SIZE,
    STRIDE,
    VERSION,
    BlockRecord,
    ChapterRecord,
    Cpu,
    DiscontinuityRecord,
    Mark,
    RecordingHeader,
    StateRecord,
    SystemRecord,
    WriteRecord,
)

_LONGEST_BLOCK = 1 << 16  # instructions
_SLACK = 64  # ring entries that may be overwritten while they are read


class Recording:
    """A recording in a buffer, usually a mapped file. Every read shows the current content: only the header's layout is cached.

    Raises BadRecording for other bytes.
    """

    def __init__(self, data: Buffer) -> None:
        self._data = data
        try:
            head = RecordingHeader.decode(data)
        except ValueError:
            raise BadRecording("it is shorter than a recording's header") from None
        if head.magic != MAGIC:
            raise BadRecording("it does not begin as a recording does")
        if head.version != VERSION:
            raise BadRecording(f"its format is version {head.version}, and this pvhdbg reads version {VERSION}")
        if not 0 < head.cpus <= MOST_CPUS or head.marks > MOST_MARKS or head.entry_cpu >= head.cpus:
            raise BadRecording("its header holds impossible numbers")
        blocks = PAGE + head.cpus * STRIDE
        systems = blocks + MOST_BLOCKS * BlockRecord.sizeof()
        states = systems + MOST_SYSTEMS * SystemRecord.sizeof()
        writes = states + MOST_STATES * STATE_SIZE
        registers = writes + MOST_WRITES * WriteRecord.sizeof()
        code = registers + MOST_REGISTERS * SIZE
        chapters = code + MOST_BLOCKS * PLACE + MOST_CODE
        end = chapters + PAGE + MOST_CHAPTERS * CHAPTER_BLOCKS * COUNT
        expected = (PAGE, RING, PAGE, STRIDE, blocks, systems, states, writes, registers, code, chapters, end)
        found = (
            head.page,
            head.ring,
            head.cpu_offset,
            head.cpu_stride,
            head.block_offset,
            head.system_offset,
            head.state_offset,
            head.write_offset,
            head.register_offset,
            head.code_offset,
            head.chapter_offset,
            head.size,
        )
        if found != expected:
            raise BadRecording("its tables do not lie where version 4 has them")
        if len(data) < head.size:
            raise BadRecording(f"it is cut: {len(data)} of {head.size} bytes are there")
        self.cpus = head.cpus
        self.exact = bool(head.exact)
        self.entry = None if head.entry == NEVER else head.entry
        self.tells_discontinuities = bool(head.discontinuities)
        self.flows: dict[int, Flow] = {}  # of a saved boot: every executed block, by CPU

    @property
    def header(self) -> RecordingHeader:
        """The current header."""
        return RecordingHeader.decode(self._data)

    @property
    def entered(self) -> bool:
        """Whether the entry was reached."""
        return self.entry is None or self.header.base != NEVER

    @property
    def marks(self) -> list[Mark]:
        """All requested marks, reached or not."""
        at = RecordingHeader.sizeof()
        return [Mark.decode(self._data, at + index * Mark.sizeof()) for index in range(self.header.marks)]

    def cpu(self, index: int) -> Cpu:
        """One CPU's counters. Raises IndexError."""
        if not 0 <= index < self.cpus:
            raise IndexError(f"the machine has no CPU {index}")
        return Cpu.decode(self._data, _of_cpu(index))

    def is_idle(self, cpu: int = 0) -> bool:
        """Whether the CPU executed nothing since it last went idle. Under -icount QEMU does not report idle CPUs. Raises IndexError."""
        now = self.cpu(cpu)
        return now.idle == now.head + 1

    def discontinuities(self, cpu: int = 0) -> list[Discontinuity]:
        """The last 63 interrupts and exceptions that the CPU took, oldest first. Raises IndexError.

        Empty where QEMU does not report them (before plugin API 6, QEMU 10.2): see `tells_discontinuities`.
        """
        ever = self.cpu(cpu).interrupted
        rows = []
        for at in range(ever - min(ever, MOST_DISCONTINUITIES - 1), ever):
            place = _of_cpu(cpu) + PAGE - (MOST_DISCONTINUITIES - at % MOST_DISCONTINUITIES) * DiscontinuityRecord.sizeof()
            rows.append((at, DiscontinuityRecord.decode(self._data, place)))
        oldest = self.cpu(cpu).interrupted - MOST_DISCONTINUITIES  # that one may be overwritten now
        return [
            Discontinuity(_KINDS[one.kind], signed(one.number), one.origin, one.target)
            for at, one in rows
            if at > oldest and one.kind in _KINDS
        ]

    def begun(self, cpu: int = 0) -> int:
        """The number of instructions that the CPU has begun since the entry; approximate without `exact`. 0 before the entry."""
        if not self.entered:
            return 0
        now = self.cpu(cpu)
        return signed(now.exact if self.exact else now.count)

    @property
    def begun_at_a_stop(self) -> int:
        """The same for a machine that stands still: the instructions of its last block are all done, up to a mark that stopped it."""
        cpu = self.header.entry_cpu if self.entered else 0
        last = self.last(cpu, 1) if self.entered and cpu < self.cpus else []
        if not last:
            return 0
        first, behind = last[0].number, last[0].number + last[0].block.instructions
        inside = (mark.first for mark in self.marks if mark.halted and first < mark.first < behind)
        return max(next(inside, behind), 0)

    @property
    def clock(self) -> int:
        """The deterministic clock of a machine that stands still: instructions since the entry, where each iteration of a REP counts."""
        return self.begun_at_a_stop + (self.cpu(self.header.entry_cpu).repeats if self.entered else 0)

    @property
    def heads(self) -> tuple[int, ...]:
        """How many blocks each CPU has begun: while these stay the same, no CPU executes anything."""
        return tuple(self.cpu(index).head for index in range(self.cpus))

    def block(self, index: int) -> RecordedBlock:
        """One record of the table. Raises IndexError."""
        if not 0 <= index < min(self.header.block_count, MOST_BLOCKS):
            raise IndexError(f"the recording has no block {index}")
        return self._block(index)

    def code(self, block: RecordedBlock) -> bytes:
        """The code of a block when it was last translated; b"" where it was not kept."""
        at = self.header.code_offset
        place = int.from_bytes(self._data[at + block.number * PLACE : at + (block.number + 1) * PLACE], "little")
        if not 0 < place <= MOST_CODE - block.size:
            return b""
        start = at + MOST_BLOCKS * PLACE + place - 1
        return bytes(self._data[start : start + block.size])

    def blocks(self, start: int = 0) -> Iterator[RecordedBlock]:
        """All blocks from number `start` on, in the order in which they were translated."""
        used = max(min(self.header.block_count, MOST_BLOCKS) - start, 0)
        rows = BlockRecord.rows(self._data, self._block_offset + start * BlockRecord.sizeof(), used)
        return map(_made, count(start), rows, self._runs(start, used), repeat(self.header.base))

    def counts(self, cpu: int, start: int = 0, number: int | None = None) -> memoryview:
        """How often this CPU executed each block, by the block's number; or `number` of them from `start` on. Raises IndexError."""
        self.cpu(cpu)
        used = max(min(self.header.block_count, MOST_BLOCKS) - start, 0)
        at = _of_cpu(cpu) + PAGE + RING * ENTRY + start * COUNT
        return memoryview(bytes(self._data[at : at + (used if number is None else min(number, used)) * COUNT])).cast("Q")

    def _runs(self, start: int, number: int) -> list[int]:
        """How often each of some blocks was executed, by all CPUs together."""
        tables = [self.counts(cpu, start, number) for cpu, head in enumerate(self.heads) if head]
        return list(map(sum, zip(*tables, strict=False))) if tables else [0] * number

    def counts_before(self, number: int) -> list[int] | None:
        """How often each block had been executed before the chapter that begins with this instruction; None where that was not kept."""
        for index, one in enumerate(self._chapters()):
            if one.blocks and signed(one.number, self.header.base) == number:
                at = self._chapter_counts(index)
                return memoryview(bytes(self._data[at : at + one.blocks * COUNT])).cast("Q").tolist()
        return None

    def counts_now(self) -> list[int]:
        """How often each block was executed, by its number, by all CPUs together."""
        return self._runs(0, min(self.header.block_count, MOST_BLOCKS))

    def _chapters(self) -> list[ChapterRecord]:
        at = self.header.chapter_offset
        found = [ChapterRecord.decode(self._data, at + index * ChapterRecord.sizeof()) for index in range(MOST_CHAPTERS)]
        return [one if one.blocks <= CHAPTER_BLOCKS else one.replace(blocks=0) for one in found]

    def _chapter_counts(self, index: int) -> int:
        """Where a chapter's table of counts lies."""
        return self.header.chapter_offset + PAGE + index * CHAPTER_BLOCKS * COUNT

    def first_executions(self) -> list[RecordedBlock]:
        """The blocks that were executed since the entry, in the order of their first execution there.

        A machine runs on for some milliseconds behind a mark: what came then is left out.
        """
        last = min((mark.first for mark in self.marks), default=NEVER)
        return [one for one in self.executed() if 0 <= (one.first or 0) <= last]

    def executed(self) -> list[RecordedBlock]:
        """All blocks that were executed, also before the entry, in the order of their first execution."""
        done = [one for one in self.blocks() if one.first is not None]
        return sorted(done, key=lambda one: (one.first or 0, one.number))

    def last(self, cpu: int, most: int = RING) -> list[Executed]:
        """The last blocks that a CPU executed, oldest first; entries overwritten during the read are left out. Raises IndexError."""
        now = self.cpu(cpu)
        return self._numbered(self._ring(cpu, now, most), signed(now.exact if self.exact else now.count))

    def kept(self, cpu: int) -> int:
        """How many of the last blocks of a CPU that are still in its ring ran since the entry. Raises IndexError."""
        now = self.cpu(cpu)
        lows = self._ring(cpu, now, RING)[1::2].tolist()
        # Each block is a few instructions further than the one before, but the first one behind the entry, where the count begins again.
        if lows == sorted(lows):  # the quick way
            return len(lows)
        steps = ((one - other) & 0xFFFFFFFF for one, other in pairwise(reversed(lows)))
        return next((at + 1 for at, step in enumerate(steps) if step > _LONGEST_BLOCK), len(lows))

    def last_indexes(self, cpu: int, most: int) -> list[int]:
        """The numbers of these blocks in the table; the cheap part of `last`. Raises IndexError."""
        indexes: list[int] = self._ring(cpu, self.cpu(cpu), most)[::2].tolist()
        return indexes

    def _ring(self, cpu: int, now: Cpu, most: int) -> memoryview:
        """Ring entries as pairs of 32 bits."""
        wanted = min(now.head, most, RING - 1)  # the oldest may be in the making
        at = _of_cpu(cpu) + PAGE
        start = now.head - wanted
        raw_entries = bytearray()
        low, high = start % RING, now.head % RING
        if wanted and low < high:
            raw_entries += self._data[at + low * ENTRY : at + high * ENTRY]
        elif wanted:
            raw_entries += self._data[at + low * ENTRY : at + RING * ENTRY]
            raw_entries += self._data[at : at + high * ENTRY]
        moved = self.cpu(cpu).head - now.head
        torn = max(0, moved + wanted + _SLACK - RING) if moved else 0
        return memoryview(raw_entries).cast("I")[2 * torn :] if torn < wanted else memoryview(b"").cast("I")

    def systems(self) -> list[System]:
        """The system instructions that were noted, in order. One that is repeated is noted three times."""
        used = min(self.header.system_count, MOST_SYSTEMS)
        found = [
            SystemRecord.decode(self._data, self.header.system_offset + index * SystemRecord.sizeof()) for index in range(used)
        ]
        return [
            System(signed(one.number), one.pc, one.cpu, one.code[: min(one.size, 15)], self._state_of(one.after))
            for one in sorted(found, key=lambda one: one.number)
            if one.size
        ]

    def states(self) -> list[State]:
        """All register states that were kept, in order."""
        used = min(self.header.state_count, MOST_STATES)
        return [one for index in range(used) if (one := self._state_of(index + 1)) is not None]

    def writes(self) -> list[MemoryWrite]:
        """The last stores to the watched memory, oldest first."""
        ever = self.header.write_count
        found = []
        for at in range(ever - min(ever, MOST_WRITES), ever):
            place = self.header.write_offset + at % MOST_WRITES * WriteRecord.sizeof()
            one = WriteRecord.decode(self._data, place)
            if one.serial != (at + 1) & 0xFFFFFFFF:
                continue
            found.append(MemoryWrite(signed(one.number), one.pc, one.address, one.size, one.cpu))
        return found

    def registers(self, start: int) -> tuple[int, bytes]:
        """The instructions with registers from the `start`-th that was kept on: the number of the first one that is still there, and the
        records (`tracing.recorded_registers`). Those that may be overwritten during the read are left out."""
        ever = self.header.register_count
        start = max(start, ever - MOST_REGISTERS)
        low, high = start % MOST_REGISTERS, ever % MOST_REGISTERS
        at = self.header.register_offset
        if start >= ever:
            return ever, b""
        if low < high:
            found = bytes(self._data[at + low * SIZE : at + high * SIZE])
        else:
            found = bytes(self._data[at + low * SIZE : at + MOST_REGISTERS * SIZE]) + bytes(self._data[at : at + high * SIZE])
        head = self.header
        now = head.register_count
        over = 0 if now == ever or head.register_waits else max(0, now + 1 - MOST_REGISTERS - start)
        return start + over, found[over * SIZE :]

    def parts(self) -> list[tuple[int, int]]:
        """Offset and size in bytes of the parts in use, in order: all other bytes are zero."""
        head = self.header
        found = [(0, PAGE)]
        for index in range(self.cpus):
            at = _of_cpu(index)
            used = min(self.cpu(index).head, RING)
            counts = min(head.block_count, MOST_BLOCKS) * COUNT
            found += [(at, PAGE + used * ENTRY), (at + PAGE + RING * ENTRY, counts)] if used else []
        found.append((head.block_offset, min(head.block_count, MOST_BLOCKS) * BlockRecord.sizeof()))
        found.append((head.system_offset, min(head.system_count, MOST_SYSTEMS) * SystemRecord.sizeof()))
        found.append((head.state_offset, min(head.state_count, MOST_STATES) * STATE_SIZE))
        found.append((head.write_offset, min(head.write_count, MOST_WRITES) * WriteRecord.sizeof()))
        found.append((head.register_offset, min(head.register_count, MOST_REGISTERS) * SIZE))
        found.append((head.code_offset, min(head.block_count, MOST_BLOCKS) * PLACE if head.code_used else 0))
        found.append((head.code_offset + MOST_BLOCKS * PLACE, min(head.code_used, MOST_CODE)))
        chapters = self._chapters()
        found.append((head.chapter_offset, MOST_CHAPTERS * ChapterRecord.sizeof() if any(one.blocks for one in chapters) else 0))
        found += [(self._chapter_counts(index), one.blocks * COUNT) for index, one in enumerate(chapters) if one.blocks]
        return found

    def _block(self, index: int) -> RecordedBlock:
        row = next(BlockRecord.rows(self._data, self._block_offset + index * BlockRecord.sizeof(), 1))
        return _made(index, row, self._runs(index, 1)[0], self.header.base)

    @property
    def _block_offset(self) -> int:
        return _of_cpu(self.cpus)

    def _numbered(self, words: memoryview, last: int) -> list[Executed]:
        """Ring entries with full numbers: of each, 32 bits are kept, and numbers only grow."""
        indexes, lows = words[::2].tolist(), words[1::2].tolist()
        known = self._some_blocks(set(indexes))
        done: list[Executed] = []
        after = last
        for index, low in zip(reversed(indexes), reversed(lows), strict=True):
            block = known.get(index)
            if block is None:
                continue  # incomplete, or not written by a recorder
            after -= (after - low) & 0xFFFFFFFF
            done.append(Executed(after, block))
        done.reverse()
        return done

    def _some_blocks(self, wanted: set[int]) -> dict[int, RecordedBlock]:
        """Those of these blocks that are in the table: all between the first and the last one are read at once."""
        head = self.header
        used = min(head.block_count, MOST_BLOCKS)
        wanted = {index for index in wanted if index < used}
        if not wanted:
            return {}
        low, size = min(wanted), BlockRecord.sizeof()
        many = max(wanted) + 1 - low
        table = bytes(self._data[self._block_offset + low * size : self._block_offset + (low + many) * size])
        runs = self._runs(low, many)
        return {
            index: _made(index, next(BlockRecord.rows(table, (index - low) * size, 1)), runs[index - low], head.base)
            for index in wanted
        }

    def _state_of(self, index: int) -> State | None:
        if not 0 < index <= min(self.header.state_count, MOST_STATES):
            return None
        at = self.header.state_offset + (index - 1) * STATE_SIZE
        one = StateRecord.decode(self._data, at)
        length = min(one.length, STATE_SIZE - StateRecord.sizeof())
        if not length:
            return None
        text = bytes(self._data[at + StateRecord.sizeof() : at + StateRecord.sizeof() + length])
        return State(signed(one.number), None if one.pc == NEVER else one.pc, one.cpu, text)


_KINDS = {one.value: one for one in DiscontinuityKind}


def _of_cpu(index: int) -> int:
    """Where a CPU's part begins; the tables behind the last one's."""
    return PAGE + index * STRIDE


def _made(index: int, row: tuple[Any, ...], runs: int, base: int) -> RecordedBlock:
    linear, physical, first, instructions, size, cpu, _, one, two, three, four = row
    return RecordedBlock(
        index,
        linear,
        None if physical == NEVER else physical,
        first if first < BEFORE else None if first == NEVER else signed(first, base),
        runs,
        instructions,
        size,
        cpu,
        (one, two, three, four),
    )
