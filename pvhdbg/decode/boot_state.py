"""Decode a snapshot into a BootState: the protocol, the revision, and start_info with everything that it points to.

The decoder never reads. `decode` returns the BootState, or `NeedMemory(address, size)`: put those bytes (or the hole that
is there instead) into the snapshot's memory and call again. Counts and strings come from the guest: they are cut to the
bounds below before use. A part that cannot be decoded is an `Unread` with its reason, never a default.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from pvhdbg.decode import acpi, payload
from pvhdbg.decode.firmware import PVH_BIN_LINE, Firmware, identify
from pvhdbg.decode.protocol import is_pvh, recognise
from pvhdbg.decode.text import quoted
from pvhdbg.model import Backing, BackingKind, NeedMemory, NotLookedAt, Registers, Segments, Snapshot, Unavailable
from pvhdbg.record import dataclass
from pvhdbg.spec.deviations import PVH_BIN
from pvhdbg.spec.protocols import DRAFT_A_SIGNATURE, Signature
from pvhdbg.spec.revisions import DRAFT_A, Revision
from pvhdbg.spec.start_info import (
    DraftAStartInfo32,
    DraftAStartInfo64,
    MemoryMapEntry,
    ModuleEntry,
    StartInfoV0,
    StartInfoV1,
)

MODULE_BOUND = 64  # entries of the module list that are read
MEMORY_MAP_BOUND = 512  # entries of the memory map that are read; Linux's table holds 128
TEXT_BOUND = 64 * 1024  # bytes in which a string must end
TEXT_STEP = 1024  # bytes requested at a time while searching for the end
ALL_TEXT_BOUND = 4 * TEXT_BOUND  # bytes of all strings together: each step decodes all of them again
ROOT_TABLE_ENTRIES = 256
_MEMORY = (BackingKind.RAM, BackingKind.ROM, BackingKind.NV_RAM, BackingKind.UNKNOWN)  # what is memory, or may be

T = TypeVar("T")


@dataclass(frozen=True)
class Unread:
    """In place of a part that could not be decoded. `looked` is False if the machine is not the cause: nothing was read."""

    reason: str
    looked: bool = True


def seen(part: T | Unread) -> T:
    """The part. Raises `Unavailable` with the reason for an Unread."""
    if isinstance(part, Unread):
        raise Unavailable(part.reason)
    return part


def looked_at(part: T | Unread) -> T | Unread:
    """The part, or an Unread that the machine causes. Raises `NotLookedAt` for a part that was never looked at."""
    if isinstance(part, Unread) and not part.looked:
        raise NotLookedAt(part.reason)
    return part


@dataclass(frozen=True, eq=False)
class Text:
    """A string in guest memory: its bytes without the NUL, and whether a NUL was found within TEXT_BOUND.

    It equals a `str` of the same letters, and another Text with the same address and bytes.
    """

    address: int
    data: bytes
    terminated: bool

    def __str__(self) -> str:
        return self.data.decode("utf-8", "backslashreplace")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str(self) == other
        if isinstance(other, Text):
            return (self.address, self.data, self.terminated) == (other.address, other.data, other.terminated)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))  # the same hash as the str that it equals


@dataclass(frozen=True)
class Module:
    """One entry of the module list, its address, its command line (None: it has none) and the kind of its content."""

    address: int
    entry: ModuleEntry
    command_line: Text | Unread | None
    kind: str


@dataclass(frozen=True)
class StartInfo:
    """The shipped ABI's start_info. Lists hold at most the bounded number of entries; `raw` has the guest's own counts."""

    address: int
    raw: StartInfoV0
    modules: tuple[Module, ...] | Unread
    command_line: Text | Unread | None
    rsdp: acpi.Rsdp | Unread | None
    root_tables: tuple[acpi.RootTable, ...] | Unread
    memory_map: tuple[MemoryMapEntry, ...] | Unread | None  # None: the version has no map, or there is none

    @property
    def v1(self) -> StartInfoV1 | None:
        """The structure with version 1's fields, or None for version 0."""
        return self.raw if isinstance(self.raw, StartInfoV1) else None


@dataclass(frozen=True)
class DraftAInfo:
    """Draft A's proposed structure; `width` is 32 or 64, from the platform that the magic names, else from the layout."""

    address: int
    width: int
    raw: DraftAStartInfo32 | DraftAStartInfo64
    module_kind: str


@dataclass(frozen=True)
class BootState:
    """Everything that was decoded of one machine at one entry, and the revision by which it is judged."""

    snapshot: Snapshot
    revision: Revision
    other_protocol: Signature | None
    magic_found: bool  # [ebx] holds the shipped ABI's magic
    firmware_part: Firmware | Unread | None  # None: not a known firmware
    start_info_part: StartInfo | Unread
    draft_a_part: DraftAInfo | Unread
    overrun: Text | None = None  # the command line that QEMU's pvh.bin wrote over its own start_info

    def __repr__(self) -> str:
        return f"BootState({self.revision.name}, {self.snapshot!r})"

    @property
    def registers(self) -> Registers:
        return self.snapshot.registers

    @property
    def overrun_length(self) -> str | None:
        """How many characters the command line has that ran over start_info; None where none did.

        Memory holds as much of it as was not overwritten since: the VMM's arguments tell the rest.
        """
        if self.overrun is None:
            return None
        command = self.snapshot.vmm.command or ()
        given = next((word for option, word in pairwise(command) if option == "-append"), "")
        there = len(self.overrun.data)
        size = len(given.encode("utf-8", "surrogateescape"))
        return str(size) if size >= there else f"at least {there}"

    @property
    def segments(self) -> Segments:
        return self.snapshot.segments

    @property
    def firmware(self) -> Firmware | None:
        """The firmware, or None if it was not recognised."""
        return None if isinstance(self.firmware_part, Unread) else self.firmware_part

    @property
    def start_info(self) -> StartInfo:
        """The shipped start_info. Raises `Unavailable` if there is none."""
        return seen(self.start_info_part)

    @property
    def draft_a(self) -> DraftAInfo:
        """Draft A's structure. Raises `Unavailable` if there is none."""
        return seen(self.draft_a_part)

    def readable(self, address: int, size: int) -> bool:
        """Whether RAM or ROM is mapped at every byte of the range. Raises `Unavailable` if that is not known.

        The machine's memory layout decides where it is known: with paging on, QEMU's stub returns zeros for unmapped memory.
        """
        if address + size > 1 << 64:
            return False
        backed = _backed(_memories(self.snapshot), address, size)
        if backed is not None:
            return backed
        try:
            self.snapshot.memory.read(address, size)
        except NeedMemory:
            raise NotLookedAt(f"memory at {address:#x} was not looked at") from None
        except NotLookedAt:
            raise
        except Unavailable:
            return False
        return True


def _memories(snapshot: Snapshot) -> list[Backing] | None:
    """The ranges that are memory, or may be, in order of address; None if the layout is not known."""
    if snapshot.backing is None:
        return None
    return sorted((area for area in snapshot.backing if area.kind in _MEMORY), key=lambda area: area.start)


def _backed(memories: list[Backing] | None, address: int, size: int) -> bool | None:
    if memories is None:
        return None
    end = address + max(size, 1)
    first = max(bisect_right(memories, address, key=lambda area: area.start) - 1, 0)  # they do not overlap
    for index in range(first, len(memories)):
        area = memories[index]
        if area.start > end:
            return False
        if area.start <= address < area.end:
            if area.kind is BackingKind.UNKNOWN:
                return None
            address = min(area.end, end)
        if address >= end:
            return True
    return False


class _Reader:
    """The snapshot's memory for the decoder. It refuses a range without RAM or ROM instead of reading it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._memories = _memories(snapshot)
        self._text_left = ALL_TEXT_BOUND

    def read(self, address: int, size: int) -> bytes:
        if _backed(self._memories, address, size) is False:
            raise Unavailable("the machine has no RAM or ROM there")
        return self._snapshot.memory.read(address, size)

    def text(self, address: int) -> Text:
        data = b""
        while len(data) < TEXT_BOUND:
            step = min(TEXT_STEP - (address + len(data)) % TEXT_STEP, TEXT_BOUND - len(data))
            self._text_left -= step
            if self._text_left < 0:
                raise Unavailable(f"the strings of this hand-off have more than {ALL_TEXT_BOUND >> 10} KiB together")
            try:
                data += self.read(address + len(data), step)
            except Unavailable as gap:
                if not data or isinstance(gap, NotLookedAt):
                    raise
                return Text(address, data, terminated=False)
            end = data.find(0)
            if end >= 0:
                return Text(address, data[:end], terminated=True)
        return Text(address, data, terminated=False)


def decode(snapshot: Snapshot, revision: Revision) -> BootState | NeedMemory:
    """Decode `snapshot` for judging by `revision`, or return the memory that is needed first.

    Raises nothing for any content of registers or memory.
    """
    try:
        return _decode(snapshot, revision)
    except NeedMemory as need:
        return need


def _decode(snapshot: Snapshot, revision: Revision) -> BootState:
    reader, registers = _Reader(snapshot), snapshot.registers
    pvh = is_pvh(registers, reader)
    other = None if pvh else recognise(registers, reader)
    draft_a: DraftAInfo | Unread = Unread("the machine was not judged by Draft A")
    if revision is DRAFT_A or other is DRAFT_A_SIGNATURE:
        draft_a = _or_unread(lambda: _draft_a(reader, registers["esi"]))
    firmware = _or_unread(lambda: identify(registers, snapshot.segments, reader))
    return BootState(
        snapshot,
        revision,
        None if revision is DRAFT_A and other is DRAFT_A_SIGNATURE else other,
        pvh,
        firmware,
        _or_unread(lambda: _start_info(reader, registers["ebx"])) if pvh else _none(registers, reader),
        draft_a,
        None if pvh or other is not None else _overrun(reader, registers, firmware),
    )


def _overrun(reader: _Reader, registers: Registers, firmware: Firmware | Unread | None) -> Text | None:
    """The text from pvh.bin's buffer for the command line on, if it reaches start_info at [ebx]."""
    ebx = registers.get("ebx")
    if not isinstance(firmware, Firmware) or firmware.name != PVH_BIN or ebx is None or ebx < PVH_BIN_LINE:
        return None
    line = _or_unread(lambda: reader.text(ebx - PVH_BIN_LINE))
    return line if isinstance(line, Text) and len(line.data) >= PVH_BIN_LINE else None


def _none(registers: Registers, reader: _Reader) -> Unread:
    ebx = registers.get("ebx")
    if ebx is None:
        return Unread("no start_info: ebx was not observed", looked=False)
    try:
        reader.read(ebx, 4)
    except NotLookedAt as gap:
        return Unread(f"no start_info: {gap.reason}", looked=False)
    except Unavailable:
        pass  # memory that cannot be read holds no magic
    return Unread(f"no start_info: the magic is not at ebx = {ebx:#x}")


def _or_unread(part: Callable[[], T]) -> T | Unread:
    try:
        return part()
    except Unavailable as gap:
        return Unread(gap.reason, looked=not isinstance(gap, NotLookedAt))


# --- the shipped ABI ----------------------------------------------------------------------------------------------


def _start_info(reader: _Reader, address: int) -> StartInfo:
    raw = StartInfoV0.decode(reader.read(address, StartInfoV0.sizeof()))
    if raw.version >= 1:  # later versions only append: the known prefix is read
        raw = StartInfoV1.decode(reader.read(address, StartInfoV1.sizeof()))
    rsdp = _or_unread(lambda: _rsdp(reader, raw.rsdp_paddr)) if raw.rsdp_paddr else None
    return StartInfo(
        address,
        raw,
        _or_unread(lambda: _modules(reader, raw)),
        _or_unread(lambda: reader.text(raw.cmdline_paddr)) if raw.cmdline_paddr else None,
        rsdp,
        _or_unread(lambda: _root_tables(reader, rsdp)),
        _or_unread(lambda: _memory_map(reader, raw)) if isinstance(raw, StartInfoV1) and raw.memmap_entries else None,
    )


def _modules(reader: _Reader, raw: StartInfoV0) -> tuple[Module, ...]:
    if not raw.nr_modules:
        return ()
    if not raw.modlist_paddr:
        raise Unavailable("modlist_paddr is 0: there is no module list")
    count, size = min(raw.nr_modules, MODULE_BOUND), ModuleEntry.sizeof()
    data = reader.read(raw.modlist_paddr, count * size)
    return tuple(
        _module(reader, raw.modlist_paddr + index * size, ModuleEntry.decode(data, index * size)) for index in range(count)
    )


def _module(reader: _Reader, address: int, entry: ModuleEntry) -> Module:
    line = _or_unread(lambda: reader.text(entry.cmdline_paddr)) if entry.cmdline_paddr else None
    return Module(address, entry, line, _kind_at(reader, entry.paddr, entry.size))


def _kind_at(reader: _Reader, address: int, size: int) -> str:
    if not address or not size:
        return "empty"
    try:
        return payload.kind(reader.read(address, min(size, payload.SNIFF)))
    except Unavailable:
        return "unreadable"


def _memory_map(reader: _Reader, raw: StartInfoV1) -> tuple[MemoryMapEntry, ...]:
    if not raw.memmap_paddr:
        raise Unavailable("memmap_paddr is 0: there is no memory map")
    count, size = min(raw.memmap_entries, MEMORY_MAP_BOUND), MemoryMapEntry.sizeof()
    data = reader.read(raw.memmap_paddr, count * size)
    return tuple(MemoryMapEntry.decode(data, index * size) for index in range(count))


def _rsdp(reader: _Reader, address: int) -> acpi.Rsdp:
    data = reader.read(address, acpi.RsdpV1.sizeof())
    head = acpi.RsdpV1.decode(data)
    if head.signature != acpi.RSDP_SIGNATURE or head.revision < 2:
        return acpi.Rsdp(address, head, None, data)
    whole = acpi.RsdpV1.sizeof() + acpi.RsdpV2.sizeof()
    data = reader.read(address, whole)
    tail = acpi.RsdpV2.decode(data, acpi.RsdpV1.sizeof())
    if whole < tail.length <= acpi.TABLE_LIMIT:
        data = reader.read(address, tail.length)
    return acpi.Rsdp(address, head, tail, data)


def _root_tables(reader: _Reader, rsdp: acpi.Rsdp | Unread | None) -> tuple[acpi.RootTable, ...]:
    if rsdp is None:
        return ()
    root = seen(rsdp)
    if root.head.signature != acpi.RSDP_SIGNATURE:
        raise Unavailable("rsdp_paddr does not point to an RSDP")
    wanted = ((b"RSDT", root.head.rsdt_address, 4), (b"XSDT", root.xsdt_address, 8))
    return tuple(_root_table(reader, name, address, width) for name, address, width in wanted if address)


def _root_table(reader: _Reader, expected: bytes, address: int, width: int) -> acpi.RootTable:
    size = acpi.TableHeader.sizeof()
    try:
        header = acpi.TableHeader.decode(reader.read(address, size))
        if header.signature != expected:
            return acpi.RootTable(expected, address, header, False, f"its signature is {quoted(header.signature)}")
        if not size <= header.length <= acpi.TABLE_LIMIT:
            return acpi.RootTable(expected, address, header, False, f"its length is {header.length:#x}")
        data = reader.read(address, header.length)
    except NotLookedAt:
        raise
    except Unavailable as gap:
        return acpi.RootTable(expected, address, None, False, gap.reason)
    entries = tuple(
        int.from_bytes(data[offset : offset + width], "little") for offset in range(size, len(data) - width + 1, width)
    )[:ROOT_TABLE_ENTRIES]
    sound = acpi.checksum_ok(data)
    return acpi.RootTable(expected, address, header, sound, "" if sound else "its checksum is wrong", entries)


# --- Draft A ------------------------------------------------------------------------------------------------------


def _draft_a(reader: _Reader, address: int) -> DraftAInfo:
    if not address:
        raise Unavailable("esi is 0: there is no start_info page")
    magic = reader.read(address, 32)
    width = 64 if b"x86_64" in magic else 32 if b"x86_32" in magic else _draft_a_width(reader, address)
    layout = DraftAStartInfo64 if width == 64 else DraftAStartInfo32
    raw = layout.decode(reader.read(address, layout.sizeof()))
    return DraftAInfo(address, width, raw, _kind_at(reader, raw.mod_start, raw.mod_len))


def _draft_a_width(reader: _Reader, address: int) -> int:
    """The width at which the command line is a string. At the other width its field holds numbers, or lacks its beginning."""
    data = reader.read(address, DraftAStartInfo64.sizeof())
    narrow = data[DraftAStartInfo32.offset_of("cmd_line") : DraftAStartInfo64.offset_of("cmd_line")]
    text = narrow.split(b"\0", 1)[0]
    return 32 if text and all(0x20 <= byte < 0x7F for byte in text) else 64
