"""QEMU's log, in pieces of any size: both engines' readers, faults alone, and blocks for coverage."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.target import Form, Output, Target
from pvhdbg.decode.text import printable
from pvhdbg.disassembly import instruction_text
from pvhdbg.report import trace_text
from pvhdbg.tracing.block_coverage import BlockReader, Functions
from pvhdbg.tracing.qemu_log import LogReader
from tests.tracing.test_qemu_log import FAULT, FLAT, LONG, NEW, OLD, asm, state


def _run(data: bytes) -> Iterator[Output]:
    kind, data = data[:1], data[1:]
    states, several = kind in b"sm", kind == b"m"
    size = 4096 if len(data) > 4096 else 313
    blocks = BlockReader()
    reached = Functions(lambda pc: f"f{pc >> 4:x}+0x1")
    for at in range(0, len(data), size):
        reached.feed(blocks.feed(data[at : at + size]))
    reached.feed(blocks.finish())
    reader = LogReader(states=states, several=several)
    if kind == b"f":
        for fault in reader.faults_in(data):
            yield Output(Form.TEXT, trace_text.fault(fault))
        return
    for at in range(0, len(data), size):
        batch = reader.feed(data[at : at + size])
        yield Output(Form.TEXT, trace_text.events([*list(batch)[:20], *batch.faults], lambda _: None, instruction_text))
        if batch.deltas:
            yield Output(Form.TEXT, printable(str([event.changes for event in list(batch)[:20]])))
    batch = reader.finish(state() if states else None)
    yield Output(Form.TEXT, printable(str([event.changes for event in batch])))


def _seeds() -> Iterator[bytes]:
    stopped = b"Stopped execution of TB chain before 0x7f5b1c036ac0 [0000000000000005] \n"
    plain = asm(5, b"\xf3\xa5") + 3 * (OLD % (5, FLAT)) + stopped + 2 * (OLD % (5, FLAT)) + OLD % (7, FLAT) + NEW % (1 << 63, LONG)
    full = b"".join(OLD % (pc, FLAT) + state(pc) for pc in (1, 2, 2, 3))
    yield b"a" + plain + FAULT + state() + b"Triple fault\n"
    yield b"s" + full + stopped + full
    yield b"m" + full + full.replace(b"Trace 0", b"Trace 1")
    yield b"f" + FAULT + state(eax=7) + b"Triple fault\nServicing hardware INT=0x08\nCPU Reset (CPU 0)\n" + state()


TARGET = Target(
    _run,
    _seeds,
    (
        b"\nTrace 0: ",
        b"Trace 1: ",
        b"Stopped execution of TB chain before ",
        b"\nIN: \n",
        b"EFER=0000000000000000\n",
        b"CR0=00000011",
        b"Triple fault\n",
        b"CPU Reset (CPU 0)\n",
    ),
)
