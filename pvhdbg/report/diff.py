"""Compare two machines at their entry: what differs, and whether it matters, is left free by the ABI, or was not observed.

VMM and kernel are named, not compared: they are not part of the hand-off. Pointers are compared by what they point to. Memory
maps are compared by the type of each address, not by their entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, Module, StartInfo, Text, Unread
from pvhdbg.decode.text import printable, shorten
from pvhdbg.model import Registers
from pvhdbg.report.document import Report
from pvhdbg.report.findings import CONFORMS, UNDECIDED, VIOLATED, WORDS, count
from pvhdbg.report.sizes import human
from pvhdbg.rules.declare import Outcome, Severity, Verdict
from pvhdbg.spec import unspecified
from pvhdbg.spec.revisions import DRAFT_A
from pvhdbg.spec.start_info import MEMORY_TYPES, MemoryMapEntry, flag_names
from pvhdbg.spec.x86 import REGISTER_BITS, bit_names

ABSENT = "absent"
_RANGES = 128  # differing ranges of the memory map that are listed
_LINE = 200  # characters of a string


class Weight(Enum):
    """How much a difference matters."""

    MATTERS = "matters"
    FREE = "free"  # the ABI leaves it to the VMM
    UNSEEN = "unseen"  # one side was not observed


@dataclass(frozen=True)
class Difference:
    """One difference: its part and place, both values as safe text, its weight and the reason for the weight."""

    part: str
    at: str
    a: str
    b: str
    weight: Weight
    why: str = ""


def _differ(part: str, at: str, sides: Sequence[str], weight: Weight, why: str = "") -> Difference:
    one, two = sides
    return Difference(part, at, one, two, weight, why)


@dataclass(frozen=True)
class Comparison:
    """The answer of `pvhdbg diff`. `names` are the subjects as the user wrote them."""

    names: tuple[str, str]
    a: Report
    b: Report
    differences: tuple[Difference, ...]
    strict: bool = False

    def of(self, weight: Weight) -> list[Difference]:
        """The differences of that weight, in order."""
        return [one for one in self.differences if one.weight is weight]

    @property
    def exit_code(self) -> int:
        """0: nothing that matters differs; 1: something does; 4: under --strict, something was not observed on one side."""
        if self.of(Weight.MATTERS):
            return VIOLATED
        return UNDECIDED if self.strict and self.of(Weight.UNSEEN) else CONFORMS

    @property
    def conclusion(self) -> str:
        """The answer in one sentence."""
        matters, free, unseen = (len(self.of(weight)) for weight in Weight)
        head = f"they differ in {count(matters, 'thing')} that matter" + ("s" if matters == 1 else "")
        parts = [head if matters else "the same where it matters"]
        if free:
            parts.append(f"{count(free, 'difference')} that the ABI leaves free")
        if unseen:
            parts.append(f"{unseen} not seen on one side")
        return "; ".join(parts)


def compare(names: tuple[str, str], a: Report, b: Report, strict: bool = False) -> Comparison:
    """Compare two reports that are judged by the same revision."""
    one, two = a.boot, b.boot
    found = (
        *_protocol(one, two),
        *_registers(one, two),
        *_segments(one, two),
        *_start_info(one, two),
        *_rules(a.verdicts, b.verdicts),
    )
    return Comparison(names, a, b, found, strict)


def _protocol(a: BootState, b: BootState) -> Iterator[Difference]:
    names = [boot.other_protocol.title if boot.other_protocol is not None else "PVH boot ABI" for boot in (a, b)]
    if names[0] != names[1]:
        yield _differ("protocol", "protocol", names, Weight.MATTERS)


# --- the CPU ------------------------------------------------------------------------------------------------------


def _registers(a: BootState, b: BootState) -> Iterator[Difference]:
    names = [name for name in dict.fromkeys((*a.registers, *b.registers)) if name not in ("cs", "ds", "es", "ss", "fs", "gs")]
    for name in names:
        one, two = a.registers.get(name), b.registers.get(name)
        if one == two:
            continue
        shown = _register(name, a.registers), _register(name, b.registers)
        bound = unspecified.REGISTERS.get(name, 0)
        if one is None or two is None:
            yield _differ("registers", name, shown, Weight.UNSEEN if bound else Weight.FREE, "" if bound else unspecified.FREE_REST)
        elif name == "rip":
            yield _entry(a, b, shown)
        elif (one ^ two) & bound:
            yield _differ("registers", name, shown, Weight.MATTERS)
        else:
            why = unspecified.FREE_POINTER if name == "rbx" else unspecified.FREE_REST
            yield _differ("registers", name, shown, Weight.FREE, why)


def _entry(a: BootState, b: BootState, shown: tuple[str, str]) -> Difference:
    """The difference of the entry: free if each machine is at the entry of its own kernel's note."""
    noted = [boot.snapshot.kernel.entry if boot.snapshot.kernel else None for boot in (a, b)]
    at_note = [entry is not None and boot.registers.get("rip") == entry for entry, boot in zip(noted, (a, b), strict=True)]
    if all(at_note):
        return _differ("registers", "rip", shown, Weight.FREE, "each is the entry in its own kernel's note")
    return _differ("registers", "rip", shown, Weight.MATTERS)


def _register(name: str, registers: Registers) -> str:
    value = registers.get(name)
    if value is None:
        return "not observed"
    bits = " ".join(bit_names(name, value)) if name in REGISTER_BITS else ""
    return f"{value:#x}" + (f" ({bits})" if bits else "")


def _segments(a: BootState, b: BootState) -> Iterator[Difference]:
    for name in ("cs", "ds", "es", "ss", "fs", "gs", "tr", "ldt"):
        bound = unspecified.bound_flags(name, a.revision)
        one, two = a.segments[name], b.segments[name]
        pairs = (("base", one.base, two.base, -1), ("limit", one.limit, two.limit, -1), ("flags", one.flags, two.flags, bound))
        selectors = [boot.registers.get(name) if seg.selector is None else seg.selector for boot, seg in ((a, one), (b, two))]
        if None not in selectors and selectors[0] != selectors[1]:
            yield _differ("segments", f"{name} selector", [_hex(one) for one in selectors], Weight.FREE, unspecified.FREE_SELECTOR)
        for part, left, right, mask in pairs:
            if left != right:
                yield _attribute(f"{name}.{part}", left, right, mask if bound else 0)
    for name, table, other in (("gdt", a.segments.gdt, b.segments.gdt), ("idt", a.segments.idt, b.segments.idt)):
        if table != other:
            shown = [ABSENT if one is None else f"{one.base:#x}, limit {one.limit:#x}" for one in (table, other)]
            yield _differ("segments", name, shown, Weight.FREE, unspecified.FREE_TABLE)
    gates = a.snapshot.a20, b.snapshot.a20
    if gates[0] != gates[1]:
        shown = [{None: "not observed", True: "enabled", False: "disabled"}[gate] for gate in gates]
        bound_gate = a.revision is DRAFT_A or False in gates  # with a disabled gate every odd megabyte is an alias
        weight = Weight.FREE if not bound_gate else Weight.UNSEEN if None in gates else Weight.MATTERS
        yield _differ("segments", "A20 gate", shown, weight, "" if bound_gate else unspecified.FREE_REST)


def _attribute(at: str, one: int | None, two: int | None, mask: int) -> Difference:
    if one is None or two is None:
        weight = Weight.UNSEEN if mask else Weight.FREE
    else:
        weight = Weight.MATTERS if (one ^ two) & mask else Weight.FREE
    return Difference("segments", at, _hex(one), _hex(two), weight, unspecified.FREE_REST if weight is Weight.FREE else "")


def _hex(value: int | None) -> str:
    return "not observed" if value is None else f"{value:#x}"


# --- start_info ---------------------------------------------------------------------------------------------------


def _start_info(a: BootState, b: BootState) -> Iterator[Difference]:
    parts = a.start_info_part, b.start_info_part
    if isinstance(parts[0], StartInfo) and isinstance(parts[1], StartInfo):
        yield from _structures(parts[0], parts[1])
    elif isinstance(parts[0], StartInfo) or isinstance(parts[1], StartInfo):
        shown = [printable(part.reason) if isinstance(part, Unread) else f"at {part.address:#x}" for part in parts]
        yield _differ("start_info", "start_info", shown, Weight.MATTERS)


def _structures(a: StartInfo, b: StartInfo) -> Iterator[Difference]:
    numbers = (
        ("version", str(a.raw.version), str(b.raw.version)),
        ("flags", _flags(a), _flags(b)),
        ("reserved", _hex(a.v1.reserved if a.v1 else 0), _hex(b.v1.reserved if b.v1 else 0)),
        ("nr_modules", str(a.raw.nr_modules), str(b.raw.nr_modules)),
    )
    for at, one, two in numbers:
        if one != two:
            yield Difference("start_info", at, one, two, Weight.MATTERS)
    yield from _texts("command line", a.command_line, b.command_line)
    yield from _pointers(a, b)
    yield from _modules(a, b)
    yield from _rsdps(a.rsdp, b.rsdp)
    yield from _memory_maps(a, b)


def _flags(info: StartInfo) -> str:
    return " ".join([f"{info.raw.flags:#x}", *flag_names(info.raw.flags)])


def _pointers(a: StartInfo, b: StartInfo) -> Iterator[Difference]:
    names = ("cmdline_paddr", "modlist_paddr", "rsdp_paddr")
    pairs = [(name, getattr(a.raw, name), getattr(b.raw, name)) for name in names]
    pairs.append(("memmap_paddr", a.v1.memmap_paddr if a.v1 else 0, b.v1.memmap_paddr if b.v1 else 0))
    for name, one, two in pairs:
        if one and two and one != two:
            yield Difference("start_info", name, _hex(one), _hex(two), Weight.FREE, unspecified.FREE_POINTER)


def _texts(at: str, a: Text | Unread | None, b: Text | Unread | None) -> Iterator[Difference]:
    """Compare two strings. To a guest an absent string and an empty one are the same."""
    datas = [b"" if one is None else one.data if isinstance(one, Text) else None for one in (a, b)]
    if datas[0] == datas[1] and None not in datas:
        return
    # Show the strings from their first difference on: they may have thousands of characters.
    start = max(common(datas[0] or b"", datas[1] or b"") - 20, 0)
    shown = [_shown(one, start) for one in (a, b)]
    if shown[0] != shown[1]:
        yield _differ("start_info", at, shown, Weight.MATTERS if None not in datas else Weight.UNSEEN)


def common(a: Sequence[object], b: Sequence[object]) -> int:
    """The length of the common beginning of two sequences."""
    return next((at for at, (one, two) in enumerate(zip(a, b, strict=False)) if one != two), min(len(a), len(b)))


def _shown(text: Text | Unread | None, start: int) -> str:
    if text is None:
        return ABSENT
    if isinstance(text, Unread):
        return f"not seen: {printable(text.reason)}"
    return ("…" if start else "") + f"“{shorten(printable(text.data[start : start + 2 * _LINE]), _LINE)}”"


def _modules(a: StartInfo, b: StartInfo) -> Iterator[Difference]:
    if isinstance(a.modules, Unread) or isinstance(b.modules, Unread):
        if a.modules != b.modules:
            shown = [
                printable(one.reason) if isinstance(one, Unread) else count(len(one), "module") for one in (a.modules, b.modules)
            ]
            yield _differ("start_info", "modules", shown, Weight.UNSEEN)
        return
    for index, (one, two) in enumerate(zip(a.modules, b.modules, strict=False)):
        yield from _module(f"module {index}", one, two)


def _module(at: str, a: Module, b: Module) -> Iterator[Difference]:
    if a.entry.paddr != b.entry.paddr:
        yield Difference(
            "start_info", f"{at} paddr", _hex(a.entry.paddr), _hex(b.entry.paddr), Weight.FREE, unspecified.FREE_POINTER
        )
    pairs = (
        ("size", _hex(a.entry.size), _hex(b.entry.size)),
        ("kind", a.kind, b.kind),
        ("reserved", _hex(a.entry.reserved), _hex(b.entry.reserved)),
    )
    for name, one, two in pairs:
        if one != two:
            yield Difference("start_info", f"{at} {name}", one, two, Weight.MATTERS)
    yield from _texts(f"{at} command line", a.command_line, b.command_line)


def _rsdps(a: acpi.Rsdp | Unread | None, b: acpi.Rsdp | Unread | None) -> Iterator[Difference]:
    one, two = _rsdp(a), _rsdp(b)
    if one != two:
        unseen = isinstance(a, Unread) or isinstance(b, Unread)
        yield Difference("start_info", "RSDP", one, two, Weight.UNSEEN if unseen else Weight.MATTERS)


def _rsdp(rsdp: acpi.Rsdp | Unread | None) -> str:
    if rsdp is None:
        return ABSENT
    if isinstance(rsdp, Unread):
        return f"not seen: {printable(rsdp.reason)}"
    if rsdp.head.signature != acpi.RSDP_SIGNATURE:
        return "not an RSDP"
    return f"revision {rsdp.revision}"  # its addresses and its OEM depend on the firmware


# --- the memory map -----------------------------------------------------------------------------------------------


def _memory_maps(a: StartInfo, b: StartInfo) -> Iterator[Difference]:
    maps = a.memory_map, b.memory_map
    if isinstance(maps[0], Unread) or isinstance(maps[1], Unread) or maps[0] is None or maps[1] is None:
        shown = [ABSENT if one is None else printable(one.reason) if isinstance(one, Unread) else "present" for one in maps]
        if shown[0] != shown[1]:
            unseen = isinstance(maps[0], Unread) or isinstance(maps[1], Unread)
            yield _differ("memory map", "memory map", shown, Weight.UNSEEN if unseen else Weight.MATTERS)
        return
    ranges = list(interval_difference(maps[0], maps[1]))
    for start, end, one, two in ranges[:_RANGES]:
        free = {*one, *two} <= {2}
        why = "reserved or not listed: no usable memory in both" if free else ""
        at = f"{start:#x} - {end:#x} ({human(end - start)})"
        yield Difference("memory map", at, _types(one), _types(two), Weight.FREE if free else Weight.MATTERS, why)
    if len(ranges) > _RANGES:
        at = f"{len(ranges) - _RANGES} more ranges"
        yield Difference("memory map", at, "…", "…", Weight.MATTERS)


Types = tuple[int, ...]


def interval_difference(a: Iterable[MemoryMapEntry], b: Iterable[MemoryMapEntry]) -> Iterator[tuple[int, int, Types, Types]]:
    """The ranges (start, end exclusive) whose types differ, with the types on both sides; equal neighbours are merged.

    A range has several types if entries overlap, and no type if no entry covers it.
    """
    left, right = _steps(a), _steps(b)
    edges = sorted({*left, *right})
    one: Types = ()
    two: Types = ()
    pending: tuple[int, int, Types, Types] | None = None
    for edge, following in pairwise(edges):
        one, two = left.get(edge, one), right.get(edge, two)
        if one == two:
            continue
        if pending is not None and pending[1:] == (edge, one, two):
            pending = pending[0], following, one, two
        else:
            if pending is not None:
                yield pending
            pending = edge, following, one, two
    if pending is not None:
        yield pending


def _steps(entries: Iterable[MemoryMapEntry]) -> dict[int, Types]:
    """The types that apply from each address at which they change."""
    changes: dict[int, list[tuple[int, int]]] = {}
    for entry in entries:
        if entry.size:
            changes.setdefault(entry.addr, []).append((entry.type, 1))
            changes.setdefault(entry.addr + entry.size, []).append((entry.type, -1))
    here: dict[int, int] = {}
    steps: dict[int, Types] = {}
    for address in sorted(changes):
        for kind, by in changes[address]:
            here[kind] = here.get(kind, 0) + by
        steps[address] = tuple(sorted(kind for kind, number in here.items() if number))
    return steps


def _types(types: Sequence[int]) -> str:
    return " and ".join(MEMORY_TYPES.get(kind, f"type {kind}") for kind in types) or "not in the map"


# --- the rules ----------------------------------------------------------------------------------------------------


def _rules(a: Sequence[Verdict], b: Sequence[Verdict]) -> Iterator[Difference]:
    """Rules that judged both sides with different outcomes."""
    others = {verdict.rule.id: verdict for verdict in b}
    for one in a:
        two = others.get(one.rule.id)
        outcomes = {one.outcome} if two is None else {one.outcome, two.outcome}
        if two is None or len(outcomes) == 1 or outcomes == {Outcome.PASS, Outcome.NOT_APPLICABLE}:
            continue
        why: str
        if Outcome.UNKNOWN in outcomes:
            weight, why = Weight.UNSEEN, printable(one.reason or two.reason)
        elif outcomes <= {Outcome.PASS, Outcome.REMARK, Outcome.NOT_APPLICABLE} or {one.severity, two.severity} == {Severity.INFO}:
            weight, why = Weight.FREE, "neither violates it"
        else:
            weight, why = Weight.MATTERS, one.rule.title
        yield Difference("rules", one.rule.id, WORDS[one.outcome], WORDS[two.outcome], weight, why)
