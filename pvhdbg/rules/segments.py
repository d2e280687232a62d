"""Segments and the task register at the entry. The rules judge the descriptor cache, not the descriptor table."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState
from pvhdbg.model import Segment, Vmm
from pvhdbg.rules.declare import MachineRule, Severity, Violation, rule
from pvhdbg.rules.examples import at_entry
from pvhdbg.spec.documents import DRAFT_A_CS, DRAFT_A_DATA, PVH_PANDOC, Clause
from pvhdbg.spec.revisions import ALL, V0
from pvhdbg.spec.x86 import (
    FLAT_LIMIT,
    SYSTEM_TYPES,
    TSS32_AVAILABLE,
    TSS32_BUSY,
    TSS32_MINIMUM_LIMIT,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_EXPAND_DOWN,
    TYPE_READABLE,
    TYPE_WRITABLE,
)

MUST, INFO = Severity.MUST, Severity.INFO

_CS = "cs: must be a 32-bit read/execute code segment with a base of ‘0’ and a limit of ‘0xFFFFFFFF’."
_DATA = "ds, es, ss: must be a 32-bit read/write data segment with a base of ‘0’ and a limit of ‘0xFFFFFFFF’."
_TR = "tr: must be a 32-bit TSS (active) with a base of '0' and a limit of '0x67'."


def not_flat(name: str, segment: Segment) -> Iterator[Violation]:
    """A Violation for each attribute that differs from a flat segment: base 0, limit 0xffffffff."""
    if segment.known_base():
        yield Violation(f"{name}.base", "0x0", f"{segment.known_base():#x}")
    if segment.known_limit() != FLAT_LIMIT:
        yield Violation(f"{name}.limit", f"{FLAT_LIMIT:#x}", f"{segment.known_limit():#x}")


def not_data(name: str, segment: Segment) -> Iterator[Violation]:
    """A Violation for each attribute that differs from a present 32-bit read/write data segment."""
    if not segment.present:
        yield Violation(f"{name}.P", "1", "0: the segment is null or not present")
        return
    if not segment.s or segment.type & TYPE_CODE:
        yield Violation(f"{name}.type", "data", _type(segment))
        return
    if not segment.type & TYPE_WRITABLE:
        yield Violation(f"{name}.type", "writable", _type(segment))
    if segment.type & TYPE_EXPAND_DOWN:
        yield Violation(f"{name}.type", "expand-up", _type(segment))
    if not segment.db:
        yield Violation(f"{name}.B", "1 (32-bit)", "0 (16-bit)")


def _type(segment: Segment) -> str:
    if not segment.s:
        return f"system type {segment.type:#x}"
    if segment.type & TYPE_CODE:
        return "code, readable" if segment.type & TYPE_READABLE else "code, execute-only"
    return (
        "data, "
        + ("writable" if segment.type & TYPE_WRITABLE else "read-only")
        + (", expand-down" if segment.type & TYPE_EXPAND_DOWN else "")
    )


@rule(
    "PVH-CS-FLAT",
    "cs is flat: base 0, limit 0xffffffff",
    clause=Clause(PVH_PANDOC, _CS),
    severity=MUST,
    revisions=ALL,
    draft=DRAFT_A_CS,
    passes=[at_entry()],
    fails=[at_entry(cs_base=0x1000), at_entry(cs_limit=0x0FFFFFFF)],
)
def cs_flat(boot: BootState) -> Iterator[Violation]:
    """The entry code runs at its physical address. A base other than 0 shifts every jump; with a lower limit (Alioth's has
    28 bits) the first instruction beyond it faults."""
    yield from not_flat("cs", boot.segments["cs"])


@rule(
    "PVH-CS-TYPE",
    "cs is a present 32-bit read/execute code segment",
    clause=Clause(PVH_PANDOC, _CS),
    severity=MUST,
    revisions=ALL,
    draft=DRAFT_A_CS,
    passes=[at_entry(), at_entry(cs_flags=0x00CF9A00)],
    fails=[
        at_entry(cs_flags=0x00CF9300),
        at_entry(cs_flags=0x00CF9900),
        at_entry(cs_flags=0x00AF9B00),
        at_entry(cs_flags=0x008F9B00),
        at_entry(cs_flags=0x00CF1B00),
    ],
)
def cs_type(boot: BootState) -> Iterator[Violation]:
    """With D clear the CPU decodes the entry code as 16-bit code. In an execute-only segment the first read through cs faults.
    The accessed bit and the privilege level are not specified."""
    cs = boot.segments["cs"]
    if not cs.present:
        yield Violation("cs.P", "1", "0")
    if not cs.s or not cs.type & TYPE_CODE or not cs.type & TYPE_READABLE:
        yield Violation("cs.type", "code, readable", _type(cs))
    if not cs.db:
        yield Violation("cs.D", "1 (32-bit)", "0 (16-bit)")
    if cs.long:
        yield Violation("cs.L", "0", "1 (64-bit)")


def _below_414(name: str, boot: BootState) -> Severity | None:
    # The text of Xen 4.7 to 4.13 named only ds and es; b25fb1a04e (2020-02, Xen 4.14) added ss.
    return Severity.SHOULD if name == "ss" and boot.revision is V0 else None


def _softer(violations: Iterator[Violation], severity: Severity | None) -> Iterator[Violation]:
    for one in violations:
        yield Violation(one.at, one.expected, one.found, severity)


def _data_rules(name: str, why: str) -> tuple[MachineRule, MachineRule]:
    def flat(boot: BootState) -> Iterator[Violation]:
        yield from _softer(not_flat(name, boot.segments[name]), _below_414(name, boot))

    def typed(boot: BootState) -> Iterator[Violation]:
        yield from _softer(not_data(name, boot.segments[name]), _below_414(name, boot))

    flat.__doc__ = typed.__doc__ = why
    clause = Clause(PVH_PANDOC, _DATA)
    return (
        rule(
            f"PVH-{name.upper()}-FLAT",
            f"{name} is flat: base 0, limit 0xffffffff",
            clause=clause,
            severity=MUST,
            revisions=ALL,
            draft=DRAFT_A_DATA,
            passes=[at_entry()],
            fails=[at_entry(**{f"{name}_base": 0x10000}), at_entry(**{f"{name}_limit": 0xFFFFF})],
        )(flat),
        rule(
            f"PVH-{name.upper()}-TYPE",
            f"{name} is a present 32-bit read/write data segment",
            clause=clause,
            severity=MUST,
            revisions=ALL,
            draft=DRAFT_A_DATA,
            passes=[at_entry(), at_entry(**{f"{name}_flags": 0x00CF9200})],
            fails=[at_entry(**{f"{name}_flags": flags}) for flags in (0, 0x00CF9100, 0x00CF9700, 0x008F9300, 0x00CF9B00)],
        )(typed),
    )


DATA_RULES = (
    *_data_rules("ds", "Every load and store of the entry code goes through ds, and the guest may keep it until it has a GDT."),
    *_data_rules(
        "es",
        "String instructions store through es: the first `rep stos` that clears bss. Xen's toolstack and dom0 builder left\n"
        "es null before 4.14.",
    ),
    *_data_rules(
        "ss",
        "A guest may load esp and use it at once. The text names ss since Xen 4.14 (b25fb1a04e): newer Linux and Xen use\n"
        "start_info itself as their first stack, which needs ss flat.",
    ),
)


@rule(
    "PVH-FSGS",
    "fs and gs are flat like ds",
    clause=Clause(PVH_PANDOC, "All other processor registers and flag bits are unspecified."),
    severity=INFO,
    passes=[at_entry()],
    fails=[at_entry(fs_flags=0, fs_limit=0), at_entry(gs_base=0x1000)],
)
def fsgs(boot: BootState) -> Iterator[Violation]:
    """The shipped text does not mention fs and gs, and Xen leaves them null; Draft A required them to be flat. A guest must
    load them before it uses them."""
    for name in ("fs", "gs"):
        segment = boot.segments[name]
        for _ in (*not_flat(name, segment), *not_data(name, segment)):
            yield Violation(name, "unspecified", f"base {segment.known_base():#x}, limit {segment.known_limit():#x}: not flat")
            break


@rule(
    "PVH-SEG-ACCESSED",
    "the accessed bits are set",
    clause=Clause(PVH_PANDOC, "All other processor registers and flag bits are unspecified."),
    severity=INFO,
    revisions=ALL,
    draft=f"{DRAFT_A_CS} The exact value is undefined.",
    passes=[at_entry()],
    fails=[at_entry(cs_flags=0x00CF9A00)],
)
def accessed(boot: BootState) -> Iterator[Violation]:
    """The CPU sets the accessed bit when it loads a segment; if the bit is clear, software filled the descriptor cache. QEMU's
    TCG shows the table's value, KVM always a set bit. The difference has no consequence for a guest."""
    for name in ("cs", "ds", "es", "ss"):
        segment = boot.segments[name]
        if segment.present and segment.s and not segment.type & TYPE_ACCESSED:
            yield Violation(f"{name}.A", "1 on hardware", "0")


@rule(
    "PVH-TR-TYPE",
    "tr holds a present, busy 32-bit TSS",
    clause=Clause(PVH_PANDOC, _TR),
    severity=MUST,
    passes=[at_entry(), at_entry(tr_flags=0x8900, vmm=Vmm("QEMU", "7.2.22", "tcg"))],
    fails=[
        at_entry(tr_flags=0x8900),
        at_entry(tr_flags=0x8900, vmm=Vmm("QEMU", "7.2.22", "kvm")),
        at_entry(tr_flags=0x8300),
        at_entry(tr_flags=0x8100, vmm=Vmm("QEMU", "7.2.22", "tcg")),
        at_entry(tr_flags=0),
    ],
)
def tr_type(boot: BootState) -> Iterator[Violation]:
    """VMX refuses to enter a guest whose tr is unusable or not busy: a nested or migrated boot dies where an emulated one
    runs. When a guest loads tr, QEMU's TCG sets the busy bit only in the table and keeps "available" in tr's hidden state;
    with TCG, "available" therefore conforms too."""
    tr = boot.segments["tr"]
    if not tr.present:
        yield Violation("tr.P", "1", "0")
    elif tr.s or tr.type not in _in_use(boot):
        found = f"{tr.type:#x}" if tr.s else SYSTEM_TYPES.get(tr.type, f"{tr.type:#x}")
        yield Violation("tr.type", "TSS32-busy (0xb)", found)


def _in_use(boot: BootState) -> tuple[int, ...]:
    # helper_ltr() and switch_tss_ra() in QEMU's target/i386/tcg/seg_helper.c; measured on 7.2.22 and 10.0.2.
    return (TSS32_BUSY, TSS32_AVAILABLE) if boot.snapshot.vmm.accelerator == "tcg" else (TSS32_BUSY,)


@rule(
    "PVH-TR-BASE",
    "the base of tr is 0",
    clause=Clause(PVH_PANDOC, _TR),
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(tr_base=0x1000)],
)
def tr_base(boot: BootState) -> Iterator[Violation]:
    """A task switch or an I/O permission check before the guest loads its own tr would read there."""
    base = boot.segments["tr"].known_base()
    if base:
        yield Violation("tr.base", "0x0", f"{base:#x}")


@rule(
    "PVH-TR-LIMIT",
    "the limit of tr is 0x67",
    clause=Clause(PVH_PANDOC, _TR),
    severity=MUST,
    passes=[at_entry(tr_limit=0x67)],
    fails=[at_entry(tr_limit=0xFFFF), at_entry(tr_limit=0x66)],
)
def tr_limit(boot: BootState) -> Iterator[Violation]:
    """0x67 is the limit of a 32-bit TSS without an I/O bitmap. QEMU's firmwares never load tr, so that it keeps the CPU's reset
    value 0xffff. A guest that loads its own TSS, as all do, is not affected."""
    limit = boot.segments["tr"].known_limit()
    if limit != TSS32_MINIMUM_LIMIT:
        yield Violation("tr.limit", f"{TSS32_MINIMUM_LIMIT:#x}", f"{limit:#x}")


CHAPTER: tuple[MachineRule, ...] = (cs_flat, cs_type, *DATA_RULES, fsgs, accessed, tr_type, tr_base, tr_limit)
