"""Examples of hand-offs: a correct one, changed by keyword. A rule's declaration holds examples that pass and that fail.

An `Example` is only the list of changes. The machine is built on demand, so that declaring a rule costs nothing at
start-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, decode
from pvhdbg.model import (
    Backing,
    BackingKind,
    DescriptorTable,
    EntryPoint,
    FoundBy,
    ImageComparison,
    Kernel,
    LoadRange,
    Memory,
    MemoryPiece,
    NeedMemory,
    Registers,
    Segment,
    Segments,
    Snapshot,
    Vmm,
)
from pvhdbg.record import dataclass, replace
from pvhdbg.spec.revisions import Revision
from pvhdbg.spec.start_info import (
    DRAFT_A_EAX,
    START_MAGIC,
    DraftAStartInfo32,
    DraftAStartInfo64,
    MemoryMapEntry,
    ModuleEntry,
    StartInfoV1,
)

ENTRY = 0x1000850
START_INFO, MODULE_LIST, MEMORY_MAP = 0x6000, 0x6040, 0x7000
COMMAND_LINE, RSDP, XSDT = 0x20000, 0xE0000, 0xE0100
MODULE = ModuleEntry(0x1F000000, 0x20000, 0, 0)
RAM_MAP = (
    MemoryMapEntry(0, 0x9FC00, 1, 0),
    MemoryMapEntry(0xF0000, 0x10000, 2, 0),
    MemoryMapEntry(0x100000, 0x1FF00000, 1, 0),
)
IMAGE = ImageComparison(compared=0x30000, size=0x1F00000, zeros=0x1000, zero_size=0x100000)
KERNEL = Kernel(entry=ENTRY, loads=(LoadRange(0x1000000, 0x2000000),))
BACKING = (
    Backing(0, 0xA0000, BackingKind.RAM),
    Backing(0xC0000, 0x40000, BackingKind.ROM),
    Backing(0x100000, 0x1FF00000, BackingKind.RAM),
)

_CODE, _DATA, _TSS = 0x00CF9B00, 0x00CF9300, 0x00008B00
_SEGMENTS = {
    **{name: Segment(0x10, 0, 0xFFFFFFFF, _DATA) for name in ("es", "ss", "ds", "fs", "gs")},
    "cs": Segment(0x08, 0, 0xFFFFFFFF, _CODE),
    "ldt": Segment(0, 0, 0xFFFF, 0x8200),
    "tr": Segment(0x18, 0, 0x67, _TSS),
}
_REGISTERS = {
    **dict.fromkeys(("rax", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "cr2", "cr3", "cr4", "efer"), 0),
    "rbx": START_INFO,
    "rip": ENTRY,
    "eflags": 2,
    "cr0": 0x11,
    **{name: segment.selector for name, segment in _SEGMENTS.items() if segment.selector is not None},
}


@dataclass(frozen=True)
class Example:
    """A hand-off, described by its differences from a correct one. `draft_a` is the width of a Draft A hand-off, or None.

    Changes are registers by name (`cr0=0x10`), hidden state (`tr_limit=0xffff`), fields of start_info (`magic=0`), or one of
    `modules`, `memory_map` (lists of structures), `command_line`, `rsdp` (bytes), `kernel`, `image`, `symbol`, `vmm`, `backing`,
    `found_by`, `a20`, `segments` (False: not observed), `unobserved` (register names), `memory` (bytes by address).
    """

    changes: Mapping[str, Any]
    draft_a: int | None = None

    def snapshot(self) -> Snapshot:
        """The machine that this example describes."""
        return _Builder(dict(self.changes), self.draft_a).build()

    def boot(self, revision: Revision) -> BootState:
        """The decoded machine; RAM that the example does not describe holds zeros."""
        snapshot = self.snapshot()
        while isinstance(state := decode(snapshot, revision), NeedMemory):
            memory = snapshot.memory.with_piece(state.address, bytes(state.size))
            snapshot = replace(snapshot, memory=memory)
        return state


def at_entry(**changes: Any) -> Example:
    """A correct version 1 hand-off with one module, changed as named."""
    return Example(MappingProxyType(changes))


def at_draft_a_entry(width: int = 64, **changes: Any) -> Example:
    """A correct Draft A hand-off to a guest of the given width, changed as named."""
    return Example(MappingProxyType(changes), width)


class _Builder:
    def __init__(self, changes: dict[str, Any], draft_a: int | None) -> None:
        self.changes = changes
        self.draft_a = draft_a

    def take(self, name: str, default: Any) -> Any:
        return self.changes.pop(name, default)

    def build(self) -> Snapshot:
        pieces = {**(self._draft_a() if self.draft_a else self._start_info()), **self.take("memory", {})}
        segments = self._segments()
        common = {
            "a20": self.take("a20", True),
            "kernel": self.take("kernel", KERNEL),
            "vmm": self.take("vmm", Vmm("example", "1.0")),
            "backing": self.take("backing", BACKING),
            "image": self.take("image", IMAGE),
            "entry": EntryPoint(ENTRY, FoundBy(self.take("found_by", FoundBy.NOTE)), self.take("symbol", "pvh_start")),
        }
        registers = Registers(_REGISTERS)
        if self.draft_a:
            registers = registers.replace(eax=DRAFT_A_EAX, esi=START_INFO, ebx=0)
        registers = registers.replace(**dict.fromkeys(self.take("unobserved", ())))
        registers = registers.replace(**self.changes)
        # The example's own bytes are applied last, over the structures.
        memory = Memory(MemoryPiece(address, data) for address, data in _overlaid(pieces))
        return Snapshot(registers=registers, segments=segments, memory=memory, **common)

    def _segments(self) -> Segments:
        if self.take("segments", True) is False:
            return Segments()
        found = {}
        for name, segment in _SEGMENTS.items():
            wanted = {part: self.take(f"{name}_{part}", getattr(segment, part)) for part in ("base", "limit", "flags")}
            found[name] = replace(segment, **wanted)
        return Segments(found, self.take("gdt", DescriptorTable(0x500, 0x27)), DescriptorTable(0, 0))

    def _start_info(self) -> dict[int, bytes]:
        modules = self.take("modules", [MODULE])
        entries = self.take("memory_map", RAM_MAP)
        line = self.take("command_line", b"console=ttyS0\0")
        rsdp = self.take("rsdp", _rsdp())
        fields = {
            "magic": START_MAGIC,
            "version": 1,
            "flags": 0,
            "nr_modules": len(modules),
            "modlist_paddr": MODULE_LIST if modules else 0,
            "cmdline_paddr": COMMAND_LINE,
            "rsdp_paddr": RSDP,
            "memmap_paddr": MEMORY_MAP,
            "memmap_entries": len(entries),
            "reserved": 0,
        }
        raw = StartInfoV1(**{name: self.take(name, value) for name, value in fields.items()})
        return {
            START_INFO: raw.encode(),
            MODULE_LIST: b"".join(module.encode() for module in modules),
            MEMORY_MAP: b"".join(entry.encode() for entry in entries),
            COMMAND_LINE: line,
            RSDP: rsdp,
            XSDT: _xsdt(),
        }

    def _draft_a(self) -> dict[int, bytes]:
        layout = DraftAStartInfo64 if self.draft_a == 64 else DraftAStartInfo32
        platform = b"x86_64" if self.draft_a == 64 else b"x86_32"
        raw = layout(
            magic=self.take("magic", b"xen-4.6-" + platform),
            console=0,
            console_detail=0,
            mod_start=self.take("mod_start", 0),
            mod_len=self.take("mod_len", 0),
            cmd_line=self.take("command_line", b"console=hvc0"),
        )
        return {START_INFO: raw.encode()}


def _overlaid(pieces: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    ordered = sorted(pieces.items())
    cut = []
    for index, (address, data) in enumerate(ordered):
        limit = ordered[index + 1][0] - address if index + 1 < len(ordered) else len(data)
        cut.append((address, data[:limit]))
    return cut


def summed(data: bytes, at: int) -> bytes:
    """`data` with the byte at `at` set so that all of it sums to zero."""
    rest = data[:at] + b"\0" + data[at + 1 :]
    return rest[:at] + bytes([-sum(rest) & 0xFF]) + rest[at + 1 :]


def _rsdp() -> bytes:
    head = summed(acpi.RsdpV1(acpi.RSDP_SIGNATURE, 0, b"PVHDBG", 2, 0).encode(), acpi.RsdpV1.offset_of("checksum"))
    whole = head + acpi.RsdpV2(36, XSDT, 0, 0, bytes(3)).encode()
    return summed(whole, acpi.RsdpV1.sizeof() + acpi.RsdpV2.offset_of("extended_checksum"))


def _xsdt() -> bytes:
    size = acpi.TableHeader.sizeof()
    header = acpi.TableHeader(b"XSDT", size + 8, 1, 0, b"PVHDBG", b"EXAMPLE ", 1, b"PVH ", 1)
    return summed(header.encode() + bytes(8), acpi.TableHeader.offset_of("checksum"))
