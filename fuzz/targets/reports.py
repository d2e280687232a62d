"""Reports whose every string is hostile: the VMM's, the kernel's, the guest's, the file's names; in every format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from zlib import crc32

from fuzz.target import Output, Target
from fuzz.targets.handoff import shown
from pvhdbg.decode.text import safe
from pvhdbg.model import Kernel, LoadRange, Vmm
from pvhdbg.report.document import Passed, Report
from pvhdbg.rules.catalogue import judge
from pvhdbg.rules.declare import Outcome, Violation
from pvhdbg.rules.examples import ENTRY, at_entry
from pvhdbg.spec.revisions import REVISIONS
from tests.report.reports import HOSTILE

_PLAIN = at_entry().boot(REVISIONS["v1"])
_VERDICTS = judge(_PLAIN)


def _run(data: bytes) -> Iterator[Output]:
    words = [word.decode("utf-8", "surrogateescape") for word in data[:4096].split(b"\xfe")] * 12
    kernel = Kernel(words[0], words[1], None, 1 << 20, ENTRY, loads=(LoadRange(0x1000000, 0x2000000),))
    entry = dataclasses.replace(_PLAIN.snapshot.entry, symbol=words[2])
    vmm = Vmm(words[3], words[4], words[5], (words[6], "-append", words[7]))
    snapshot = dataclasses.replace(
        _PLAIN.snapshot, vmm=vmm, kernel=kernel, entry=entry, captured=words[8], sources={words[9]: words[10]}
    )
    boot = dataclasses.replace(_PLAIN, snapshot=snapshot)
    wrong = (Violation(words[0], words[1], words[11]),)
    verdicts = [
        dataclasses.replace(_VERDICTS[0], outcome=Outcome.FAIL, violations=wrong),
        dataclasses.replace(_VERDICTS[1], outcome=Outcome.UNKNOWN, reason=words[2]),
        dataclasses.replace(_VERDICTS[2], outcome=Outcome.NOT_APPLICABLE, reason=words[3]),
        dataclasses.replace(_VERDICTS[3], outcome=Outcome.REMARK, violations=wrong),
        *_VERDICTS[4:],
    ]
    report = Report(
        boot, tuple(verdicts), False, (safe(words[4]),), tuple(map(safe, words[5:7])), (Passed(words[7], 1.0, words[8]),)
    )
    number = crc32(data)
    for one in (number, number + 1, number + 2):
        yield from shown(report, one)


def _seeds() -> Iterator[bytes]:
    hostile = HOSTILE.encode("utf-8", "surrogateescape" if "\ud800" not in HOSTILE else "surrogatepass")
    yield hostile
    yield b"\xfe".join([b"vmlinux", b"build", hostile[:40], b"QEMU", b"7.2.22", b"tcg", b"a", b"b", b"2026", b"c", b"d", b"e"])


TARGET = Target(
    _run,
    _seeds,
    (
        b"\xfe",
        b"</script>",
        b"]]>",
        b"<![CDATA[",
        b"&amp;",
        b"| `",
        b"```",
        b"ok 1",
        b"\xef\xbf\xbf",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"%0A",
        b"##vso[",
        b"##[",
        b"\n::",
    ),
)
