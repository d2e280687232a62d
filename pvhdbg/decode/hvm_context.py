"""What `xen-hvmctx DOMAIN` prints of a paused domain: its registers and hidden segment state, a second witness beside the probe.

The form is that of dump_cpu() in Xen's tools/misc/xen-hvmctx.c. Attributes are in the layout of a VMCB, limits in bytes.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pvhdbg.errors import BadLog
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, DescriptorTable, Registers, Segment, Segments, Snapshot

SOURCE = "xen-hvmctx"
_LIMIT = 1 << 20
_CPU = re.compile(r"^    CPU:    rax ", re.MULTILINE)
_WORD = re.compile(r"\b([a-z][a-z0-9]{1,5}) +0x([0-9a-f]{16})\b")
_SEGMENT = re.compile(
    r"^ +(cs|ds|es|fs|gs|ss|tr|ldtr) 0x([0-9a-f]{8}) \(0x([0-9a-f]{16}) \+ 0x([0-9a-f]{8}) / 0x([0-9a-f]{5,8})\)$", re.M
)
_TABLE = re.compile(r"^ +(itdr|idtr|gdtr) +\(0x([0-9a-f]{16}) \+ 0x([0-9a-f]{8})\)$", re.M)  # Xen spells it itdr
_NAMES = {"rflags": "eflags"}
_WANTED = {*GENERAL, *EXTENDED, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer"}


def decode(data: bytes) -> Snapshot:
    """The registers and segments of the first CPU in that text. Raises BadLog where there are none."""
    text = data[:_LIMIT].decode("ascii", "replace")
    begin = _CPU.search(text)
    if begin is None:
        raise BadLog("this is not what xen-hvmctx prints: there is no record of a CPU", "pause the domain, and give its number")
    end = text.find("\nEntry ", begin.start())
    record = text[begin.start() : end if end >= 0 else len(text)]
    values: dict[str, int] = {}
    for name, word in _WORD.findall(record):
        if name in _WANTED:
            values.setdefault(_NAMES.get(name, name), int(word, 16))
    by_name = {}
    for name, selector, base, limit, attributes in _SEGMENT.findall(record):
        rights = int(attributes, 16)
        segment = Segment(int(selector, 16) & 0xFFFF, int(base, 16), int(limit, 16), (rights & 0xFF) << 8 | (rights & 0xF00) << 12)
        by_name["ldt" if name == "ldtr" else name] = segment
        if name in ("cs", "ds", "es", "fs", "gs", "ss"):
            values[name] = segment.selector or 0
    tables = {name: DescriptorTable(int(base, 16), int(limit, 16)) for name, base, limit in _TABLE.findall(record)}
    missing = "xen-hvmctx did not show it"
    return Snapshot(
        Registers(values, missing),
        Segments(by_name, tables.get("gdtr"), tables.get("itdr") or tables.get("idtr"), missing),
        sources={"registers": SOURCE, "segments": SOURCE},
    )


def joined(seen: Snapshot, witness: Snapshot) -> tuple[Snapshot, list[str]]:
    """The snapshot of the probe with what only the other witness saw, and a warning for each value in which the two differ.

    A value in which they differ was not observed: one of them is wrong, and nothing says which.
    """
    warnings: list[str] = []
    values: dict[str, int | None] = dict(seen.registers.values)
    for name in (*GENERAL, *EXTENDED, "rip", "eflags", *CONTROL):
        mine, other = seen.registers.get(name), witness.registers.get(name)
        if mine is None:
            values[name] = other
        elif other is not None and mine != other:
            values[name] = None
            warnings.append(f"{name}: the probe read {mine:#x}, {SOURCE} shows {other:#x}: it counts as not observed")
    registers = Registers({name: value for name, value in values.items() if value is not None}, seen.registers.missing)
    by_name = dict(seen.segments.by_name)
    for name, other_segment in witness.segments.by_name.items():
        by_name[name], said = _joined_segment(name, by_name.get(name), other_segment)
        warnings += said
    segments = Segments(by_name, seen.segments.gdt, seen.segments.idt, seen.segments.missing)
    sources = {**seen.sources, "segments": f"{seen.sources.get('segments', 'probe log')} and {SOURCE}"}
    return replace(seen, registers=registers, segments=segments, sources=sources), warnings


def _joined_segment(name: str, mine: Segment | None, other: Segment) -> tuple[Segment, list[str]]:
    if mine is None:
        return other, []
    warnings = []
    found: dict[str, int | None] = {}
    for part, seen, shown in (
        ("selector", mine.selector, other.selector),
        ("base", mine.base, other.base),
        ("limit", mine.limit, other.limit),
        ("flags", mine.flags, other.flags),
    ):
        found[part] = shown if seen is None else seen
        if seen is not None and shown is not None and seen != shown:
            found[part] = None
            warnings.append(f"{name}.{part}: the probe shows {seen:#x}, {SOURCE} {shown:#x}: it counts as not observed")
    return Segment(found["selector"], found["base"], found["limit"], found["flags"], mine.missing), warnings
