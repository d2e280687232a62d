"""Logs of the guest `probe`: lines are found, checked and made a machine. Every line's checksum is made right, or no change would be read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from fuzz.target import Form, Output, Target
from fuzz.targets.handoff import shown
from pvhdbg.decode.probe_log import decode
from pvhdbg.decode.text import printable
from pvhdbg.machine.capture import decoded
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.targets.recorded import RecordedTarget

_LOG = Path(__file__).parents[2] / "tests" / "decode" / "probe_logs" / "kvm.log"
_SUM = re.compile(rb"(PVHPROBE[^\n*]*) \*[0-9a-f]{8}")


def _run(data: bytes) -> Iterator[Output]:
    if data[:1] != b"!":  # one that is left as it is
        data = _SUM.sub(lambda found: b"%s *%08x" % (found[1], zlib.crc32(found[1])), data)
    log = decode(data[at : at + 777] for at in range(0, len(data), 777))
    boot = decoded(RecordedTarget(log.snapshot, "log"), log.snapshot, "v1")
    yield Output(Form.TEXT, printable("\n".join(log.warnings)))
    yield from shown(Report(boot, judge(boot)), zlib.crc32(data))


def _seeds() -> Iterator[bytes]:
    log = _LOG.read_bytes()
    yield log
    yield b"!" + log
    yield b"".join(log.splitlines(True)[:12])


TARGET = Target(_run, _seeds, (b"PVHPROBE1 ", b" reg ", b" mem ", b" end ", b"ffffffffffffffff"))
