"""Saved snapshots: the file, decoded, judged and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from zlib import crc32

from fuzz.target import Output, Target
from fuzz.targets.handoff import shown
from pvhdbg.decode.snapshot_file import decode, encode
from pvhdbg.machine.capture import decoded
from pvhdbg.model import Vmm
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.examples import at_draft_a_entry, at_entry
from pvhdbg.targets.recorded import RecordedTarget


def _run(data: bytes) -> Iterator[Output]:
    snapshot = decode(data.decode("utf-8", "replace"))
    boot = decoded(RecordedTarget(snapshot), snapshot, "v1")
    yield from shown(Report(boot, judge(boot)), crc32(data))


def _seeds() -> Iterator[bytes]:
    for example in (at_entry(), at_entry(vmm=Vmm("QEMU", "7.2", "tcg", ("qemu", "-append", "x"))), at_draft_a_entry(32)):
        text = encode(example.snapshot())
        yield text.encode()
        yield json.dumps(json.loads(text), separators=(",", ":")).encode()


TARGET = Target(_run, _seeds, (b"null", b"[]", b"{}", b'"0x0"', b"[" * 2000, b'"holes":', b"\\ud800", b"\\u001b"))
