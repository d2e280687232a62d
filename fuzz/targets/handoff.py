"""The hand-off in hostile guest memory: registers and the graph that start_info spans, decoded, judged and shown in every format.

The first 24 bytes are three registers; the rest is memory, which begins at 0x6000 and is repeated through all RAM, so that every pointer
leads to something.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from zlib import crc32

from fuzz.target import Form, Output, Target
from pvhdbg.commands.formats import of_boot
from pvhdbg.decode.boot_state import BootState, decode
from pvhdbg.model import Memory, NeedMemory, Registers, Snapshot
from pvhdbg.report import json_report, text
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.examples import START_INFO, at_draft_a_entry, at_entry
from pvhdbg.spec.revisions import REVISIONS

_BLANK = at_entry().snapshot()
_HEAD = 24
_READS = 8192
FORMS = {"junit": Form.XML, "sarif": Form.JSON}


def _run(data: bytes) -> Iterator[Output]:
    head, memory = data[:_HEAD].ljust(_HEAD, b"\0"), data[_HEAD:] or b"\0"
    rbx, rsi, modes = struct.unpack("<QQQ", head)
    registers = _BLANK.registers.replace(ebx=rbx, esi=rsi, cr0=modes & 0xFFFFFFFF, eax=modes >> 32)
    boot = _decoded(registers, memory, "draft-a" if modes & 1 << 63 else "v1")
    if boot is not None:
        yield from shown(Report(boot, judge(boot)), crc32(data))


def _decoded(registers: Registers, memory: bytes, spec: str) -> BootState | None:
    snapshot = dataclasses.replace(_BLANK, registers=registers, memory=Memory())
    for _ in range(_READS):
        state = decode(snapshot, REVISIONS[spec])
        if not isinstance(state, NeedMemory):
            return state
        snapshot = _answered(snapshot, state, memory)
    raise AssertionError(f"more than {_READS} requests for memory")


def _answered(snapshot: Snapshot, need: NeedMemory, memory: bytes) -> Snapshot:
    if need.size > 1 << 24:
        raise AssertionError(f"{need.size} bytes of memory are wanted at once")
    if need.address >> 40 & 1:
        return dataclasses.replace(snapshot, memory=snapshot.memory.with_hole(need.address, need.size, "nothing is there"))
    at = (need.address - START_INFO) % len(memory)
    piece = (memory[at:] + memory * (need.size // len(memory) + 1))[: need.size]
    return dataclasses.replace(snapshot, memory=snapshot.memory.with_piece(need.address, piece))


def shown(report: Report, number: int) -> Iterator[Output]:
    """A report as text, or in one of the other formats: which, `number` decides."""
    others = of_boot(report, "vmlinux")
    names = ["text", "json", *others]
    name = names[number % (2 * len(names))] if number % (2 * len(names)) < len(names) else "text"
    if name == "text":
        yield Output(Form.TEXT, text.render(report))
    elif name == "json":
        yield Output(Form.JSON, json_report.render(report))
    else:
        yield Output(FORMS.get(name, Form.TEXT), others[name]())


def _seeds() -> Iterator[bytes]:
    for example, modes in ((at_entry(), 0x11), (at_draft_a_entry(32), 1 << 63 | 0x11), (at_draft_a_entry(64), 1 << 63 | 0x11)):
        snapshot = example.snapshot()
        registers = snapshot.registers
        image = bytearray(0x2000)
        for piece in snapshot.memory.pieces:
            at = piece.address - START_INFO
            if 0 <= at < len(image):
                image[at : at + len(piece.data)] = piece.data
        head = struct.pack("<QQQ", registers["ebx"], registers["esi"], modes | registers["eax"] << 32 & (1 << 64) - 1)
        yield head + bytes(image[:0x200])
        yield head + bytes(image)


TARGET = Target(
    _run, _seeds, (b"\x78\x65\x6e\xc5\x33\xe5\x0b\x34"[:4], b"RSD PTR ", b"XSDT", b"\0\x60\0\0\0\0\0\0", b"xen-4.6-x86_64")
)
