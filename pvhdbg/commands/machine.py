"""What the commands do that look at one part of a machine: at its entry on the command line, at every stop of a live session."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pvhdbg.commands.declare import Answer, Request
from pvhdbg.errors import BadInput, MemoryUnreadable, PvhdbgError, TargetError
from pvhdbg.machine.subject import session_of
from pvhdbg.model import DescriptorTable, Registers, Segments, Unavailable

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState, StartInfo
    from pvhdbg.machine.session import Session
    from pvhdbg.report.machine_text import Table

T = TypeVar("T")
_MOST_BYTES = 1 << 16  # that xp shows at once
_MOST_LINES = 256  # that disas shows at once
_MOST_NAMES = 64  # that symbols lists
_TABLE_BOUND = 1 << 20  # bytes of one ACPI table that are summed
_TABLES_BOUND = 8 << 20  # bytes of all of them


def _lines(lines: list[str]) -> Answer:
    text = "".join(f"{line}\n" for line in lines)
    return Answer(lambda _: text)


def _seen(value: Callable[[], T]) -> T:
    """What `value` gives; what was not observed as an error for a user."""
    try:
        return value()
    except Unavailable as gap:
        raise TargetError(gap.reason, "use a VMM whose gdbstub has QEMU's monitor, or name what you want by numbers") from None


def _long(registers: Registers) -> bool:
    return bool((registers.get("efer") or 0) >> 10 & 1)


# --- the CPU ------------------------------------------------------------------------------------------------------


def segments(request: Request) -> Answer:
    """`segments`: the hidden segment state alone."""
    from pvhdbg.report import text

    with session_of(request) as session:
        return _lines(text.segments(session.boot()))


def mode(request: Request) -> Answer:
    """`mode`: the CPU's mode, and how it is known."""
    from pvhdbg.decode.cpu_mode import mode_of
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        boot = session.boot()
        return _lines(machine_text.mode(mode_of(boot.registers, boot.segments)))


def gdt(request: Request) -> Answer:
    """`gdt`: the table that GDTR points to, decoded. The loaded segments need not come from it."""
    from pvhdbg.decode.descriptors import descriptors
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        boot = session.boot()
        table = _table(boot.segments, "gdt")
        data = _bytes_at(session, table.base, (table.limit & 0xFFFF) + 1, "the GDT")
        users: dict[int, str] = {}
        for name, one in boot.segments.by_name.items():
            if one.selector is not None and one.selector & ~7 and not one.selector & 4:
                users[one.selector & ~7] = " ".join(filter(None, (users.get(one.selector & ~7), name)))
        return _lines(machine_text.descriptor_table(_title("GDT", table), descriptors(data, _long(boot.registers)), users))


def idt(request: Request) -> Answer:
    """`idt`: the interrupt descriptor table, or in real mode its vectors."""
    from pvhdbg.decode.descriptors import gates, vectors
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        boot = session.boot()
        table = _table(boot.segments, "idt")
        data = _bytes_at(session, table.base, (table.limit & 0xFFFF) + 1, "the IDT")
        real = not _seen(lambda: boot.registers["cr0"]) & 1
        still = not real and (table.base, table.limit) == (0, 0x3FF)
        entries = vectors(data) if real or still else gates(data, _long(boot.registers))
        title = _title("real-mode vectors" if real else "IDT", table)
        title += ": still the real mode's vectors, which are no gates" if still else ""
        return _lines(machine_text.vector_table(title, entries, session.name_of))


def tss(request: Request) -> Answer:
    """`tss`: the task state segment that TR holds."""
    from pvhdbg.decode.descriptors import TSS_BYTES, TSS_TYPES, task_state
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        boot = session.boot()
        one = boot.segments["tr"]
        base, limit, type = _seen(one.known_base), _seen(one.known_limit), _seen(lambda: one.type)
        if type not in TSS_TYPES:
            raise TargetError(f"TR holds no TSS: its type is {type:#x}", "see: segments")
        if not one.selector:
            return _lines([f"TR holds what a reset leaves there (selector 0, base {base:#x}, limit {limit:#x}): no TSS was loaded"])
        data = _bytes_at(session, base, min(limit + 1, TSS_BYTES), "the TSS")
        state = task_state(data, type, _long(boot.registers))
        title = f"{state.width}-bit TSS at {base:#x}, limit {limit:#x}, selector {one.selector:04x}"
        return _lines(machine_text.task_state(title, state, session.name_of))


def _table(segments: Segments, name: str) -> DescriptorTable:
    found = segments.gdt if name == "gdt" else segments.idt
    if found is None:
        raise TargetError(f"{name} was not observed: {segments.missing}", "use a VMM whose gdbstub has QEMU's monitor")
    return found


def _title(name: str, table: DescriptorTable) -> str:
    return f"{name} at {table.base:#x}, limit {table.limit:#x}"


def _bytes_at(session: Session, linear: int, size: int, what: str) -> bytes:
    try:
        return session.linear(linear, size)
    except MemoryUnreadable as gap:
        raise TargetError(
            f"{what} at {linear:#x} cannot be read: {gap.why}", "the segments in force are kept by the CPU: segments"
        ) from gap


# --- start_info ---------------------------------------------------------------------------------------------------


def _start_info(boot: BootState) -> StartInfo:
    return _seen(lambda: boot.start_info)


def modules(request: Request) -> Answer:
    """`modules`: the module list."""
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        return _lines(machine_text.modules(_start_info(session.hand_off(bool(request.here)))))


def memmap(request: Request) -> Answer:
    """`memmap`: the memory map as a picture, with the hand-off's own parts in it."""
    from pvhdbg.decode.boot_state import Unread
    from pvhdbg.report import memory_picture

    with session_of(request) as session:
        boot = session.hand_off(bool(request.here))
        start = _start_info(boot)
        found = start.memory_map
        if isinstance(found, Unread):
            raise TargetError(found.reason, "see: info")
        if found is None:
            return _lines(
                ["no memory map: a version 0 structure has none" if start.v1 is None else "no memory map: it has no entries"]
            )
        parts = memory_picture.parts(boot, start)
        return Answer(lambda style: "".join(f"{line}\n" for line in memory_picture.render(found, parts, style)))


def cmdline(request: Request) -> Answer:
    """`cmdline`: the command line in full, and nothing else."""
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        return _lines([machine_text.text(_start_info(session.hand_off(bool(request.here))).command_line)])


def rsdp(request: Request) -> Answer:
    """`rsdp`: the ACPI root, and every table that it lists, with the state of the checksums."""
    from pvhdbg.decode.boot_state import Unread
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        start = _start_info(session.hand_off(bool(request.here)))
        tables: dict[int, Table] = {}
        left = _TABLES_BOUND
        for root in () if isinstance(start.root_tables, Unread) else start.root_tables:
            for address in root.entries:
                if address not in tables:
                    tables[address] = _acpi_table(session, address, left)
                    header = tables[address].header
                    left -= header.length if header is not None else 0
        return _lines(machine_text.rsdp(start, tables))


def _acpi_table(session: Session, address: int, left: int) -> Table:
    from pvhdbg.decode import acpi
    from pvhdbg.report.machine_text import Table

    size = acpi.TableHeader.sizeof()
    try:
        header = acpi.TableHeader.decode(session.physical(address, size))
        if not size <= header.length <= min(_TABLE_BOUND, left):
            return Table(address, header, problem="its length is not one of a table")
        return Table(address, header, acpi.checksum_ok(session.physical(address, header.length)))
    except MemoryUnreadable as gap:
        return Table(address, None, problem=f"cannot be read: {gap.why}")


# --- memory and code ----------------------------------------------------------------------------------------------


def pagewalk(request: Request) -> Answer:
    """`pagewalk`: the page tables' levels for one linear address."""
    from pvhdbg.decode.paging import translate
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        address = session.address(" ".join(request.address))
        found = _seen(lambda: translate(session.registers(), address, session.physical))
        return _lines(machine_text.walk(found, session.name_of))


_FORMAT = re.compile(r"/(\d{0,6})([bhwgi]?)x?", re.ASCII)
_UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}


def _format(request: Request, count: int, letters: str) -> tuple[int, str, str]:
    """The count and the size letter of `/16w`, and the words of the address behind it. Raises BadInput."""
    first, rest = request.format_, list(request.address)
    if first is not None and not first.startswith("/"):
        first, rest = None, [first, *rest]
    match = _FORMAT.fullmatch(first or "/")
    if match is None or (match[2] and match[2] not in letters):
        raise BadInput(f"{first} is no format", f"write a slash, how many, and one of {', '.join(letters)}: /16{letters[0]}")
    return int(match[1] or count), match[2] or letters[0], " ".join(rest)


def xp(request: Request) -> Answer:
    """`xp`: physical memory, whatever paging says."""
    from pvhdbg.report import machine_text

    count, letter, wanted = _format(request, 16, "wbhg")
    unit = _UNITS[letter]
    if not 0 < count * unit <= _MOST_BYTES:
        raise BadInput(f"{count} times {unit} bytes cannot be shown at once", f"give a count that makes 1 to {_MOST_BYTES} bytes")
    with session_of(request) as session:
        address = session.address(wanted, physical=True)
        return _lines(machine_text.memory(address, session.physical(address, count * unit), unit))


def disas(request: Request) -> Answer:
    """`disas`: instructions as the CPU decodes them now, by CS and EFER."""
    from pvhdbg.machine import disassemble

    count, _, wanted = _format(request, 10, "i")
    if not 0 < count <= _MOST_LINES:
        raise BadInput(f"{count} instructions cannot be shown at once", f"give a count of 1 to {_MOST_LINES}")
    with session_of(request) as session:
        address = session.address(wanted) if wanted else disassemble.linear_pc(session)
        return _lines(disassemble.lines(session, address, count))


# --- the kernel file ----------------------------------------------------------------------------------------------


def notes(request: Request) -> Answer:
    """`notes`: the kernel's ELF notes."""
    from pvhdbg.report import machine_text

    with session_of(request) as session:
        if session.image is None:
            raise BadInput("no kernel file is known", session.naming)
        return _lines([session.image.path, *machine_text.notes(session.image.elf.notes)])


def entry(request: Request) -> Answer:
    """`entry`: where the machine is entered, how that is known, and where it is now."""
    from pvhdbg.decode.text import printable
    from pvhdbg.machine.capture import where

    with session_of(request) as session:
        found = session.find_entry()
        if found is None or found.address is None:
            raise TargetError("where the entry is could not be learnt", session.naming)
        symbol = f" <{printable(found.symbol)}>" if found.symbol else ""
        lines = [f"entry {found.address:#x}{symbol}, found by {found.found_by}", f"now   {where(session.registers())}"]
        placement = session.placement
        if placement.moved or placement.slide or placement.relocated:
            slide = placement.relocated if placement.slide is None else placement.slide
            lines.append(f"moved by {placement.moved:#x} in physical memory{f', slid by {slide:#x}' if slide is not None else ''}")
        return _lines(lines)


def symbols(request: Request) -> Answer:
    """`symbols`: where the kernel's symbols are now; one by name, or the one at an address."""
    with session_of(request) as session:
        table = session.symbols
        if session.image is None or table is None:
            raise BadInput("there are no symbols: no kernel file with a symbol table is known", session.naming)
        name = None if request.name is None else str(request.name)
        if name is None:
            return _lines([f"{session.image.path}: {len(table)} symbols", *_placed(session)])
        names = table.names(name[:-1]) if name.endswith("*") else []
        if names:
            lines = [_symbol(session, one) for one in names[:_MOST_NAMES]]
            more = len(names) - _MOST_NAMES
            return _lines([*lines, f"and {more} more"] if more > 0 else lines)
        try:
            return _lines([_symbol(session, name)])
        except BadInput as unknown:
            try:
                address = session.address(name)
            except PvhdbgError:
                raise unknown from None
            found = session.name_of(address)
            return _lines(
                [f"{address:#x} is {found}" if found else f"{address:#x} is in no part of the kernel that is mapped there"]
            )


def _symbol(session: Session, name: str) -> str:
    assert session.symbols is not None
    link = session.symbols.virtual_address(name)
    placement = session.placement
    if placement.found is False:
        return f"{name}  not in memory; by the file it is to be at physical {placement.physical_of(name):#x}, linked at {link:#x}"
    return f"{name}  now {placement.address_of(name):#x}, physical {placement.physical_of(name):#x}, linked at {link:#x}"


def _placed(session: Session) -> list[str]:
    placement = session.placement
    if placement.found is False:
        return [f"  {placement.missing}"]
    lines = []
    if placement.moved:
        lines.append(f"  the kernel was moved by {placement.moved:#x} from where its segments ask to be")
    if placement.relocated and placement.slide is None:
        lines.append(f"  it was relocated to be mapped slid by {placement.relocated:#x}")
    if not placement.paging:
        return [*lines, "  paging is off: symbols are at their physical addresses"]
    if placement.slide is None and placement.unread:
        return [*lines, "  its page tables were not observed: symbols are at the virtual addresses that it is linked to"]
    if placement.slide is None:
        return [*lines, "  the kernel's virtual addresses are not mapped yet: symbols are at their physical addresses"]
    slid = f"slid by {placement.slide:#x}" if placement.slide else "as it was linked"
    return [*lines, f"  the kernel is mapped {slid}: symbols are at their virtual addresses"]
