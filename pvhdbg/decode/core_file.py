"""ELF cores of machines, as QEMU's `dump-guest-memory` writes them: registers from the notes, memory from the PT_LOADs.

QEMU's own note holds what no debug stub shows: segments with their hidden part, GDT and IDT, control registers. A core does
not hold EFER, cr8, A20, QEMU's version, or memory outside of its PT_LOADs: they are unobserved. A dump may contain only a
part of memory (`dump-guest-memory FILE BEGIN LENGTH`), and the file does not say so: missing memory is unknown, not absent.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from pvhdbg.decode import snapshot_file
from pvhdbg.decode.notes import Buffer, Note, Span
from pvhdbg.decode.notes import read as read_notes
from pvhdbg.errors import BadInput
from pvhdbg.model import Backing, BackingKind, DescriptorTable, Memory, Registers, Segment, Segments, Snapshot, Vmm
from pvhdbg.record import dataclass, replace
from pvhdbg.spec.elf import (
    EM_386,
    EM_X86_64,
    ET_CORE,
    MACHINES,
    PT_LOAD,
    PT_NOTE,
    Header32,
    Header64,
    Ident,
    Section32,
    Section64,
    Segment32,
    Segment64,
)
from pvhdbg.spec.elf_core import (
    CORE_OWNER,
    NT_PRPSINFO,
    NT_PRSTATUS,
    PN_XNUM,
    PVHDBG_OWNER,
    PVHDBG_SNAPSHOT,
    QEMU_NOTE,
    QEMU_OWNER,
    QEMU_SEGMENTS,
    QEMU_VERSION,
    PrStatus32,
    PrStatus64,
    QemuControl,
    QemuCpu,
    QemuSegment,
)

SEGMENTS_BOUND = 1 << 14  # program headers that are read; a paging dump of a running kernel has thousands
CPUS_BOUND = 256  # CPUs whose registers are read
_REDUMP = "make it again: dump-guest-memory FILE"
_QEMU_REGISTERS = tuple(field.name for field in QemuCpu.fields() if field.name not in ("version", "size"))
_STATUS_REGISTERS = (*_QEMU_REGISTERS, "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base")


@dataclass(frozen=True)
class CorePart:
    """`size` bytes of guest-physical memory at `address`, stored at `offset` of the file."""

    address: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        return self.address + self.size


class FlatMemory:
    """The parts as one address space: sorted, without overlap. Bytes are read from `data` on demand."""

    def __init__(self, data: Buffer, parts: Iterable[CorePart]) -> None:
        self._data = data
        self.parts = _apart(parts)
        self._starts = [part.address for part in self.parts]

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes at `address`, or None where the core does not hold all of them."""
        found = bytearray()
        while len(found) < size:
            at = address + len(found)
            index = bisect_right(self._starts, at) - 1
            if index < 0 or at >= self.parts[index].end:
                return None
            part = self.parts[index]
            offset = part.offset + at - part.address
            found += self._data[offset : offset + min(part.end - at, size - len(found))]
        return bytes(found)


def _apart(parts: Iterable[CorePart]) -> tuple[CorePart, ...]:
    """The parts in order of address, each byte once: a paging dump lists memory once for each mapping."""
    apart: list[CorePart] = []
    for part in sorted(parts, key=lambda one: (one.address, one.offset)):
        begin = max(part.address, apart[-1].end if apart else 0)
        if begin < part.end:
            apart.append(CorePart(begin, part.end - begin, part.offset + begin - part.address))
    return tuple(apart)


@dataclass(frozen=True)
class Core:
    """A parsed core: the machine's state (without memory), its memory, and its number of CPUs.

    A core that `snapshot export` wrote also holds the entry; otherwise the entry of the snapshot has no address. `others` holds the
    registers and segments of each further CPU. `long_mode` is the first CPU's EFER.LMA, None where the core does not show it: QEMU gives
    its core the machine of the mode (target/i386/arch_dump.c, cpu_get_dump_info).
    """

    snapshot: Snapshot
    memory: FlatMemory
    cpus: int
    others: tuple[tuple[Registers, Segments], ...] = ()
    long_mode: bool | None = None


def is_core(head: bytes) -> bool:
    """Whether a file with this beginning is an ELF core, or a kdump dump that `parse` refuses with a hint."""
    if head.startswith(_FOREIGN):
        return True
    at = Ident.sizeof()
    return head.startswith(b"\x7fELF") and len(head) > at + 1 and ET_CORE in (head[at], head[at + 1])


_FOREIGN = (b"KDUMP   ", b"makedumpfile\0\0\0\0")


def parse(data: Buffer) -> Core:
    """The core in `data`, which must outlive it. Raises BadInput for anything but a complete core of an x86 machine."""
    machine, headers = _program_headers(data)
    notes = _notes(data, headers)
    parts = [_part(data, index, one) for index, one in enumerate(headers) if one.p_type == PT_LOAD and one.p_filesz]
    exported = next((note for note in notes if note.owner == PVHDBG_OWNER and note.type == PVHDBG_SNAPSHOT), None)
    ours = [note for note in notes if note.owner == QEMU_OWNER and note.type == QEMU_NOTE]
    statuses = [note for note in notes if note.owner == CORE_OWNER and note.type == NT_PRSTATUS]
    if not ours and any(note.owner == CORE_OWNER and note.type == NT_PRPSINFO for note in notes):
        raise BadInput("the core is of a process, not of a machine", "give one that QEMU's dump-guest-memory wrote")
    if not parts:
        raise BadInput("the core holds no memory: it has no PT_LOAD with bytes in the file", _REDUMP)
    if exported is not None:
        return Core(_exported(exported), FlatMemory(data, parts), 1)
    if ours:
        registers, segments = _of_qemu(ours[0])
        sources = {"registers": "QEMU note", "segments": "QEMU note"}
    elif statuses:
        registers, segments = _of_status(statuses[0]), Segments(missing="the core has no QEMU note, which would hold it")
        sources = {"registers": "NT_PRSTATUS"}
    else:
        raise BadInput("the core holds no registers: neither a QEMU note nor NT_PRSTATUS", _REDUMP)
    memory = FlatMemory(data, parts)
    snapshot = Snapshot(
        registers=registers,
        segments=segments,
        backing=_backing(memory.parts),
        vmm=Vmm("QEMU" if ours else None),
        sources={**sources, "memory": "PT_LOAD", "backing": "PT_LOAD"},
    )
    others = tuple(_of_qemu(one) for one in ours[1:CPUS_BOUND])
    return Core(snapshot, memory, max(len(ours), len(statuses)), others, machine == EM_X86_64 if ours else None)


def _program_headers(data: Buffer) -> tuple[int, list[Segment32 | Segment64]]:
    """e_machine, and the program headers."""
    if bytes(data[:16]).startswith(_FOREIGN):
        raise BadInput("the dump is in kdump format, not an ELF core", "make it again without compression (no -z, -l, -s)")
    if len(data) < Ident.sizeof():
        raise BadInput(f"the core has {len(data)} bytes: it is truncated", _REDUMP)
    ident = Ident.decode(data)
    if ident.magic != b"\x7fELF" or ident.elf_class not in (1, 2) or ident.data not in (1, 2):
        raise BadInput(f"the core's e_ident is damaged: class {ident.elf_class}, data encoding {ident.data}", _REDUMP)
    if ident.data == 2:
        raise BadInput("the core is big-endian: it is not of an x86 machine", "give a core of an x86 machine")
    wide = ident.elf_class == 2
    header: Header32 | Header64
    if len(data) < Ident.sizeof() + (Header64 if wide else Header32).sizeof():
        raise BadInput(f"the core has {len(data)} bytes: its ELF header is truncated", _REDUMP)
    header = (Header64 if wide else Header32).decode(data, Ident.sizeof())
    if header.e_type != ET_CORE:
        raise BadInput(f"the ELF is not a core: its e_type is {header.e_type}", _REDUMP)
    if header.e_machine not in (EM_386, EM_X86_64):
        name = MACHINES.get(header.e_machine, f"machine {header.e_machine}")
        raise BadInput(f"the core is of {name}, not of x86", "give a core of an x86 machine")
    layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
    if header.e_phentsize != layout.sizeof():
        raise BadInput(f"the core's e_phentsize is {header.e_phentsize}, not {layout.sizeof()}", _REDUMP)
    count = _count(data, header, wide)
    if header.e_phoff + count * layout.sizeof() > len(data):
        raise BadInput(
            f"the core is truncated: its {count} program headers end at {header.e_phoff + count * layout.sizeof():#x}, "
            f"and the file at {len(data):#x}",
            _REDUMP,
        )
    return header.e_machine, [layout.decode(data, header.e_phoff + index * layout.sizeof()) for index in range(count)]


def _count(data: Buffer, header: Header32 | Header64, wide: bool) -> int:
    count = header.e_phnum
    if count == PN_XNUM:
        section = Section64 if wide else Section32
        if not header.e_shoff or header.e_shoff + section.sizeof() > len(data):
            raise BadInput("the core's number of program headers should be in section header 0, which does not exist", _REDUMP)
        count = section.decode(data, header.e_shoff).sh_info
    if count > SEGMENTS_BOUND:
        raise BadInput(
            f"the core says that it has {count} program headers, more than {SEGMENTS_BOUND}", "dump it without paging (-p)"
        )
    return count


def _notes(data: Buffer, headers: list[Segment32 | Segment64]) -> tuple[Note, ...]:
    spans = []
    for index, one in enumerate(headers):
        if one.p_type == PT_NOTE and one.p_filesz:
            if one.p_offset + one.p_filesz > len(data):
                raise _cut(index, "notes", one, data)
            spans.append(Span(one.p_offset, one.p_offset + one.p_filesz, one.p_align, index))
    notes, damage = read_notes(data, spans)
    if damage:
        raise BadInput(f"the core's notes are damaged: {damage}", _REDUMP)
    return notes


def _part(data: Buffer, index: int, one: Segment32 | Segment64) -> CorePart:
    if one.p_offset + one.p_filesz > len(data):
        raise _cut(index, "memory", one, data)
    if one.p_paddr + one.p_filesz > 1 << 64:
        raise BadInput(f"the core's program header {index} ends beyond the address space: p_paddr {one.p_paddr:#x}", _REDUMP)
    return CorePart(one.p_paddr, one.p_filesz, one.p_offset)


def _cut(index: int, what: str, one: Segment32 | Segment64, data: Buffer) -> BadInput:
    end = one.p_offset + one.p_filesz
    return BadInput(
        f"the core is truncated: program header {index} has {what} up to {end:#x}, and the file ends at {len(data):#x}", _REDUMP
    )


def _exported(note: Note) -> Snapshot:
    snapshot = snapshot_file.decode(note.desc.decode("utf-8", "replace"))
    return replace(snapshot, memory=Memory((), snapshot.memory.holes))


def _of_qemu(note: Note) -> tuple[Registers, Segments]:
    begin = QemuCpu.sizeof()
    control_at = begin + len(QEMU_SEGMENTS) * QemuSegment.sizeof()
    if len(note.desc) < control_at + QemuControl.sizeof():
        raise BadInput(f"the core's QEMU note has {len(note.desc)} bytes, which is too short for a CPU", _REDUMP)
    cpu = QemuCpu.decode(note.desc)
    if cpu.version != QEMU_VERSION:
        raise BadInput(f"the core's QEMU note is of version {cpu.version}, not {QEMU_VERSION}", "read it with a newer pvhdbg")
    found = {name: QemuSegment.decode(note.desc, begin + index * QemuSegment.sizeof()) for index, name in enumerate(QEMU_SEGMENTS)}
    control = QemuControl.decode(note.desc, control_at)
    tables = {name: DescriptorTable(found[name].base, found[name].limit) for name in ("gdt", "idt")}
    segments = {
        name: Segment(one.selector & 0xFFFF, one.base, one.limit, one.flags) for name, one in found.items() if name not in tables
    }
    values = {name: getattr(cpu, name) for name in _QEMU_REGISTERS}
    values |= {name: segments[name].selector for name in ("cs", "ss", "ds", "es", "fs", "gs")}
    values |= {name: getattr(control, name) for name in ("cr0", "cr2", "cr3", "cr4")}
    values |= {"fs_base": found["fs"].base, "gs_base": found["gs"].base}
    kernel_gs_base = note.desc[control_at + QemuControl.sizeof() :][:8]
    if len(kernel_gs_base) == 8:  # older versions of QEMU end before it
        values["k_gs_base"] = int.from_bytes(kernel_gs_base, "little")
    registers = Registers(values, "a core does not hold it")
    return registers, Segments(segments, tables["gdt"], tables["idt"], "the core's QEMU note does not hold it")


def _of_status(note: Note) -> Registers:
    for layout in (PrStatus64, PrStatus32):
        if len(note.desc) == layout.sizeof():
            status = layout.decode(note.desc)
            values = {name: getattr(status, name) for name in _STATUS_REGISTERS if hasattr(status, name)}
            values |= {name: values[name] & 0xFFFF for name in ("cs", "ss", "ds", "es", "fs", "gs")}
            return Registers(values, "NT_PRSTATUS does not hold it")
    raise BadInput(f"the core's NT_PRSTATUS has {len(note.desc)} bytes, which is not the size of an x86 one", _REDUMP)


def _backing(parts: tuple[CorePart, ...]) -> tuple[Backing, ...]:
    """The parts as memory, and everything between them as unknown."""
    areas: list[Backing] = []
    end = 0
    for part in parts:
        if part.address > end:
            areas.append(Backing(end, part.address - end, BackingKind.UNKNOWN))
        if areas and areas[-1].kind is BackingKind.RAM and areas[-1].end == part.address:
            areas[-1] = Backing(areas[-1].start, areas[-1].size + part.size, BackingKind.RAM, "PT_LOAD")
        else:
            areas.append(Backing(part.address, part.size, BackingKind.RAM, "PT_LOAD"))
        end = part.end
    if end < 1 << 64:
        areas.append(Backing(end, (1 << 64) - end, BackingKind.UNKNOWN))
    return tuple(areas)
