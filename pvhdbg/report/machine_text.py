"""One part of a machine as text: descriptor tables, the CPU's mode, a page walk, memory, and single parts of start_info.

Each function returns lines. `name` gives the symbol of an address, or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import StartInfo, Text, Unread
from pvhdbg.decode.cpu_mode import CpuMode
from pvhdbg.decode.descriptors import VECTORS, Descriptor, Gate, TaskState
from pvhdbg.decode.page_map import PageMap
from pvhdbg.decode.paging import PAE, Level, Walk
from pvhdbg.decode.text import printable
from pvhdbg.report.answers.memory import ShownNote
from pvhdbg.report.findings import count
from pvhdbg.report.sizes import human
from pvhdbg.tracing.symbol_text import SafeName


def _named(name: SafeName, address: int) -> str:
    found = name(address)
    return f" <{printable(found)}>" if found else ""


# --- the CPU ------------------------------------------------------------------------------------------------------


def mode(found: CpuMode) -> list[str]:
    """The mode in one line, and the bits that decide it."""
    code = "" if found.code is None else f", {found.code}-bit code"
    privilege = "" if found.privilege is None else f", CPL {found.privilege}"
    lines = [f"{found.name}, {printable(found.paging)}{code}{privilege}"]
    for fact in found.evidence:
        value = "not observed" if fact.value is None else f"= {fact.value}   {fact.meaning}"
        lines.append(f"  {fact.name:<9} {value}")
    return lines


def descriptor_table(title: str, entries: Iterable[Descriptor], users: Mapping[int, str]) -> list[str]:
    """A GDT or LDT; `users` names the registers that hold a selector."""
    lines = [title]
    rows = []
    for one in entries:
        who = f"  <- {users[one.selector]}" if one.selector in users else ""
        raw = f"{one.raw:0{2 * one.size}x}"
        state = "" if one.present else ", not present"
        rows.append(
            f"  {one.selector:04x}  {one.base:0{16 if one.size == 16 else 8}x}  {one.limit:08x}  dpl {one.dpl}  {raw}"
            f"  {one.meaning}{state}{who}"
        )
    if rows:
        lines.append("  sel   base      limit     dpl    raw               meaning")
    return lines + (rows or ["  only null entries"])


def vector_table(title: str, entries: Iterable[Gate], name: SafeName) -> list[str]:
    """An IDT, or the real-mode vector table."""
    lines = [title]
    for one in entries:
        known = VECTORS[one.vector] if one.vector < len(VECTORS) else ""
        extra = "" if one.type is None else f"  dpl {one.dpl}" + (f"  ist {one.ist}" if one.ist else "")
        state = "" if one.present else ", not present"
        where = _named(name, one.offset if one.type is not None else (one.selector << 4) + one.offset)
        lines.append(f"  {one.vector:3d} {known:<4} {one.selector:04x}:{one.offset:08x}{extra}  {one.meaning}{state}{where}")
    return lines if len(lines) > 1 else [title, "  only empty entries"]


def task_state(title: str, state: TaskState, name: SafeName) -> list[str]:
    """A TSS, with the symbols of its code and stacks."""
    lines = [title]
    for field, value in state.values.items():
        digits = 4 if field in ("link", "iomap", "ldt", "trap") or len(field) == 2 or field[:2] == "ss" else state.width // 4
        lines.append(f"  {field:<7} {value:0{digits}x}{_named(name, value) if value > 0xFFFF else ''}")
    if state.missing:
        lines.append(f"  beyond the limit, or not readable: {' '.join(state.missing)}")
    return lines


# --- memory -------------------------------------------------------------------------------------------------------


def walk(found: Walk, name: SafeName) -> list[str]:
    """Every level of a page walk, and its result."""
    if found.scheme is None:
        return [f"paging is off: linear {found.linear:#x} is physical {found.linear:#x}"]
    head = f"linear {found.linear:#x}{_named(name, found.linear)}, {found.scheme.name}"
    bare = found.scheme is PAE  # its PDPT entries hold no access rights
    lines = [head, *(_level(one, bare and not place) for place, one in enumerate(found.levels))]
    if found.physical is None:
        return [*lines, f"  not mapped: {found.problem}"]
    return [*lines, f"  physical {found.physical:#x}, in a page of {human(found.page_size)}; {_rights(found.levels[bare:])}"]


MOST_RANGES = 4096


def page_map(found: PageMap, name: SafeName) -> list[str]:
    """A line for each range of linear addresses: its size, its rights, where it leads to, and the symbol at its start."""
    if found.scheme is None:
        return ["paging is off: linear addresses are physical ones"]
    lines = [f"{found.scheme.name}, {count(len(found.ranges), 'range')}"]
    for one in found.ranges[:MOST_RANGES]:
        rights = f"r{'w' if one.rights.writable else '-'}{'x' if one.rights.executable else '-'}"
        to = "many physical ranges" if one.physical is None else f"physical {one.physical:#x}"
        user = "user" if one.rights.user else "supervisor only"
        lines.append(
            f"  {one.start:#018x} - {one.end:#018x}  {human(one.size):>9}  {rights}  {user}, {to}{_named(name, one.start)}"
        )
    if len(found.ranges) > MOST_RANGES:
        lines.append(f"  and {len(found.ranges) - MOST_RANGES} more")
    if found.unread:
        lines.append(f"  {found.unread} tables cannot be read: what they map is not here")
    return [*lines, "  there are more tables than are looked at: this is not all"] if found.cut else lines


def _level(one: Level, bare: bool) -> str:
    place = f"  {one.name:<4} [{one.index:3d}] at {one.address:#x}"
    if one.entry is None:
        return f"{place}  cannot be read"
    if not one.present:
        return f"{place}  {one.entry:#x}  not present"
    target = f"page of {human(one.maps)} at {one.points_to:#x}" if one.maps else f"table at {one.points_to:#x}"
    return f"{place}  {one.entry:#x}  {target}  {'' if bare else one.words()}".rstrip()


def _rights(levels: Iterable[Level]) -> str:
    entries = [one.entry or 0 for one in levels]
    user = "user" if all(entry >> 2 & 1 for entry in entries) else "supervisor only"
    writable = "writable" if all(entry >> 1 & 1 for entry in entries) else "read-only"
    return f"{user}, {writable}, {'no-execute' if any(entry >> 63 & 1 for entry in entries) else 'executable'}"


def memory(address: int, data: bytes, unit: int) -> list[str]:
    """Memory in units of 1, 2, 4 or 8 bytes, 16 bytes to a line, with its printable characters."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        words = [int.from_bytes(row[i : i + unit], "little") for i in range(0, len(row), unit)]
        shown = " ".join(f"{word:0{2 * unit}x}" for word in words)
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:#018x}: {shown:<{16 // unit * (2 * unit + 1) - 1}}  {letters}")
    return lines


# --- start_info's parts -------------------------------------------------------------------------------------------


def modules(start: StartInfo) -> list[str]:
    """The module list, each with its command line in full."""
    lines = [f"{start.raw.nr_modules} modules, list at {start.raw.modlist_paddr:#x}"]
    if isinstance(start.modules, Unread):
        return [*lines, f"  {printable(start.modules.reason)}"]
    for index, one in enumerate(start.modules):
        entry = one.entry
        lines.append(f"  [{index}] {entry.paddr:#x} - {entry.paddr + entry.size:#x}  {human(entry.size)}  {one.kind}")
        if one.command_line is not None:
            lines.append(f"      command line at {entry.cmdline_paddr:#x}: {text(one.command_line)}")
        if entry.reserved:
            lines.append(f"      reserved {entry.reserved:#x}")
    if len(start.modules) < start.raw.nr_modules:
        lines.append(f"  only the first {len(start.modules)} were read")
    return lines


def text(found: Text | Unread | None) -> str:
    """A guest's string in full, on one line."""
    if found is None:
        return "absent"
    if isinstance(found, Unread):
        return printable(found.reason)
    return printable(found.data) + ("" if found.terminated else " (no NUL found)")


@dataclass(frozen=True)
class Table:
    """An ACPI table that the root lists: its header, and whether its bytes sum to zero; `problem` if that is not known."""

    address: int
    header: acpi.TableHeader | None
    sound: bool = False
    problem: str = ""


def rsdp(start: StartInfo, tables: Mapping[int, Table]) -> list[str]:
    """The RSDP, its root tables and the tables that they list, each with the state of its checksum."""
    found = start.rsdp
    if found is None:
        return ["no RSDP: rsdp_paddr is 0"]
    if isinstance(found, Unread):
        return [f"RSDP at {start.raw.rsdp_paddr:#x}: {printable(found.reason)}"]
    if found.head.signature != acpi.RSDP_SIGNATURE:
        return [f"RSDP at {found.address:#x}: not one, its signature is {printable(found.head.signature)}"]
    sums = _sum(acpi.checksum_ok(found.data[: acpi.RSDP_V1_SIZE]))
    extended = "" if found.tail is None else f", extended {_sum(acpi.checksum_ok(found.data[: found.length]))}"
    lines = [
        f"RSDP at {found.address:#x}, revision {found.revision}, OEM “{printable(found.head.oem_id)}”, checksum {sums}{extended}"
    ]
    if isinstance(start.root_tables, Unread):
        return [*lines, f"  {printable(start.root_tables.reason)}"]
    for root in start.root_tables:
        state = f"{len(root.entries)} tables, checksum good" if root.sound else f"WRONG: {printable(root.problem)}"
        lines.append(f"  {root.expected.decode()} at {root.address:#x}  {state}")
        lines += [f"    {_table(tables[entry])}" for entry in root.entries if entry in tables]
    return lines


def _sum(good: bool) -> str:
    return "good" if good else "WRONG"


def _table(one: Table) -> str:
    if one.header is None:
        return f"{one.address:#x}  {printable(one.problem)}"
    head = one.header
    state = f"checksum {_sum(one.sound)}" if not one.problem else printable(one.problem)
    return (
        f"{printable(head.signature)} at {one.address:#x}, {head.length} bytes, revision {head.revision}, "
        f"OEM “{printable(head.oem_id)}”, {state}"
    )


# --- the kernel file ----------------------------------------------------------------------------------------------


def notes(found: Iterable[ShownNote]) -> list[str]:
    """The ELF notes of a kernel; those of a known type have their names."""
    lines = []
    for one in found:
        if one.name is None:
            lines.append(f"  {one.owner:<8} {one.type:#x}  {one.data.hex()}{'…' if one.size > len(one.data) else ''}")
        else:
            lines.append(f"  {one.owner:<8} {one.name:<18} {one.value}")
    return lines or ["  no notes"]
