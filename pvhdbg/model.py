"""The shared types: the state of a machine at one moment, as frozen values that record what was not observed.

Nothing here reads, waits or prints. A value that could not be observed never gets a default: reading it raises
`Unavailable`, and the rules turn that into UNKNOWN.
"""

from __future__ import annotations

import copyreg
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Protocol

from pvhdbg.record import NamedTuple, dataclass, field, replace


def _read_only(values: dict[str, object]) -> MappingProxyType[str, object]:
    return MappingProxyType(values)


# Values that hold a read-only mapping pickle as all others do.
copyreg.pickle(MappingProxyType, lambda mapping: (_read_only, (dict(mapping),)))


HEX = "hex"
Hex = Annotated[int, HEX]
"""An address, a register's value or a size: JSON has it as a hexadecimal string, since numbers there have 53 bits."""


class Unavailable(Exception):
    """The requested value was not observed; the message tells the user why."""

    @property
    def reason(self) -> str:
        return str(self)


class NotLookedAt(Unavailable):
    """No attempt was made to observe the value. Nothing follows from that, not even that the machine has nothing there."""


class NeedMemory(Exception):
    """The decoder's request: read `size` bytes of guest-physical memory at `address`, then call again.

    Inside the decoder it is raised as an exception; the decoder's public functions *return* it.
    """

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes at {address:#x}")
        self.address = address
        self.size = size


# --- registers ----------------------------------------------------------------------------------------------------

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
EXTENDED = tuple(f"r{number}" for number in range(8, 16))
SELECTORS = ("cs", "ss", "ds", "es", "fs", "gs")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")

# The 32-bit view of a 64-bit register, by name.
LOW_HALVES: Mapping[str, str] = MappingProxyType({f"e{name[1:]}": name for name in (*GENERAL, "rip")})


@dataclass(frozen=True)
class Registers:
    """Register values by canonical (64-bit) name: rax..r15, rip, eflags, selectors, cr0..cr8, efer, fs_base, gs_base.

    `registers["eax"]` is the low half of `rax`. A name that was not observed raises `Unavailable`.
    """

    values: Mapping[str, int] = field(default_factory=dict)
    missing: str = "the debug stub does not show it"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def __getitem__(self, name: str) -> int:
        value = self.get(name)
        if value is None:
            raise Unavailable(f"{name} was not observed: {self.missing}")
        return value

    def get(self, name: str) -> int | None:
        """The value, or None when it was not observed."""
        if name in LOW_HALVES:
            value = self.values.get(LOW_HALVES[name])
            return None if value is None else value & 0xFFFFFFFF
        return self.values.get(name)

    def replace(self, **changes: int | None) -> Registers:
        """A copy with some registers changed (by either name); None marks a register as not observed."""
        values: dict[str, int] = dict(self.values)
        for name, value in changes.items():
            canonical = LOW_HALVES.get(name, name)
            if value is None:
                values.pop(canonical, None)
            else:
                values[canonical] = value
        return Registers(values, self.missing)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"Registers({len(self.values)} values)"


# --- hidden segment state -----------------------------------------------------------------------------------------


class _FlagBits:
    """Some bits of a segment's flags. Reading them raises `Unavailable` where the flags were not observed."""

    def __init__(self, low: int, width: int = 1) -> None:
        self._low, self._mask = low, (1 << width) - 1

    def __get__(self, segment: Segment, owner: type[Segment]) -> int:
        if segment.flags is None:
            raise Unavailable(segment.missing)
        return segment.flags >> self._low & self._mask


@dataclass(frozen=True)
class Segment:
    """A segment register with its descriptor cache.

    `limit` is in bytes, scaled by the granularity bit; `flags` is the high dword of the descriptor as the CPU caches it
    (type in bits 8-11, S 12, DPL 13-14, P 15, AVL 20, L 21, D/B 22, G 23; Intel SDM 3A 3.4.5). None is "not observed".
    """

    selector: int | None
    base: int | None = None
    limit: int | None = None
    flags: int | None = None
    missing: str = "hidden segment state was not observed"

    def known_base(self) -> int:
        if self.base is None:
            raise Unavailable(self.missing)
        return self.base

    def known_limit(self) -> int:
        if self.limit is None:
            raise Unavailable(self.missing)
        return self.limit

    type = _FlagBits(8, 4)
    s = _FlagBits(12)
    dpl = _FlagBits(13, 2)
    present = _FlagBits(15)
    avl = _FlagBits(20)
    long = _FlagBits(21)
    db = _FlagBits(22)
    granularity = _FlagBits(23)


class DescriptorTable(NamedTuple):
    """GDTR or IDTR: linear `base` and `limit` in bytes minus one."""

    base: int
    limit: int


@dataclass(frozen=True)
class Segments:
    """All hidden segment state of one observation: es cs ss ds fs gs ldt tr by name, gdt and idt."""

    by_name: Mapping[str, Segment] = field(default_factory=dict)
    gdt: DescriptorTable | None = None
    idt: DescriptorTable | None = None
    missing: str = "a debug stub does not show hidden segment state, and no monitor is connected"

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", MappingProxyType(dict(self.by_name)))

    def __getitem__(self, name: str) -> Segment:
        return self.by_name.get(name) or Segment(None, missing=f"{name}: {self.missing}")


# --- memory -------------------------------------------------------------------------------------------------------


class MemoryPiece(NamedTuple):
    """Bytes that were read at a guest-physical address."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        return self.address + len(self.data)

    def __repr__(self) -> str:
        return f"MemoryPiece({self.address:#x}, {len(self.data)} bytes)"


@dataclass(frozen=True)
class MemoryHole:
    """A requested range that could not be read, with the reason.

    `looked` is False for a range that was never looked at: it may be memory.
    """

    address: int
    size: int
    reason: str
    looked: bool = True

    def gap(self) -> Unavailable:
        """The exception that a read of the range raises."""
        if self.looked:
            return Unavailable(f"memory at {self.address:#x} cannot be read: {self.reason}")
        return NotLookedAt(f"memory at {self.address:#x} was not looked at: {self.reason}")


class Memory:
    """Guest-physical memory: the pieces that were read, and the ranges that were not. Immutable; `with_*` gives a copy."""

    __slots__ = ("_starts", "holes", "pieces")

    def __init__(self, pieces: Iterable[MemoryPiece] = (), holes: Iterable[MemoryHole] = ()) -> None:
        self.pieces = _merged(pieces)
        self.holes = tuple(dict.fromkeys(holes))
        self._starts = [piece.address for piece in self.pieces]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory) and (self.pieces, self.holes) == (other.pieces, other.holes)

    def __hash__(self) -> int:
        return hash((self.pieces, self.holes))

    def __repr__(self) -> str:
        return f"Memory({len(self.pieces)} pieces, {len(self.holes)} holes)"

    @classmethod
    def hidden(cls, reason: str) -> Memory:
        """Memory of which nothing was looked at, for that reason."""
        return cls((), (MemoryHole(0, (1 << 64) - 1, reason, looked=False),))

    @property
    def hidden_by(self) -> str | None:
        """The reason why nothing of it was looked at; None where that may have happened."""
        return next(
            (hole.reason for hole in self.holes if not hole.looked and not hole.address and hole.size == (1 << 64) - 1), None
        )

    def with_piece(self, address: int, data: bytes) -> Memory:
        return Memory((*self.pieces, MemoryPiece(address, data)), self.holes)

    def with_hole(self, address: int, size: int, reason: str, *, looked: bool = True) -> Memory:
        return Memory(self.pieces, (*self.holes, MemoryHole(address, size, reason, looked)))

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`.

        Raises `NeedMemory` for bytes that were never requested, `Unavailable` for bytes that could not be read, and
        its subclass `NotLookedAt` for bytes that the observer left out.
        """
        if size <= 0:
            return b""
        if address < 0 or address + size > 1 << 64:
            raise Unavailable(f"{size} bytes at {address:#x} wrap past the end of the address space")
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address + size <= self.pieces[index].end:
            offset = address - self.pieces[index].address
            return self.pieces[index].data[offset : offset + size]
        for hole in self.holes:
            if address < hole.address + hole.size and hole.address < address + size:
                raise replace(hole, address=address).gap()
        raise NeedMemory(address, size)


def _merged(pieces: Iterable[MemoryPiece]) -> tuple[MemoryPiece, ...]:
    merged: list[tuple[int, bytearray]] = []
    for piece in sorted(pieces, key=lambda piece: piece.address):
        if not piece.data:
            continue
        end = merged[-1][0] + len(merged[-1][1]) if merged else -1
        if piece.address > end:
            merged.append((piece.address, bytearray(piece.data)))
        elif piece.end > end:  # the first reading stays: memory may have changed since, and the entry state is of one moment
            merged[-1][1].extend(piece.data[end - piece.address :])
    return tuple(MemoryPiece(address, bytes(data)) for address, data in merged)


class MemoryView(Protocol):
    """Anything that reads guest-physical memory like `Memory.read`, and raises the same exceptions."""

    def read(self, address: int, size: int) -> bytes: ...


class BackingKind(Enum):
    """What is mapped at an address; the values are QEMU's words (system/memory.c, memory_region_type), and those of files.

    UNKNOWN is a range about which the observer reports nothing; its `Backing.name` may say why.
    """

    RAM = "ram"
    ROM = "rom"
    NV_RAM = "nv-ram"
    RAM_DEVICE = "ramd"
    ROM_DEVICE = "romd"
    IO = "i/o"
    UNKNOWN = "unknown"

    @classmethod
    def named(cls, word: str) -> BackingKind:
        """The kind of that name, UNKNOWN for any other word."""
        return _BACKING_KINDS.get(word, cls.UNKNOWN)


_BACKING_KINDS = {one.value: one for one in BackingKind}


@dataclass(frozen=True)
class Backing:
    """A range of the machine's physical address space and what is mapped there."""

    start: int
    size: int
    kind: BackingKind
    name: str = ""

    @property
    def end(self) -> int:
        return self.start + self.size


# --- who, what, where ---------------------------------------------------------------------------------------------


class GuestEnd(Enum):
    """Why QEMU says that a guest ended: the reason of its event SHUTDOWN (qapi/run-state.json, ShutdownCause), or its events GUEST_PANICKED
    and WATCHDOG."""

    SHUTDOWN = "guest-shutdown"
    RESET = "guest-reset"
    PANIC = "guest-panic"
    WATCHDOG = "watchdog"
    OTHER = "other"


@dataclass(frozen=True)
class Vmm:
    """The virtual machine monitor as it names itself, and the arguments that it runs with; None is "not observed"."""

    name: str | None = None
    version: str | None = None
    accelerator: str | None = None
    command: tuple[str, ...] | None = None

    @property
    def kvm(self) -> bool:
        """Whether KVM is known to run the guest's code: QEMU then logs none of it, and there are four breakpoints."""
        return self.accelerator == "kvm"

    def release(self) -> tuple[int, ...]:
        """The version as numbers, `(7, 2, 22)`; empty when it is unknown."""
        numbers: list[int] = []
        for part in (self.version or "").split("."):
            digits = ""
            for letter in part:
                if not letter.isdigit() or not letter.isascii() or len(digits) > 6:
                    break
                digits += letter
            if not digits:
                break
            numbers.append(int(digits))
            if digits != part:
                break
        return tuple(numbers)


class LoadRange(NamedTuple):
    """Where a PT_LOAD of the kernel lies in guest-physical memory."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True)
class Kernel:
    """The kernel's part in the hand-off: the entry in its note, its load ranges, and which file it was."""

    path: str | None = None
    build_id: str | None = None
    sha256: str | None = None
    size: int | None = None
    entry: int | None = None  # XEN_ELFNOTE_PHYS32_ENTRY, low 32 bits; None when the file was not seen
    relocatable: bool = False  # XEN_ELFNOTE_PHYS32_RELOC is present
    loads: tuple[LoadRange, ...] = ()
    source: str = "ELF file"  # or "info roms", when only the monitor reported the ranges
    elf_class: int | None = None


class FoundBy(str, Enum):
    """How the address of a capture was found; the value is what reports and files say."""

    OPTION = "--entry"
    NOTE = "ELF note"
    FIRST_STOP = "first stop"
    FW_CFG = "fw_cfg"
    HERE = "here"  # the machine was decoded as it stood, which need not be an entry
    NOT_REACHED = "not reached"  # nothing of the machine was observed

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ImageDifference:
    """The first byte of a segment that memory holds otherwise than the file; `zeros` for one of the zeros behind the file's bytes."""

    address: int
    expected: int
    found: int
    zeros: bool = False


@dataclass(frozen=True)
class ImageComparison:
    """What came of comparing the kernel's file with guest memory at the entry; all sizes are in bytes.

    `compared` of the file's `size` bytes in PT_LOADs and `zeros` of the `zero_size` bytes that have to be zero were looked at;
    `differences` holds one for each of both in each segment. `another`: the file is not, or may not be, the one that was loaded.
    """

    compared: int
    size: int
    zeros: int = 0
    zero_size: int = 0
    differences: tuple[ImageDifference, ...] = ()
    another: bool = False


@dataclass(frozen=True)
class EntryPoint:
    """Where the capture was taken and how that address was found."""

    address: int | None
    found_by: FoundBy
    symbol: str | None = None

    @property
    def is_entry(self) -> bool:
        return self.found_by is not FoundBy.HERE

    @property
    def by_vmm(self) -> bool:
        """Whether this is the VMM's own hand-off, to which recorded deviations apply; `--entry` may be a guest's."""
        return self.found_by in (FoundBy.NOTE, FoundBy.FIRST_STOP, FoundBy.FW_CFG)


@dataclass(frozen=True)
class Snapshot:
    """One machine at one moment: everything that was observed, and the source of each part.

    `sources` maps a part ("registers", "segments", "memory", "backing", "vmm") to its source ("g packet",
    "monitor", "GDB", "snapshot"). `backing` is None when the machine's memory layout could not be obtained.
    """

    registers: Registers = field(default_factory=Registers)
    segments: Segments = field(default_factory=Segments)
    a20: bool | None = None
    memory: Memory = field(default_factory=Memory)
    backing: tuple[Backing, ...] | None = None
    vmm: Vmm = field(default_factory=Vmm)
    kernel: Kernel | None = None
    image: ImageComparison | None = None  # None: the kernel's file was not compared with memory
    entry: EntryPoint = field(default_factory=lambda: EntryPoint(None, FoundBy.HERE))
    sources: Mapping[str, str] = field(default_factory=dict)
    captured: str | None = None  # ISO 8601, UTC

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    def __repr__(self) -> str:
        who = " ".join(part for part in (self.vmm.name, self.vmm.version) if part) or "an unknown VMM"
        where = "an unknown address" if self.entry.address is None else f"{self.entry.address:#x}"
        return f"Snapshot({who!r}, at {where} by {self.entry.found_by}, {self.memory!r})"
