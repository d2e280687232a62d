"""ELF cores: the notes of QEMU and of the kernel, guest memory out of PT_LOADs, decoded and judged."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from fuzz.target import Output, Target
from fuzz.targets.handoff import shown
from pvhdbg.decode.core_file import parse
from pvhdbg.machine.capture import decoded
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.targets.core import CoreTarget
from tests.support.core_writer import build_core, prstatus32, prstatus64, qemu_note

_MEMORY = {0x2000: bytes(range(256)), 0x100000: b"\xeb\xfe" * 32}


def _run(data: bytes) -> Iterator[Output]:
    core = parse(data)
    boot = decoded(CoreTarget(core, "a.core"), core.snapshot, "v1")
    yield from shown(Report(boot, judge(boot)), crc32(data))


def _seeds() -> Iterator[bytes]:
    for bits in (64, 32):
        yield build_core(memory=_MEMORY, bits=bits)
        yield build_core(prstatus64() + qemu_note(), _MEMORY, bits=bits)
    yield build_core(prstatus32(), _MEMORY)


TARGET = Target(_run, _seeds, (b"QEMU\0", b"CORE\0", b"pvhdbg\0", b"\x7fELF"))
