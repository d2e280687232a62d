"""The layout of the flight recorder's file, version 4: its constants and its structures.

The recorder is a TCG plugin of QEMU (`recorder/recorder.c`), and this is the other half of its file format. All values are little endian.
A file has one header page; then for each CPU a page, its ring of blocks, and how often it executed each block; then tables of blocks, of
system instructions, of register states, of stores, of instructions with all their registers, and of chapters. The tables are sparse and as long as
their capacity; the header says how much of each is used. docs/recorder-file.md describes the format, `recording` reads it.
"""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u8, u16, u32, u64

MAGIC = b"PVHDBGFR"
VERSION = 4
PAGE = 4096
RING = 1 << 16  # blocks that are kept of each CPU
MOST_CPUS = 256
MOST_BLOCKS, MOST_SYSTEMS, MOST_STATES, MOST_WRITES, MOST_MARKS = 1 << 20, 4096, 512, 256, 64
MOST_DISCONTINUITIES = 64  # that are kept of each CPU
MOST_REGISTERS = 1 << 15  # instructions whose registers are kept
MOST_CODE = 1 << 25  # bytes of the code of blocks
MOST_CHAPTERS, CHAPTER_BLOCKS = 16, 1 << 17  # chapters whose beginning is kept, and blocks that are counted there

ENTRY = 8  # bytes of a ring's entry: block, low 32 bits of the number
PLACE = 4  # bytes of a number that says where a block's code lies
COUNT = 8  # bytes of a CPU's count of one block
STRIDE = PAGE + RING * ENTRY + MOST_BLOCKS * COUNT


class RecordingHeader(Structure):
    """The first page of a recording, without its marks."""

    magic: bytes = raw(8, "PVHDBGFR")
    version: int = u32("of the format")
    page: int = u32("4096")
    cpus: int = u32("CPUs that the machine can have")
    ring: int = u32("entries of a CPU's ring")
    blocks: int = u32("capacity of the table of blocks")
    systems: int = u32("capacity of the table of system instructions")
    states: int = u32("capacity of the table of register states")
    marks: int = u32("marks in use")
    cpu_offset: int = u64("where the first CPU's page lies")
    cpu_stride: int = u64("bytes from one CPU's page to the next")
    block_offset: int = u64("where the table of blocks lies")
    system_offset: int = u64("where the table of system instructions lies")
    state_offset: int = u64("where the table of register states lies")
    write_offset: int = u64("where the table of stores lies")
    size: int = u64("of the file")
    api: int = u32("version of QEMU's plugin API")
    exact: int = u32("1: each instruction was counted, REP iterations once")
    finished: int = u32("1: QEMU ended by itself, and the last register states are there")
    physical: int = u32("1: blocks have physical addresses")
    block_count: int = u32("records of blocks in use")
    system_count: int = u32("records of system instructions in use")
    state_count: int = u32("records of register states in use")
    discontinuities: int = u32("1: this QEMU reports interrupts and exceptions")
    write_count: int = u64("stores that were ever noted; store i lies at i modulo the table's size")
    watch: int = u64("physical address that is watched for stores; NEVER: none")
    watch_size: int = u64("bytes from there on")
    lost: int = u64("translations for which no record was left")
    entry: int = u64("linear address that instructions are counted from; NEVER: from the start")
    base: int = u64("instructions that ran before the entry; NEVER: it was not reached yet")
    entry_cpu: int = u32("CPU that reached the entry")
    registers_found: int = u32("1: QEMU's registers were found, 2: they were not, 0: they were not asked for")
    register_offset: int = u64("where the table of instructions with registers lies")
    register_count: int = u64("instructions with registers that were ever kept; number i lies at i modulo the table's size")
    register_until: int = u64("written by a reader: the machine stops before this instruction; 0: registers are not kept")
    register_taken: int = u64("written by a reader: so many of them were read")
    register_waits: int = u64("written by a reader: 1 if the guest is to wait for it, instead of overwriting what was not read")
    code_offset: int = u64(
        "where the code of blocks lies: for each block 4 bytes, where its code begins behind them, plus 1; 0: none"
    )
    code_used: int = u64("bytes of code in use")
    chapter_offset: int = u64("where the chapters lie: a page of records, then a table of counts for each")


class Mark(Structure):
    """An instruction whose first execution was to be noted, or whose K-th one."""

    address: int = u64("linear or physical address")
    first: int = u64("number of the instruction at that execution; NEVER: it has not come")
    pc: int = u64("linear address that it ran at")
    seen: int = u64("executions since the entry, or behind the instruction that was named")
    last: int = u64("number of the instruction at its last execution; NEVER: there was none")
    last_pc: int = u64("linear address that it ran at then")
    halted: int = u64("1: the machine was stopped before it, as was asked for")


class Cpu(Structure):
    """The head of one CPU's part."""

    head: int = u64("ring entries that were ever written; entry i lies at i modulo the ring's size")
    count: int = u64("instructions since the entry, as a sum over blocks")
    exact: int = u64("the number of the last block's first instruction, where the recording is exact")
    repeats: int = u64("iterations of REP instructions that are not counted")
    idle: int = u64("head + 1 when the CPU last went idle; 0: it never did")
    interrupted: int = u64("discontinuities that were ever noted; number i lies at i modulo the table's size")


class DiscontinuityRecord(Structure):
    """A discontinuity of a CPU; its table ends the CPU's first page."""

    number: int = u64("number of the instruction that comes next")
    origin: int = u64("linear address that the CPU left")
    target: int = u64("linear address that it goes on at")
    kind: int = u32("1: an interrupt, 2: an exception, 4: a call of QEMU")
    unused: int = u32("0")


class BlockRecord(Structure):
    """A block of the table."""

    linear: int = u64("linear address when it was translated; QEMU 9 and newer run a translation at other addresses, too")
    physical: int = u64("ram_addr_t of QEMU, the physical address below 4 GiB; NEVER outside of RAM")
    first: int = u64("number of its first instruction when it was first executed; NEVER: it was not")
    instructions: int = u16("instructions")
    size: int = u16("bytes")
    cpu: int = u16("CPU that executed it first")
    last: int = u16("offset of the last instruction")
    before_1: int = u32("the block that the CPU executed before the first execution, plus 1; 0: none")
    before_2: int = u32("the one before that")
    before_3: int = u32("the one before that")
    before_4: int = u32("the one before that")


class SystemRecord(Structure):
    """A system instruction of the table."""

    ALIGN = 64
    number: int = u64("number of the instruction")
    pc: int = u64("linear address")
    after: int = u64("index of the register state after it, plus 1; 0: it was not kept")
    cpu: int = u16("CPU")
    code: bytes = raw(15, "the instruction's bytes")
    size: int = u8("bytes of code; 0: the record is not complete")


class StateRecord(Structure):
    """The head of a register state of the table; its text follows."""

    number: int = u64("number of the instruction that the CPU had not begun yet")
    pc: int = u64("its linear address; NEVER: as QEMU ended")
    cpu: int = u32("CPU")
    length: int = u32("bytes of text; 0: the record is not complete")


class WriteRecord(Structure):
    """A store of the table."""

    number: int = u64("number of the instruction")
    pc: int = u64("linear address of the instruction")
    address: int = u64("physical address where the store begins")
    cpu: int = u16("CPU")
    size: int = u16("bytes")
    serial: int = u32("which store it is, plus 1; another value: the record is not complete")


class ChapterRecord(Structure):
    """The beginning of a chapter; its table of counts says how often all CPUs together had executed each block before."""

    ALIGN = 32
    number: int = u64("number of the chapter's first instruction")
    pc: int = u64("its linear address")
    blocks: int = u32("blocks in the table; 0: the record is not complete, or not in use")


STATE_SIZE = 2048  # bytes of a state's record; text follows its head
