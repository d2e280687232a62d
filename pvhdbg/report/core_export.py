"""A snapshot as a plain ELF core, for GDB and for tools that read cores of machines.

One NT_PRSTATUS, one PT_LOAD for each piece of memory by its physical address, before them one for each page in use by its
linear address where paging is on; and a note with the snapshot file itself, but for its memory, by which pvhdbg reads it back
unchanged. There is no note of QEMU's: drgn takes one for a dump of Linux and refuses it. The core is an x86-64 one, so that it
fits a 64-bit kernel's symbols at its 32-bit entry; a 32-bit kernel's is an i386 one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pvhdbg.decode import snapshot_file
from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.decode.snapshot_extent import mapped
from pvhdbg.errors import BadInput
from pvhdbg.model import Memory, NeedMemory, Snapshot, Unavailable
from pvhdbg.spec.elf import (
    EM_386,
    EM_X86_64,
    ET_CORE,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    PT_NOTE,
    Header32,
    Header64,
    Ident,
    NoteHeader,
    Segment32,
    Segment64,
)
from pvhdbg.spec.elf_core import (
    CORE_OWNER,
    NT_PRSTATUS,
    PN_XNUM,
    PVHDBG_OWNER,
    PVHDBG_SNAPSHOT,
    PrStatus32,
    PrStatus64,
)

_SIGTRAP = 5
_SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
_NEEDLESS = frozenset({"orig_rax", "fs_base", "gs_base"})  # 0 in it says nothing of the machine


@dataclass(frozen=True)
class ExportedCore:
    """The file's bytes, and the registers that it has to show as 0 because nobody observed them."""

    data: bytes
    unobserved: tuple[str, ...]


@dataclass(frozen=True)
class _Load:
    linear: int
    physical: int
    data: bytes


def core(boot: BootState) -> ExportedCore:
    """The core. Raises BadInput for a snapshot that no core can be made of."""
    snapshot = boot.snapshot
    if snapshot.registers.get("rip") is None:
        raise BadInput("the snapshot holds no instruction pointer: a core needs one", "save it from a machine's gdbstub")
    loads = [*_linear(boot), *(_Load(piece.address, piece.address, piece.data) for piece in snapshot.memory.pieces)]
    if not loads or len(loads) >= PN_XNUM - 1:
        raise BadInput(f"the snapshot has {len(loads)} pieces of memory: no core can be made of it", "save it again")
    wide = not _narrow(snapshot, loads)
    notes, unobserved = _notes(snapshot, wide)
    return ExportedCore(_file(loads, notes, wide), unobserved)


def _narrow(snapshot: Snapshot, loads: list[_Load]) -> bool:
    """Whether it is an i386 core: the kernel is a 32-bit one, and everything fits."""
    fits = all(max(load.linear, load.physical) + len(load.data) <= 1 << 32 for load in loads)
    return snapshot.kernel is not None and snapshot.kernel.elf_class == 32 and fits and (snapshot.registers["rip"] < 1 << 32)


def _linear(boot: BootState) -> list[_Load]:
    """What is in use, by linear address; none while that is the physical one."""
    if not paging_on(boot.registers):
        return []
    found = []
    try:
        for linear, physical, size in mapped(boot):
            data = _held(boot.snapshot.memory, physical, size)
            if data is not None:
                found.append(_Load(linear, physical, data))
    except NeedMemory:
        pass  # an older snapshot, without its page tables
    return found


def _held(memory: Memory, address: int, size: int) -> bytes | None:
    try:
        return memory.read(address, size)
    except (NeedMemory, Unavailable):
        return None


# --- notes --------------------------------------------------------------------------------------------------------


def _notes(snapshot: Snapshot, wide: bool) -> tuple[bytes, tuple[str, ...]]:
    status, unobserved = _status(snapshot, wide)
    notes = _note(CORE_OWNER, NT_PRSTATUS, status)
    whole = snapshot_file.encode(replace(snapshot, memory=Memory((), snapshot.memory.holes)))
    return notes + _note(PVHDBG_OWNER, PVHDBG_SNAPSHOT, whole.encode("ascii")), unobserved


def _status(snapshot: Snapshot, wide: bool) -> tuple[bytes, tuple[str, ...]]:
    layout: type[PrStatus32] | type[PrStatus64] = PrStatus64 if wide else PrStatus32
    values: dict[str, Any] = {field.name: b"" if field.name == "times" else 0 for field in layout.fields()}
    values |= {"si_signo": _SIGTRAP, "pr_cursig": _SIGTRAP, "pr_pid": 1}
    begin, end = ("r15", "gs") if wide else ("rbx", "ss")
    names = [field.name for field in layout.fields()]
    unobserved = []
    for name in names[names.index(begin) : names.index(end) + 1]:
        value = _register(snapshot, name)
        if value is not None:
            values[name] = value if wide else value & 0xFFFFFFFF
        elif name not in _NEEDLESS:
            unobserved.append(name)
    return layout(**values).encode(), tuple(unobserved)


def _register(snapshot: Snapshot, name: str) -> int | None:
    value = snapshot.registers.get(name)
    if value is None and name in _SELECTORS:
        return snapshot.segments[name].selector
    if value is None and name in ("fs_base", "gs_base"):
        return snapshot.segments[name[:2]].base
    return value


def _note(owner: bytes, type: int, desc: bytes) -> bytes:
    return NoteHeader(len(owner), len(desc), type).encode() + _padded(owner) + _padded(desc)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# --- the file -----------------------------------------------------------------------------------------------------


def _file(loads: list[_Load], notes: bytes, wide: bool) -> bytes:
    ident = Ident(b"\x7fELF", 2 if wide else 1, 1, 1, 0, bytes(8)).encode()
    layout: type[Segment32] | type[Segment64] = Segment64 if wide else Segment32
    header: type[Header32] | type[Header64] = Header64 if wide else Header32
    begin = Ident.sizeof() + header.sizeof()
    count = 1 + len(loads)
    head = header(
        e_type=ET_CORE,
        e_machine=EM_X86_64 if wide else EM_386,
        e_version=1,
        e_entry=0,
        e_phoff=begin,
        e_shoff=0,
        e_flags=0,
        e_ehsize=begin,
        e_phentsize=layout.sizeof(),
        e_phnum=count,
        e_shentsize=0,
        e_shnum=0,
        e_shstrndx=0,
    )
    offset = begin + count * layout.sizeof()
    segments = [layout(p_type=PT_NOTE, p_flags=0, p_offset=offset, p_vaddr=0, p_paddr=0, p_filesz=len(notes), p_memsz=0, p_align=4)]
    offset += len(notes)
    for load in loads:
        size = len(load.data)
        segments.append(
            layout(
                p_type=PT_LOAD,
                p_flags=PF_R | PF_W | PF_X,
                p_offset=offset,
                p_vaddr=load.linear,
                p_paddr=load.physical,
                p_filesz=size,
                p_memsz=size,
                p_align=1,
            )
        )
        offset += size
    parts = [ident, head.encode(), *(segment.encode() for segment in segments), notes, *(load.data for load in loads)]
    return b"".join(parts)
