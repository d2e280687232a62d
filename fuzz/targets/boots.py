"""Saved boots and the recorder's file: the head, the packed parts, and every table of the recording in them.

An input is what a boot's file is, but that its parts are not packed: they are packed here, or no change would be read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice

from fuzz.target import Form, Output, Target
from pvhdbg.decode.text import printable
from pvhdbg.tracing.boot_file import BootInfo, decode, encode
from pvhdbg.tracing.chapters import chapters, events_of
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.story import functions, parting, profile, tree
from tests.tracing.recorder.test_boot_file import INFO, recording


def _run(data: bytes) -> Iterator[Output]:
    head, found, rest = data.partition(b"\n")
    raw = data[:1] == b"!"
    info, read = decode(data[1:] if raw else head + found + zlib.compress(rest, 1))
    yield Output(Form.TEXT, printable(f"{info.kernel} {info.vmm} {info.command} {info.seconds} {info.end}"))
    firsts = functions(islice(read.first_executions(), 2000), lambda physical: f"f{physical >> 12}" if physical < 1 << 14 else None)
    shown = [str(firsts[:5]), str(profile(islice(read.blocks(), 2000), lambda _: "f")), str(parting(firsts, firsts[1:]))]
    for cpu in range(min(read.cpus, 2)):
        shown += [str(read.last(cpu, 100)), str(read.begun(cpu)), str(read.discontinuities(cpu)), str(read.is_idle(cpu))]
        shown.append(str(read.counts(cpu, 0, 9).tolist()))
    milestones, modes = events_of(read)
    parts = chapters(read, read.executed()[:2000], firsts, modes)
    shown += [str(milestones), str(tree(firsts)[:9]), str(parts)]
    shown += [
        str(read.marks),
        str(read.systems()[:9]),
        str(read.states()[:9]),
        str(read.writes()[:9]),
        str(read.parts()),
        str(read.entered),
    ]
    yield Output(Form.TEXT, printable("\n".join(shown)))


def _seeds() -> Iterator[bytes]:
    saved = b"".join(encode(INFO, recording()))
    head, _, packed = saved.partition(b"\n")
    yield head + b"\n" + zlib.decompress(packed)
    yield b"!" + saved
    yield b"!" + b"".join(encode(BootInfo("k", "", "", (), False, 0, ""), recording([])))


TARGET = Target(_run, _seeds, (b"PVHDBGFR", b'"parts": [[0, 4096]]', b'"size": 1', b"1e999", b"pvhdbg/boot/1"), (BadRecording,))
