"""The observations of the guest `probe` as a Snapshot. What a guest cannot see of its own machine stays unobserved.

A segment's hidden state is taken from the CPU's own report (`hidden` lines). Without it, it follows from the probe's accesses
through the segment, on a CPU that checks them. The descriptor table alone proves nothing: a VMM may fill the descriptor
cache with other values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pvhdbg.model import (
    DescriptorTable,
    EntryPoint,
    FoundBy,
    Kernel,
    LoadRange,
    Memory,
    MemoryHole,
    MemoryPiece,
    NeedMemory,
    Registers,
    Segment,
    Segments,
    Snapshot,
    Unavailable,
    Vmm,
)
from pvhdbg.record import dataclass
from pvhdbg.spec.probe_format import (
    BY_NAME,
    CONTROL,
    FOUND_LIMIT,
    FOUND_RIGHTS,
    GAPS,
    GENERAL,
    MSRS,
    SEGMENTS,
    TEST_LAST,
    TEST_READ,
    TEST_SAME,
    TEST_TOP,
    TEST_WRITE,
    TEST_ZERO,
)
from pvhdbg.spec.x86 import FLAT_LIMIT, TYPE_CODE, TYPE_READABLE, TYPE_WRITABLE

SOURCE = "probe log"
_MISSING = "a guest in 32-bit mode cannot see it, or its line is missing in the log"
_RIGHTS = 0x00F0FF00  # the bits of a descriptor's high dword that `lar` shows and a VMCB holds
_HYPERVISOR_LEAVES = (0x40000000, 0x40000100)  # Xen and KVM use the second where they also offer Hyper-V's interface
_HYPERVISOR_PRESENT = 31  # in ecx of leaf 1
_XEN, _KVM, _TCG = b"XenVMMXenVMM", b"KVMKVMKVM\0\0\0", b"TCGTCGTCGTCG"

Lines = Mapping[str, Sequence[tuple[str, ...]]]


def snapshot_of(lines: Lines) -> Snapshot:
    """The Snapshot of these lines: words by kind, each in the form that the format declares. Raises nothing."""
    observed = _Observed(lines)
    memory = _memory(observed)
    entry = observed.one("entry")
    registers = _registers(observed)
    return Snapshot(
        registers=registers,
        segments=_segments(observed, registers, memory),
        a20=observed.truth("a20"),
        memory=memory,
        vmm=_vmm(observed),
        kernel=None if entry is None else _kernel(observed, entry["address"]),
        # The probe's first instruction is at its note's entry: it ran, so the VMM entered it there.
        entry=EntryPoint(registers.get("rip"), FoundBy.NOTE),
        sources={"registers": SOURCE, "segments": SOURCE, "memory": SOURCE, "vmm": "cpuid"},
    )


class _Observed:
    """The lines by kind; their words by name, as numbers or as text."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def all(self, kind: str) -> Iterable[Mapping[str, int]]:
        names = [word.name for word in BY_NAME[kind].words]
        for words in self._lines.get(kind, ()):
            yield {name: int(word, 16) for name, word in zip(names, words, strict=True)}

    def one(self, kind: str) -> Mapping[str, int] | None:
        return next(iter(self.all(kind)), None)

    def of(self, kind: str, segment: str) -> Mapping[str, int] | None:
        """The line of that kind for a segment."""
        names = [word.name for word in BY_NAME[kind].words]
        for words in self._lines.get(kind, ()):
            if words[0] == segment:
                return {name: int(word, 16) for name, word in zip(names[1:], words[1:], strict=True)}
        return None

    def texts(self, kind: str) -> Iterable[tuple[str, ...]]:
        return self._lines.get(kind, ())

    def truth(self, name: str) -> bool | None:
        tests = self.one("tests")
        return None if tests is None else bool(tests[name])


def _kernel(observed: _Observed, entry: int) -> Kernel:
    loads = tuple(LoadRange(load["start"], load["size"]) for load in observed.all("load"))
    return Kernel(entry=entry, loads=loads, source=SOURCE)


def _registers(observed: _Observed) -> Registers:
    values: dict[str, int] = {}
    general = observed.one("general") or {}
    for name in GENERAL:
        if name in general:
            values[name if name == "eflags" else f"r{name[1:]}"] = general[name]
    control = observed.one("control") or {}
    values |= {name: control[name] for name in CONTROL if name in control}
    for msr in observed.all("msr"):
        if msr["number"] in MSRS:
            values.setdefault(MSRS[msr["number"]], msr["high"] << 32 | msr["low"])
    for name in SEGMENTS[:6]:
        line = observed.of("segment", name)
        if line is not None:
            values[name] = line["selector"] & 0xFFFF
    return Registers(values, _MISSING)


# --- hidden segment state -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """The content of the loader's descriptor table for a selector."""

    rights: int | None
    limit: int | None
    base: int | None

    def __str__(self) -> str:
        parts = [("base", self.base), ("limit", self.limit), ("rights", self.rights)]
        words = ", ".join(f"{name} {value:#x}" for name, value in parts if value is not None)
        return f"; the loader's descriptor table says {words}" if words else ""


def _segments(observed: _Observed, registers: Registers, memory: Memory) -> Segments:
    tables = {}
    for name in ("gdt", "idt"):
        line = observed.one(name)
        tables[name] = None if line is None else DescriptorTable(line["base"], line["limit"])
    by_name = {}
    for name in SEGMENTS:
        segment = _segment(observed, registers, name, tables["gdt"], memory)
        if segment is not None:
            by_name[name] = segment
    return Segments(by_name, tables["gdt"], tables["idt"], "its line is missing in the probe's log")


def _segment(observed: _Observed, registers: Registers, name: str, gdt: DescriptorTable | None, memory: Memory) -> Segment | None:
    hidden = observed.of("hidden", name)
    if hidden is not None:
        return _as_cached(hidden)
    line = observed.of("segment", name)
    if line is None:
        return None
    selector = line["selector"] & 0xFFFF
    table = _table(observed, name, selector, gdt, memory)
    if name in ("ldt", "tr"):
        return Segment(selector, missing=f"{name}: a guest cannot see the CPU's descriptor cache{table}")
    tests = line["tests"]
    base = _proven_base(observed, registers, name, tests)
    if not observed.truth("limits"):
        missing = f"{name}: this CPU does not check segment limits, so that a guest cannot find out what it has cached{table}"
        return Segment(selector, base, missing=missing)
    if not tests & TEST_READ:
        return Segment(selector, base, missing=f"{name}: the segment does not allow reads{table}")
    limit = _proven_limit(tests, line["last"])
    flags = table.rights if _behaves(name, tests, table.rights) else None
    return Segment(selector, base, limit, flags, f"{name}: the probe's accesses did not show it{table}")


def _as_cached(hidden: Mapping[str, int]) -> Segment:
    """The segment as the CPU reports it."""
    rights = (hidden["attributes"] & 0xFF) << 8 | (hidden["attributes"] & 0xF00) << 12
    return Segment(hidden["selector"] & 0xFFFF, hidden["base_high"] << 32 | hidden["base_low"], hidden["limit"], rights)


def _proven_base(observed: _Observed, registers: Registers, name: str, tests: int) -> int | None:
    if name in ("fs", "gs") and registers.get(f"{name}_base") is not None:
        return registers[f"{name}_base"]  # the MSR is the cache
    same = tests & TEST_READ and tests & TEST_SAME and observed.truth("ds_at_0")
    return 0 if same else None


def _proven_limit(tests: int, last: int) -> int | None:
    if tests & TEST_ZERO and tests & TEST_TOP:
        return FLAT_LIMIT
    return last if tests & TEST_ZERO and tests & TEST_LAST else None


def _behaves(name: str, tests: int, rights: int | None) -> bool:
    """Whether the segment allowed the accesses that these rights of the table allow."""
    if rights is None or not rights >> 15 & 1 or not rights >> 12 & 1:
        return False
    kind = rights >> 8 & 15
    if name == "cs":
        return bool(kind & TYPE_CODE and kind & TYPE_READABLE)
    return not kind & TYPE_CODE and bool(kind & TYPE_WRITABLE) == bool(tests & TEST_WRITE)


def _table(observed: _Observed, name: str, selector: int, gdt: DescriptorTable | None, memory: Memory) -> _Table:
    raw = _descriptor(selector, gdt, memory)
    rights: int | None = None
    limit: int | None = None
    base: int | None = None
    if raw is not None:
        base = raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000
        rights = raw >> 32 & _RIGHTS
        pages_or_bytes = raw & 0xFFFF | raw >> 32 & 0xF0000
        limit = pages_or_bytes << 12 | 0xFFF if raw >> 55 & 1 else pages_or_bytes
    line = observed.of("table", name)
    if line is not None:  # the CPU's own reading of it
        rights = line["rights"] & _RIGHTS if line["found"] & FOUND_RIGHTS else rights
        limit = line["limit"] if line["found"] & FOUND_LIMIT else limit
    return _Table(rights, limit, base)


def _descriptor(selector: int, gdt: DescriptorTable | None, memory: Memory) -> int | None:
    offset = selector & 0xFFF8
    if gdt is None or not offset or selector & 4 or offset + 7 > gdt.limit:
        return None
    try:
        return int.from_bytes(memory.read(gdt.base + offset, 8), "little")
    except (NeedMemory, Unavailable):
        return None


# --- memory, and the VMM -------------------------------------------------------------------------------------------


def _memory(observed: _Observed) -> Memory:
    pieces = [MemoryPiece(int(address, 16), bytes.fromhex(data)) for address, data in observed.texts("mem")]
    holes = []
    for high, low, size, reason in observed.texts("gap"):
        words = GAPS.get(reason, f"the probe says {reason!r}")
        holes.append(MemoryHole(int(high, 16) << 32 | int(low, 16), int(size, 16), words, looked=reason == "void"))
    return Memory(pieces, holes)


def _vmm(observed: _Observed) -> Vmm:
    """The hypervisor that cpuid names. KVM is the accelerator of many VMMs and names none of them."""
    leaves: dict[int, Mapping[str, int]] = {}
    for line in observed.all("cpuid"):
        leaves.setdefault(line["leaf"], line)
    if 1 not in leaves or not leaves[1]["ecx"] >> _HYPERVISOR_PRESENT & 1:
        return Vmm()
    for leaf in _HYPERVISOR_LEAVES:
        words = leaves.get(leaf)
        if words is None:
            continue
        signature = b"".join(words[name].to_bytes(4, "little") for name in ("ebx", "ecx", "edx"))
        if signature == _TCG:
            return Vmm("QEMU", None, "tcg")
        if signature == _KVM:
            return Vmm(None, None, "kvm")
        if signature == _XEN:
            version = leaves.get(leaf + 1)
            return Vmm("Xen", f"{version['eax'] >> 16}.{version['eax'] & 0xFFFF}" if version else None)
    return Vmm()
