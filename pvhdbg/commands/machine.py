"""The commands that show one part of a machine: at its entry on the command line, at every stop of a live session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.subject_options import AboutSubject
from pvhdbg.decode import acpi, note_values
from pvhdbg.decode.boot_state import BootState, StartInfo, Unread
from pvhdbg.decode.cpu_mode import long_mode_active, observed_mode
from pvhdbg.decode.descriptors import TSS_BYTES, TSS_TYPES, descriptors, gates, task_state, vectors
from pvhdbg.decode.notes import Note
from pvhdbg.decode.page_map import page_map
from pvhdbg.decode.paging import translate
from pvhdbg.decode.text import printable, safe
from pvhdbg.errors import BadInput, MemoryUnreadable, PvhdbgError, TargetError
from pvhdbg.machine import disassemble
from pvhdbg.machine.entry_search import where
from pvhdbg.machine.loaded_kernel import Confirm
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.session import Session, Settings
from pvhdbg.machine.subject import open_subject
from pvhdbg.model import DescriptorTable, Registers, Segments, Unavailable
from pvhdbg.record import NamedTuple, replace
from pvhdbg.report import json_report, machine_text, memory_picture, text
from pvhdbg.report.answers.cpu import GdtAnswer, IdtAnswer, ModeAnswer, SegmentsAnswer, TssAnswer
from pvhdbg.report.answers.handoff import AcpiTablesAnswer, CommandLineAnswer, MemoryMapAnswer, ModulesAnswer, ShownAcpiTable
from pvhdbg.report.answers.memory import (
    DisassemblyAnswer,
    EntryAnswer,
    MachineCode,
    MemoryAnswer,
    NotesAnswer,
    PageRangesAnswer,
    PageWalkAnswer,
    PlacedSymbol,
    ShownNote,
    SymbolsAnswer,
)
from pvhdbg.report.machine_text import Table
from pvhdbg.spec.elf_notes import NoteKind

T = TypeVar("T")
_MOST_BYTES = 1 << 16  # that xp shows at once
_MOST_LINES = 256  # that disas shows at once
_MOST_NAMES = 64  # that symbols lists
_NOTE_BYTES = 32  # of a note's descriptor that are shown
_TABLE_BOUND = 1 << 20  # bytes of one ACPI table that are summed
_TABLES_BOUND = 8 << 20  # bytes of all of them


class WalkOptions(NamedTuple):
    """The options of `pagewalk`. `everything` is `--all`."""

    about: SubjectOptions = SubjectOptions()
    address: tuple[str, ...] = ()
    everything: bool = False


class AddressOptions(NamedTuple):
    """The options of `xp` and `disas`. `format_` is /COUNT and a letter; a word without the slash is part of the address."""

    about: SubjectOptions = SubjectOptions()
    format_: str | None = None
    address: tuple[str, ...] = ()


class SymbolsOptions(NamedTuple):
    """The options of `symbols`."""

    about: SubjectOptions = SubjectOptions()
    name: str | None = None


@contextmanager
def session_of(about: SubjectOptions, context: Context) -> Iterator[Session]:
    """The live session; or, on the command line, one around the subject at its entry, for this command alone."""
    if context.session is not None:
        yield context.session
        return
    with open_subject(about, context.progress) as opened:
        settings = Settings(about.revision)
        session = Session(opened.target, opened.image, settings, warnings=opened.warnings, confirm=Confirm())
        session.confirm.file, session.confirm.path = opened.file, opened.found
        session.adopt(opened.boot)
        yield session


def _lines(lines: list[str], document: NamedTuple) -> Answer:
    text = "".join(f"{line}\n" for line in lines)
    return shows(lambda _: text, document)


def _seen(value: Callable[[], T]) -> T:
    """The value; one that was not observed becomes an error for the user."""
    try:
        return value()
    except Unavailable as gap:
        raise TargetError(gap.reason, "use a VMM whose gdbstub has QEMU's monitor, or give addresses as numbers") from None


def _long(registers: Registers) -> bool:
    return bool(long_mode_active(registers))


# --- the CPU ------------------------------------------------------------------------------------------------------


@takes(AboutSubject)
def segments(options: AboutSubject, context: Context) -> Answer:
    """`segments`: the hidden segment state alone."""
    with session_of(options.about, context) as session:
        boot = session.boot()
        return replace(_lines(text.segments(boot), SegmentsAnswer(json_report.segments(boot))), value=boot.segments)


@takes(AboutSubject)
def mode(options: AboutSubject, context: Context) -> Answer:
    """`mode`: the CPU's mode, and how it is known."""
    with session_of(options.about, context) as session:
        boot = session.boot()
        found = observed_mode(boot.registers, boot.segments)
        document = ModeAnswer(found.name, found.paging, found.code, found.privilege, found.evidence)
        return _lines(machine_text.mode(found), document)


@takes(AboutSubject)
def gdt(options: AboutSubject, context: Context) -> Answer:
    """`gdt`: the table that GDTR points to, decoded. The loaded segments need not come from it."""
    with session_of(options.about, context) as session:
        boot = session.boot()
        table = _table(boot.segments, "gdt")
        data = _bytes_at(session, table.base, (table.limit & 0xFFFF) + 1, "the GDT")
        entries = tuple(descriptors(data, _long(boot.registers)))
        users: dict[int, str] = {}
        loaded: dict[str, int] = {}
        for name, one in boot.segments.by_name.items():
            if one.selector is not None and one.selector & ~7 and not one.selector & 4:
                loaded[name] = one.selector
                users[one.selector & ~7] = " ".join(filter(None, (users.get(one.selector & ~7), name)))
        document = GdtAnswer(table.base, table.limit, entries, loaded)
        return _lines(machine_text.descriptor_table(_title("GDT", table), entries, users), document)


@takes(AboutSubject)
def idt(options: AboutSubject, context: Context) -> Answer:
    """`idt`: the interrupt descriptor table, or in real mode its vectors."""
    with session_of(options.about, context) as session:
        boot = session.boot()
        table = _table(boot.segments, "idt")
        data = _bytes_at(session, table.base, (table.limit & 0xFFFF) + 1, "the IDT")
        real = not _seen(lambda: boot.registers["cr0"]) & 1
        still = not real and (table.base, table.limit) == (0, 0x3FF)
        entries = tuple(vectors(data) if real or still else gates(data, _long(boot.registers)))
        title = _title("real-mode vectors" if real else "IDT", table)
        title += ": still the real mode's vectors, which are not gates" if still else ""
        places = {one.vector: one.offset if one.type is not None else (one.selector << 4) + one.offset for one in entries}
        names = {str(vector): name for vector, place in places.items() if (name := session.name_of(place))}
        document = IdtAnswer(table.base, table.limit, real or still, entries, names)
        return _lines(machine_text.vector_table(title, entries, session.name_of), document)


@takes(AboutSubject)
def tss(options: AboutSubject, context: Context) -> Answer:
    """`tss`: the task state segment that TR holds."""
    with session_of(options.about, context) as session:
        boot = session.boot()
        one = boot.segments["tr"]
        base, limit, type = _seen(one.known_base), _seen(one.known_limit), _seen(lambda: one.type)
        if type not in TSS_TYPES:
            raise TargetError(f"TR holds no TSS: its type is {type:#x}", "see: segments")
        if not one.selector:
            line = f"TR has its reset value (selector 0, base {base:#x}, limit {limit:#x}): no TSS was loaded"
            return _lines([line], TssAnswer(base, limit, 0, None, {}, ()))
        data = _bytes_at(session, base, min(limit + 1, TSS_BYTES), "the TSS")
        state = task_state(data, type, _long(boot.registers))
        title = f"{state.width}-bit TSS at {base:#x}, limit {limit:#x}, selector {one.selector:04x}"
        document = TssAnswer(base, limit, one.selector, state.width, state.values, state.missing)
        return _lines(machine_text.task_state(title, state, session.name_of), document)


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
            f"{what} at {linear:#x} cannot be read: {gap.why}", "the CPU caches the segments in force; show them with: segments"
        ) from gap


# --- start_info ---------------------------------------------------------------------------------------------------


def _start_info(boot: BootState) -> StartInfo:
    return _seen(lambda: boot.start_info)


@takes(AboutSubject)
def modules(options: AboutSubject, context: Context) -> Answer:
    """`modules`: the module list."""
    with session_of(options.about, context) as session:
        start = _start_info(session.hand_off(options.about.way.here))
        shown = json_report.start_info(start)
        document = ModulesAnswer(start.raw.nr_modules, start.raw.modlist_paddr, shown["modules"], shown["modules_missing"])
        return replace(_lines(machine_text.modules(start), document), value=start.modules)


@takes(AboutSubject)
def memmap(options: AboutSubject, context: Context) -> Answer:
    """`memmap`: the memory map as a picture, with the hand-off's own parts in it."""
    with session_of(options.about, context) as session:
        boot = session.hand_off(options.about.way.here)
        start = _start_info(boot)
        found = start.memory_map
        if isinstance(found, Unread):
            raise TargetError(found.reason, "see: info")
        shown = json_report.start_info(start)
        document = MemoryMapAnswer(shown["memory_map"], shown["memory_map_missing"])
        if found is None:
            why = "a version 0 structure has none" if start.v1 is None else "it has no entries"
            return replace(_lines([f"no memory map: {why}"], document), value=())
        parts = memory_picture.parts(boot, start)
        drawn = shows(lambda style: "".join(f"{line}\n" for line in memory_picture.render(found, parts, style)), document)
        return replace(drawn, value=found)


@takes(AboutSubject)
def cmdline(options: AboutSubject, context: Context) -> Answer:
    """`cmdline`: the command line in full, and nothing else."""
    with session_of(options.about, context) as session:
        start = _start_info(session.hand_off(options.about.way.here))
        shown = json_report.start_info(start)
        document = CommandLineAnswer(shown["command_line"], shown["command_line_missing"])
        return replace(_lines([machine_text.text(start.command_line)], document), value=start.command_line)


@takes(AboutSubject)
def rsdp(options: AboutSubject, context: Context) -> Answer:
    """`rsdp`: the ACPI root, and every table that it lists, with the state of the checksums."""
    with session_of(options.about, context) as session:
        start = _start_info(session.hand_off(options.about.way.here))
        tables: dict[int, Table] = {}
        left = _TABLES_BOUND
        for root in () if isinstance(start.root_tables, Unread) else start.root_tables:
            for address in root.entries:
                if address not in tables:
                    tables[address] = _acpi_table(session, address, left)
                    header = tables[address].header
                    left -= header.length if header is not None else 0
        shown = json_report.start_info(start)
        document = AcpiTablesAnswer(shown["rsdp"], shown["rsdp_missing"], tuple(map(_table_document, tables.values())))
        return _lines(machine_text.rsdp(start, tables), document)


def _table_document(one: Table) -> ShownAcpiTable:
    head, problem = one.header, one.problem or None
    if head is None:
        return ShownAcpiTable(one.address, None, None, None, None, None, problem)
    sound = None if problem else one.sound
    return ShownAcpiTable(
        one.address, printable(head.signature), head.length, head.revision, printable(head.oem_id), sound, problem
    )


def _acpi_table(session: Session, address: int, left: int) -> Table:
    size = acpi.TableHeader.sizeof()
    try:
        header = acpi.TableHeader.decode(session.physical(address, size))
        if not size <= header.length <= min(_TABLE_BOUND, left):
            return Table(address, header, problem="its length is not one of a table")
        return Table(address, header, acpi.checksum_ok(session.physical(address, header.length)))
    except MemoryUnreadable as gap:
        return Table(address, None, problem=f"cannot be read: {gap.why}")


# --- memory and code ----------------------------------------------------------------------------------------------


@takes(WalkOptions)
def pagewalk(options: WalkOptions, context: Context) -> Answer:
    """`pagewalk`: the page tables' levels for one linear address, or all that they map."""
    if options.everything == bool(options.address):
        raise BadInput("pagewalk takes an address, or --all", "write: pagewalk $rip, or: pagewalk --all")
    if options.everything:
        with session_of(options.about, context) as session:
            found = _seen(lambda: page_map(session.registers(), session.physical))
            most = machine_text.MOST_RANGES
            ranges = PageRangesAnswer(
                None if found.scheme is None else found.scheme.name,
                found.ranges[:most],
                max(len(found.ranges) - most, 0),
                found.unread,
                found.cut,
            )
            return _lines(machine_text.page_map(found, session.name_of), ranges)
    with session_of(options.about, context) as session:
        address = session.address(" ".join(options.address))
        walk = _seen(lambda: translate(session.registers(), address, session.physical))
        scheme, size = (None, None) if walk.scheme is None else (walk.scheme.name, walk.page_size)
        physical = address if walk.scheme is None else walk.physical
        document = PageWalkAnswer(
            address, session.name_of(address), scheme, walk.levels, physical, size if walk.physical else None, walk.problem or None
        )
        return _lines(machine_text.walk(walk, session.name_of), document)


_FORMAT = re.compile(r"/(\d{0,6})([bhwgi]?)x?", re.ASCII)
_UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}


def _format(options: AddressOptions, count: int, letters: str) -> tuple[int, str, str]:
    """The count and the size letter of `/16w`, and the words of the address behind it. Raises BadInput."""
    first, rest = options.format_, list(options.address)
    if first is not None and not first.startswith("/"):
        rest.insert(0, first)
        first = None
    match = _FORMAT.fullmatch(first or "/")
    if match is None or (match[2] and match[2] not in letters):
        raise BadInput(f"{first} is not a format", f"write a slash, a count, and one of {', '.join(letters)}: /16{letters[0]}")
    return int(match[1] or count), match[2] or letters[0], " ".join(rest)


@takes(AddressOptions)
def xp(options: AddressOptions, context: Context) -> Answer:
    """`xp`: physical memory, without paging."""
    count, letter, wanted = _format(options, 16, "wbhg")
    unit = _UNITS[letter]
    if not 0 < count * unit <= _MOST_BYTES:
        raise BadInput(f"{count} times {unit} bytes cannot be shown at once", f"give a count for 1 to {_MOST_BYTES} bytes")
    with session_of(options.about, context) as session:
        address = session.address(wanted, physical=True)
        data = session.physical(address, count * unit)
        values = tuple(int.from_bytes(data[at : at + unit], "little") for at in range(0, len(data), unit))
        return _lines(machine_text.memory(address, data, unit), MemoryAnswer(address, unit, values, data))


@takes(AddressOptions)
def disas(options: AddressOptions, context: Context) -> Answer:
    """`disas`: instructions as the CPU decodes them now, by CS and EFER."""
    count, _, wanted = _format(options, 10, "i")
    if not 0 < count <= _MOST_LINES:
        raise BadInput(f"{count} instructions cannot be shown at once", f"give a count of 1 to {_MOST_LINES}")
    with session_of(options.about, context) as session:
        address = session.address(wanted) if wanted else disassemble.linear_pc(session)
        mode, found = disassemble.instructions(session, address, count)
        document = DisassemblyAnswer(mode, tuple(MachineCode(*one) for one in found))
        return _lines(disassemble.lines(mode, found), document)


# --- the kernel file ----------------------------------------------------------------------------------------------


@takes(AboutSubject)
def notes(options: AboutSubject, context: Context) -> Answer:
    """`notes`: the kernel's ELF notes."""
    with session_of(options.about, context) as session:
        if session.image is None:
            raise BadInput("no kernel file is known", session.naming)
        found = tuple(map(_note, session.image.elf.notes))
        return _lines([session.image.path, *machine_text.notes(found)], NotesAnswer(session.image.path, found))


def _note(note: Note) -> ShownNote:
    found = note_values.value(note)
    owner, data, size = note_values.owner_name(note), note.desc[:_NOTE_BYTES], len(note.desc)
    if found.kind is NoteKind.UNKNOWN:
        return ShownNote(owner, note.type, None, None, data, size)
    words = ", ".join(found.lines) if found.kind is NoteKind.ARRAY else found.text
    return ShownNote(owner, note.type, found.name, words, data, size)


@takes(AboutSubject)
def entry(options: AboutSubject, context: Context) -> Answer:
    """`entry`: the entry's address, how it was found, and where the machine is now."""
    with session_of(options.about, context) as session:
        found = session.find_entry()
        if found is None or found.address is None:
            raise TargetError("the entry's address is unknown", session.naming)
        symbol = f" <{printable(found.symbol)}>" if found.symbol else ""
        lines = [f"entry {found.address:#x}{symbol}, found by {found.found_by}", f"now   {where(session.registers())}"]
        placement = session.placement
        if placement.load_bias or placement.kaslr_offset or placement.relocation:
            offset = placement.relocation if placement.kaslr_offset is None else placement.kaslr_offset
            virtual = f", KASLR offset {offset:#x}" if offset is not None else ""
            lines.append(f"load bias {placement.load_bias:#x}{virtual}")
        document = EntryAnswer(
            found.address, found.symbol, found.found_by, where(session.registers()), placement.load_bias, placement.kaslr_offset
        )
        return _lines(lines, document)


@takes(SymbolsOptions)
def symbols(options: SymbolsOptions, context: Context) -> Answer:
    """`symbols`: the current addresses of the kernel's symbols; one by name, or the one at an address."""
    with session_of(options.about, context) as session:
        table = session.symbols
        if session.image is None or table is None:
            raise BadInput("no kernel file with a symbol table is known", session.naming)
        name, path = options.name, session.image.path
        if name is None:
            return _lines([f"{safe(path)}: {len(table)} symbols", *_placed(session)], _document(session, path, len(table)))
        names = table.names(name[:-1]) if name.endswith("*") else []
        if names:
            found = [_symbol(session, one) for one in names[:_MOST_NAMES]]
            more = max(len(names) - _MOST_NAMES, 0)
            lines = [*map(_shown, found), *([f"and {more} more"] if more else [])]
            return _lines(lines, _document(session, path, len(table), found, more))
        try:
            found = [_symbol(session, name)]
            return _lines([*map(_shown, found)], _document(session, path, len(table), found))
        except BadInput as unknown:
            try:
                address = session.address(name)
            except PvhdbgError:
                raise unknown from None
            at = session.name_of(address)
            line = f"{address:#x} is {at}" if at else f"{address:#x} is not in a part of the kernel that is mapped there"
            return _lines([line], _document(session, path, len(table), at=at))


def _document(
    session: Session, path: str, count: int, found: Sequence[PlacedSymbol] = (), more: int = 0, at: str | None = None
) -> SymbolsAnswer:
    placement = session.placement
    there = placement.found is not False
    return SymbolsAnswer(path, count, there, placement.load_bias, placement.kaslr_offset, tuple(found), more, at)


def _symbol(session: Session, name: str) -> PlacedSymbol:
    assert session.symbols is not None
    placement = session.placement
    link, physical = session.symbols.virtual_address(name), placement.physical_of(name)
    return PlacedSymbol(name, None if placement.found is False else placement.address_of(name), physical, link)


def _shown(one: PlacedSymbol) -> str:
    if one.now is None:
        return f"{safe(one.name)}  not in memory; its physical address by the file is {one.physical:#x}, linked at {one.linked:#x}"
    return f"{safe(one.name)}  now {one.now:#x}, physical {one.physical:#x}, linked at {one.linked:#x}"


def _placed(session: Session) -> list[str]:
    placement = session.placement
    if placement.found is False:
        return [f"  {placement.missing}"]
    lines = []
    if placement.load_bias:
        lines.append(f"  the kernel lies at its segments' physical addresses plus {placement.load_bias:#x} (load bias)")
    if placement.relocation and placement.kaslr_offset is None:
        lines.append(f"  it was relocated for the KASLR offset {placement.relocation:#x}")
    if not placement.paging:
        return [*lines, "  paging is off: symbols are at their physical addresses"]
    if placement.kaslr_offset is None and placement.unread:
        return [*lines, "  its page tables were not observed: symbols are at their linked virtual addresses"]
    if placement.kaslr_offset is None:
        return [*lines, "  the kernel's virtual addresses are not mapped yet: symbols are at their physical addresses"]
    how = f"with the KASLR offset {placement.kaslr_offset:#x}" if placement.kaslr_offset else "as it was linked"
    return [*lines, f"  the kernel is mapped {how}: symbols are at their virtual addresses"]
