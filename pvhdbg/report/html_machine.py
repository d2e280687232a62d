"""The machine's part of the HTML report: registers as bit fields, segments, start_info and what it points to, memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, DraftAInfo, Module, StartInfo, Text, Unread
from pvhdbg.decode.text import printable, shorten
from pvhdbg.layout import Structure
from pvhdbg.model import DescriptorTable, Segment
from pvhdbg.report import machine, memory_svg
from pvhdbg.report.document import is_64_bit, register_names
from pvhdbg.report.markup import Markup, join, tag
from pvhdbg.report.memory_picture import parts
from pvhdbg.report.sizes import human
from pvhdbg.spec.start_info import MEMORY_TYPES, MemoryMapEntry, flag_names
from pvhdbg.spec.x86 import REGISTER_BITS

_LINE = 8192  # characters of a guest's string that the report shows
_ROWS = 256  # of a memory map
_PLAIN = ("cr2", "cr3", "cr8", "fs_base", "gs_base")
_SEGMENTS = ("cs", "ds", "es", "ss", "fs", "gs", "tr", "ldt")


def _table(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> Markup:
    titles = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", titles, body), class_="wide")


def _number(value: int | None, digits: int = 8) -> Markup:
    return tag("span", "not observed", class_="dim") if value is None else tag("code", f"{value:0{digits}x}")


# --- registers ----------------------------------------------------------------------------------------------------


def registers(boot: BootState) -> Markup:
    """The general registers in a grid, the system registers bit by bit."""
    digits = 16 if is_64_bit(boot) else 8
    cells = [tag("div", tag("b", name), _number(boot.registers.get(name), digits)) for name in register_names(boot)]
    fields = [_bit_field(name, boot.registers.get(name)) for name in REGISTER_BITS]
    plain = [tag("div", tag("b", name), _number(boot.registers.get(name), digits)) for name in _PLAIN if name in boot.registers]
    missing = any(boot.registers.get(name) is None for name in REGISTER_BITS)
    return join(
        tag("div", *cells, *plain, class_="registers"),
        *fields,
        tag("p", f"Not observed: {boot.registers.missing}", class_="dim") if missing else None,
    )


def _bit_field(register: str, value: int | None) -> Markup:
    if value is None:
        return tag("div", tag("b", register), _number(None), class_="field")
    names = {bit: name for name, bit in REGISTER_BITS[register].items()}
    bits = [_bit(bit, names.get(bit, ""), bool(value >> bit & 1)) for bit in reversed(range(max(32, value.bit_length())))]
    return tag("div", tag("b", register), _number(value), tag("div", *bits, class_="bits"), class_="field")


def _bit(bit: int, name: str, on: bool) -> Markup:
    kind = " ".join(["bit", *(["on"] if on else []), *(["named"] if name else [])])
    told = f"bit {bit}{f', {name}' if name else ''}: {int(on)}"
    return tag("span", tag("i", str(bit)), tag("b", str(int(on))), tag("em", name), class_=kind, title=told)


# --- segments -----------------------------------------------------------------------------------------------------


def segments(boot: BootState) -> Markup:
    """A row for each segment register with its attributes bit by bit, then the tables."""
    if not boot.segments.by_name:
        return tag("p", f"Not observed: {boot.segments.missing}", class_="dim")
    rows = [_segment(name, boot.segments[name]) for name in _SEGMENTS]
    tables = [_descriptor_table(name, table) for name, table in (("gdt", boot.segments.gdt), ("idt", boot.segments.idt))]
    gate = None if boot.snapshot.a20 is None else tag("p", f"A20 gate {'enabled' if boot.snapshot.a20 else 'disabled'}")
    return join(_table(("", "selector", "base", "limit", "flags", "attributes", "meaning"), [*rows, *tables]), gate)


def _segment(name: str, one: Segment) -> list[str]:
    numbers = [_number(one.selector, 4), _number(one.base), _number(one.limit), _number(one.flags)]
    return [tag("b", name), *numbers, _attributes(one), machine.segment_meaning(one)]


def _attributes(one: Segment) -> Markup:
    if one.flags is None:
        return Markup("")
    bits = [("P", one.present), ("S", one.s), ("G", one.granularity), ("D/B", one.db), ("L", one.long), ("AVL", one.avl)]
    chips = [tag("span", name, class_="attribute on" if bit else "attribute", title=f"{name} = {bit}") for name, bit in bits]
    numbers = [tag("span", text, class_="attribute on") for text in (f"DPL {one.dpl}", f"type {one.type:x}")]
    return tag("span", *chips, *numbers, class_="attributes")


def _descriptor_table(name: str, table: DescriptorTable | None) -> list[str]:
    if table is None:
        return [tag("b", name), "", _number(None), "", "", "", ""]
    return [tag("b", name), "", _number(table.base), _number(table.limit), "", "", ""]


# --- start_info ---------------------------------------------------------------------------------------------------


def start_info(boot: BootState) -> Markup:
    """The structure field by field, and the target of each pointer."""
    if not isinstance(boot.start_info_part, Unread):
        return _start_info(boot.start_info)
    if not isinstance(boot.draft_a_part, Unread):
        return _draft_a(boot.draft_a)
    return tag("p", boot.start_info_part.reason, class_="dim")


def _start_info(info: StartInfo) -> Markup:
    meanings = {
        "flags": " ".join(flag_names(info.raw.flags)),
        "cmdline_paddr": _string(info.command_line),
        "rsdp_paddr": _rsdp(info),
    }
    return join(
        tag("p", "at ", tag("code", f"{info.address:#x}")),
        _fields(info.raw, meanings),
        _modules(info),
        _memory_map(info),
    )


def _draft_a(draft: DraftAInfo) -> Markup:
    raw = draft.raw
    rows = {"magic": _quoted(raw.magic.split(b"\0", 1)[0]), "cmd_line": _quoted(raw.cmd_line.split(b"\0", 1)[0])}
    head = tag("p", f"Draft A of 2015, {draft.width}-bit layout, at ", tag("code", f"{draft.address:#x}"))
    return join(head, _fields(raw, {**rows, "mod_start": draft.module_kind}))


def _fields(raw: Structure, meanings: dict[str, str]) -> Markup:
    rows = []
    for field in raw.fields():
        value = getattr(raw, field.name)
        number = tag("code", f"{value:#x}") if isinstance(value, int) else None
        doc = tag("small", field.doc, class_="dim")
        rows.append([f"+{field.offset}", tag("b", field.name), number, join(meanings.get(field.name), " ", doc)])
    return _table(("", "field", "value", ""), rows)


def _quoted(data: bytes) -> Markup:
    return tag("q", shorten(printable(data[: 2 * _LINE]), _LINE))


def _string(text: Text | Unread | None) -> str:
    if text is None:
        return ""
    if isinstance(text, Unread):
        return text.reason
    return join(_quoted(text.data), None if text.terminated else " (no NUL found)")


def _rsdp(info: StartInfo) -> str:
    rsdp = info.rsdp
    if rsdp is None:
        return ""
    if isinstance(rsdp, Unread):
        return rsdp.reason
    if rsdp.head.signature != acpi.RSDP_SIGNATURE:
        return f"not an RSDP: {printable(rsdp.head.signature)}"
    tables = () if isinstance(info.root_tables, Unread) else info.root_tables
    told = [f"revision {rsdp.revision}, OEM “{printable(rsdp.head.oem_id)}”"]
    for table in tables:
        state = f"{len(table.entries)} tables" if table.sound else printable(table.problem)
        told.append(f"{table.expected.decode('ascii')} at {table.address:#x}: {state}")
    return "; ".join(told)


def _modules(info: StartInfo) -> Markup | None:
    if isinstance(info.modules, Unread):
        return tag("p", info.modules.reason, class_="dim")
    if not info.modules:
        return None
    rows = [_module(index, module) for index, module in enumerate(info.modules)]
    more = info.raw.nr_modules - len(info.modules)
    note = tag("p", f"{more} more were not read", class_="dim") if more > 0 else None
    return join(tag("h3", "Modules"), _table(("", "address", "size", "kind", "command line", "reserved"), rows), note)


def _module(index: int, module: Module) -> list[str]:
    entry = module.entry
    address, reserved = tag("code", f"{entry.paddr:#x}"), tag("code", f"{entry.reserved:#x}")
    return [str(index), address, human(entry.size), module.kind, _string(module.command_line), reserved]


def _memory_map(info: StartInfo) -> Markup | None:
    if info.memory_map is None or info.v1 is None:
        return None
    if isinstance(info.memory_map, Unread):
        return tag("p", info.memory_map.reason, class_="dim")
    rows = [_range(entry) for entry in islice(info.memory_map, _ROWS)]
    more = info.v1.memmap_entries - len(rows)
    note = tag("p", f"{more} more are not shown", class_="dim") if more > 0 else None
    return join(tag("h3", "Memory map"), _table(("from", "to", "size", "type"), rows), note)


def _range(entry: MemoryMapEntry) -> list[str]:
    kind = MEMORY_TYPES.get(entry.type, f"type {entry.type:#x}")
    end = tag("code", f"{entry.addr + entry.size:#x}")
    return [tag("code", f"{entry.addr:#x}"), end, human(entry.size), kind]


# --- memory -------------------------------------------------------------------------------------------------------


def memory(boot: BootState) -> Markup | None:
    """The physical address space as a picture: the hand-off's memory map, or else the machine's own memory layout."""
    info = None if isinstance(boot.start_info_part, Unread) else boot.start_info
    things = [] if info is None else [part for part in parts(boot, info) if part.name != "kernel"]
    things += memory_svg.kernel_parts(boot.snapshot.kernel)
    if info is not None and info.memory_map is not None and not isinstance(info.memory_map, Unread):
        bands = [memory_svg.Band(one.addr, one.addr + one.size, *memory_svg.kind_of(one.type)) for one in info.memory_map]
        return memory_svg.render(bands, things)
    if boot.snapshot.backing:
        bands = [
            memory_svg.Band(one.start, one.end, one.kind.value, memory_svg.CLASSES.get(one.kind, "other"))
            for one in boot.snapshot.backing
        ]
        return join(
            tag("p", "The machine's own memory layout; the hand-off has no map.", class_="dim"), memory_svg.render(bands, things)
        )
    return None
