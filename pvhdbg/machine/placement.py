"""The kernel's placement at one stop, for correct symbol addresses.

Before paging a symbol is at its physical address; afterwards at its virtual one, moved by the KASLR offset. A name
is given to an address by the machine's own page tables: linear to physical, and physical to the symbol whose segment was loaded
there. That holds in every mode, for identity maps and kernel maps alike, and never guesses a KASLR offset. Where a kernel file has
enough bytes to recognize it, they are searched in memory: a decompressor may move the kernel (`kernel.location`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.decode.paging import translate
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import BackingKind, Unavailable

if TYPE_CHECKING:
    from pvhdbg.kernel.location import KernelLocation, Marks
    from pvhdbg.kernel.symbols import Symbols
    from pvhdbg.model import EntryPoint, Kernel, Registers
    from pvhdbg.targets.target import Target

_PAGE = 1 << 12
_MOST_BIASES = 64  # load biases that are tried at one stop
_MOST_SLOTS = 1 << 15  # 64 GiB of a recording
_LARGE_PAGE = 1 << 21
_KERNEL_MAP = 1 << 30  # KASLR moves a kernel within the 1 GiB that it was linked for: Linux' KERNEL_IMAGE_SIZE
_WRAP = (1 << 64) - 1


class StoppedMachine(Protocol):
    """The part of a session that is used of a stopped machine; `naming` tells the user how to name the kernel."""

    kernel_location: KernelLocation | None  # where the kernel was found last

    @property
    def target(self) -> Target: ...
    @property
    def naming(self) -> str: ...
    @property
    def kernel(self) -> Kernel | None: ...
    @property
    def symbols(self) -> Symbols | None: ...
    @property
    def marks(self) -> Marks | None: ...
    @property
    def known_entry(self) -> EntryPoint | None: ...
    def registers(self) -> Registers: ...
    def physical(self, address: int, size: int) -> bytes: ...


@dataclass
class Placement:
    """Symbols at one stop.

    `load_bias` is how far the kernel lies from its p_paddr; `kaslr_offset` how far it is mapped from its p_vaddr, None while it
    is not; `relocation` how far its pointers were moved, None where that is not visible. `found` says whether its bytes are there:
    None where they were not checked, or the file has too few.
    """

    session: StoppedMachine
    symbols: Symbols | None
    load_bias: int = 0
    kaslr_offset: int | None = None
    paging: bool = False
    found: bool | None = None
    relocation: int | None = None

    def __post_init__(self) -> None:
        self.unread = False  # some page tables could not be read
        self._pages: dict[int, int | None] = {}
        self._tables: dict[int, bytes] = {}

    def physical(self, linear: int) -> int | None:
        """The physical address behind a linear one, or None where the page tables end. Caches pages."""
        if not self.paging:
            return linear
        page = linear & ~(_PAGE - 1)
        if page not in self._pages:
            try:
                self._pages[page] = translate(self.session.registers(), page, self._table_entry).physical
            except (PvhdbgError, Unavailable):
                self.unread = True
                self._pages[page] = None
        found = self._pages[page]
        return None if found is None else found | linear & _PAGE - 1

    def _table_entry(self, address: int, size: int) -> bytes:
        """An entry of a page table. Tables are read whole, because many entries of one are used."""
        table, offset = address & ~(_PAGE - 1), address & _PAGE - 1
        if table not in self._tables:
            try:
                self._tables[table] = self.session.physical(table, _PAGE)
            except (PvhdbgError, Unavailable):
                return self.session.physical(address, size)  # a recording holds only the entries that were walked
        return self._tables[table][offset : offset + size]

    def name_of(self, linear: int) -> str | None:
        """`symbol+0x12` of a linear address, or None."""
        physical = self.physical(linear) if self.symbols is not None and self.found is not False else None
        if self.symbols is None or physical is None:
            return None
        found = self.symbols.nearest(physical - self.load_bias) if physical >= self.load_bias else None
        if found is None:
            return None
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    @property
    def missing(self) -> str:
        """A sentence about a kernel that was not found; empty unless it was searched in vain."""
        if self.found is not False:
            return ""
        return "the kernel is not at its file's addresses, nor around the pc: not unpacked yet, or moved; symbols follow the file"

    def physical_of(self, name: str) -> int:
        """The symbol's physical address. Raises BadInput as `address_of`."""
        if self.symbols is None:
            raise BadInput(f"no kernel file is known to look up {name} in", self.session.naming)
        return self.symbols.physical_address(name) + self.load_bias

    def aliases(self, name: str, offset: int = 0) -> tuple[int, ...]:
        """Every linear address at which the symbol is executed: before paging, and after. Raises BadInput as `address_of`."""
        physical = self.physical_of(name)
        assert self.symbols is not None
        virtual = self.symbols.virtual_address(name) + self.virtual_bias
        return tuple(dict.fromkeys((physical + offset & _WRAP, virtual + offset & _WRAP)))

    def address_of(self, name: str) -> int:
        """The symbol's current linear address. Raises BadInput for one that does not exist."""
        if self.symbols is None:
            raise BadInput(f"no kernel file is known to look up {name} in", self.session.naming)
        link = self.symbols.virtual_address(name)
        physical = self.physical_of(name)
        if not self.paging or (self.kaslr_offset is None and self.physical(physical) == physical):
            return physical
        return link + self.virtual_bias & _WRAP

    @property
    def virtual_bias(self) -> int:
        """How far the kernel's virtual addresses are moved, as far as that is known."""
        return (self.relocation if self.kaslr_offset is None else self.kaslr_offset) or 0


def find(session: StoppedMachine) -> Placement:
    """The kernel's placement at the session's current stop."""
    registers = session.registers()
    pc = registers.get("rip")
    placement = Placement(session, session.symbols, _load_bias(session), paging=bool(paging_on(registers)))
    marks = session.marks
    if marks:
        _look_for(placement, marks, pc)
    if placement.symbols is not None and placement.paging:
        placement.kaslr_offset = _kaslr_offset(placement, placement.symbols, pc)
    return placement


def _load_bias(session: StoppedMachine) -> int:
    """How far a loader moved the kernel (PHYS32_RELOC): the actual entry minus the one of the note."""
    kernel, entry = session.kernel, session.known_entry
    if kernel is None or kernel.entry is None or entry is None or entry.address is None or not kernel.relocatable:
        return 0
    return entry.address - kernel.entry if entry.by_vmm else 0


def _look_for(placement: Placement, marks: Marks, pc: int | None) -> None:
    """Find the kernel's bytes, first at their last place: during one boot a kernel does not move."""
    session, read = placement.session, placement.session.physical
    known = session.kernel_location
    first = dict.fromkeys((placement.load_bias if known is None else known.load_bias, placement.load_bias))
    likely = islice(_biases(placement, marks, pc), _MOST_BIASES)
    for load_bias in chain(first, likely, islice(_slots(session, marks), _MOST_SLOTS)):
        there = marks.at(load_bias, read)
        if there is not None:
            placement.found = there
        if there:
            if known is None or known.load_bias != load_bias:
                session.kernel_location = known = marks.location(load_bias, read)
            break
    if known is not None:
        placement.load_bias, placement.relocation = known
        placement.found = placement.found or None  # it was there before: the rest of it still gets names


def _biases(placement: Placement, marks: Marks, pc: int | None) -> Iterator[int]:
    """Candidate load biases: those that put `pc` inside the kernel, and those from the start of the mapped kernel range."""
    at = None if pc is None else placement.physical(pc)
    if at is not None:
        lowest = max(at - marks.end + 1, -marks.start)
        yield from range(-(-lowest // marks.step) * marks.step, at - marks.start + 1, marks.step)
    if not placement.paging:
        return
    region, mapped = marks.link & ~(_KERNEL_MAP - 1), False
    for linear in range(region, region + _KERNEL_MAP, _LARGE_PAGE):
        physical = placement.physical(linear)
        if physical is not None and not mapped:
            yield physical - marks.start
        mapped = physical is not None


def _slots(session: StoppedMachine, marks: Marks) -> Iterator[int]:
    """Every place in a recording's RAM: no reads from a machine are needed, and a core lacks EFER, which the page tables need."""
    from pvhdbg.targets.recorded import RecordedTarget

    recording = session.target.snapshot if isinstance(session.target, RecordedTarget) else None
    for area in recording.backing or () if recording is not None else ():
        if area.kind is BackingKind.RAM:
            yield from range(-((marks.start - area.start) // marks.step) * marks.step, area.end - marks.start, marks.step)


def _kaslr_offset(placement: Placement, symbols: Symbols, pc: int | None) -> int | None:
    """The distance of the kernel's virtual addresses from the linked ones; None while they are not mapped."""
    kernel = placement.session.kernel
    relocation = placement.relocation or 0
    for load in kernel.loads if kernel is not None else ():
        for link in symbols.to_virtual(load.start):
            if link != load.start and placement.physical(link + relocation & _WRAP) == load.start + placement.load_bias:
                return relocation
    physical = None if pc is None else placement.physical(pc)
    if pc is not None and physical is not None and physical != pc and placement.found is not False:
        offsets = [pc - link for link in symbols.to_virtual(physical - placement.load_bias)]
        if offsets:
            return min(offsets, key=abs)
    return None
