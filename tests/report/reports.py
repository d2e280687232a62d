"""Reports to render: one that has every outcome, one whose every string is hostile, and one for each rule's examples."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.model import DescriptorTable, Kernel, LoadRange, Vmm
from pvhdbg.report.document import Report
from pvhdbg.rules.catalogue import MACHINE_RULES, judge
from pvhdbg.rules.declare import Outcome, Violation
from pvhdbg.rules.examples import ENTRY, Example, at_entry
from pvhdbg.spec.revisions import REVISIONS
from pvhdbg.spec.start_info import MemoryMapEntry, ModuleEntry

# Each of these means something in at least one of the formats.
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>]]><!-- &lt; &amp; \"' "
    "::error::owned ##[error]owned {0} [a](http://evil.example) ![b](http://evil.example/c.png) <http://evil.example> | `c` "
    "``` ~~~ *d* _e_ # SKIP f\nok 1 - owned\nnot ok 2\n1..0\n::error::owned\nBail out!\n  ---\n\x1b[2J\x1b]0;g\x07\x9b1m\r\n"
    "\u202e\u2028\ud800 \x7f\\x41 \\# <h>"
)
_OPTION_ROM = b"\x55\xaa" + b"PVH loader".ljust(1534, b"\0")
_PVH_BIN = {"gdt": DescriptorTable(0xCA118, 0x27), "memory": {0xCA000: _OPTION_ROM}}


def report_of(example: Example, spec: str = "v1", strict: bool = False) -> Report:
    """The example's machine, judged by all rules."""
    boot = example.boot(REVISIONS[spec])
    return Report(boot, judge(boot), strict)


def failing(strict: bool = False) -> Iterator[Report]:
    """A report for every example that a rule fails on, by the first revision that has the rule."""
    for rule in MACHINE_RULES:
        for example in rule.fails:
            yield report_of(example, "v1" if "v1" in rule.revisions else min(rule.revisions), strict)


def golden() -> Report:
    """A boot that has something to say in every part: FAIL, KNOWN, REMARK, UNKNOWN and N/A, two modules, an odd map."""
    example = at_entry(
        **_PVH_BIN,
        vmm=Vmm("QEMU", "7.2.22", "tcg"),
        kernel=Kernel("build/vmlinux", "3b43fad503487449", None, 1 << 20, ENTRY, loads=(
            LoadRange(0x1000000, 0x1A00000), LoadRange(0x2A00000, 0x600000))),
        command_line=b"console=ttyS0 <b>&\0",
        tr_limit=0xFFFF,
        cr4=0x20,
        esp=0x6EDC,
        a20=None,
        unobserved=["efer"],
        modules=[ModuleEntry(0x1F000000, 0x20000, 0, 0), ModuleEntry(0x1F100000, 0x1000, 0x20000, 0)],
        memory_map=[
            MemoryMapEntry(0, 0x9FC00, 1, 0),
            MemoryMapEntry(0xF0000, 0x10000, 2, 0),
            MemoryMapEntry(0x100000, 0x1FF00000, 1, 0),
            MemoryMapEntry(0xFD00000000, 0x300000000, 9, 0),
        ],
    )  # fmt: skip
    report = report_of(example)
    snapshot = dataclasses.replace(report.boot.snapshot, captured="2026-01-02T03:04:05+00:00", sources={"registers": "g packet"})
    return dataclasses.replace(
        report,
        boot=dataclasses.replace(report.boot, snapshot=snapshot),
        warnings=(SafeText("build/vmlinux is a bzImage; the ELF inside it is booted"),),
        serial=(SafeText("Linux version 6.1"), SafeText("Kernel panic - not syncing: <no init>")),
    )


def hostile() -> Report:
    """A boot whose every string was chosen by somebody else."""
    report = golden()
    boot = report.boot
    example = at_entry(
        **_PVH_BIN,
        vmm=Vmm(HOSTILE, f"7.2 {HOSTILE}\0", HOSTILE),
        kernel=Kernel(HOSTILE + "\0", HOSTILE, None, 1 << 20, ENTRY + 4, loads=(LoadRange(0x1000000, 0x2000000),)),
        command_line=HOSTILE.encode("utf-8", "surrogatepass") + b"\0",
        modules=[ModuleEntry(0x1F000000, 0x20000, 0x20000, 0)],
        rsdp=HOSTILE.encode("utf-8", "surrogatepass")[:36],
        tr_limit=0x10,
    )
    boot = example.boot(REVISIONS["v1"])
    entry = dataclasses.replace(boot.snapshot.entry, symbol=HOSTILE)
    snapshot = dataclasses.replace(boot.snapshot, captured=HOSTILE, entry=entry, sources={HOSTILE: HOSTILE})
    boot = dataclasses.replace(boot, snapshot=snapshot)
    verdicts = list(judge(boot))
    wrong = (Violation("cmdline", HOSTILE, HOSTILE),)
    changes: tuple[dict[str, Any], ...] = (
        {"outcome": Outcome.FAIL, "violations": wrong},
        {"outcome": Outcome.REMARK, "violations": wrong},
        {"outcome": Outcome.UNKNOWN, "reason": HOSTILE},
        {"outcome": Outcome.NOT_APPLICABLE, "reason": HOSTILE},
        {"outcome": Outcome.PASS, "reason": HOSTILE},
    )
    verdicts[: len(changes)] = [dataclasses.replace(one, **change) for one, change in zip(verdicts, changes, strict=False)]
    return Report(boot, tuple(verdicts), False, (safe(HOSTILE),), (safe(HOSTILE), safe("\0\x1b[31m")))
