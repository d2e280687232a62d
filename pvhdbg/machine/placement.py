"""Where the kernel lies at one stop, so that its symbols mean what the machine has there.

Before paging a symbol is at its physical address; afterwards at its virtual one, moved by what the kernel slid (KASLR). A name
is given to an address by the machine's own page tables: linear to physical, and physical to the symbol whose segment was loaded
there. That holds in every mode, for identity maps and kernel maps alike, and never guesses a slide. Where a kernel file has bytes
enough to be known by, they are looked for in memory: a decompressor may put it elsewhere (`whereabouts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from pvhdbg.decode.paging import translate
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import LOW_HALVES, Unavailable

if TYPE_CHECKING:
    from pvhdbg.kernel.location import Marks
    from pvhdbg.kernel.symbols import Symbols
    from pvhdbg.machine.session import Session

_PAGE = 1 << 12
_MOST_PLACES = 64  # where a kernel is looked for at one stop
_MOST_SLOTS = 1 << 15  # 64 GiB of a recording
_LARGE_PAGE = 1 << 21
_KERNEL_MAP = 1 << 30  # a kernel slides within the 1 GiB that it was linked for: Linux' KERNEL_IMAGE_SIZE
_TERM = re.compile(r"\s*([+-]?)\s*([^\s+-]+)")
_SYMBOL = re.compile(r"[A-Za-z_.][\w.$@]*")
_ALIASES = {"$pc": "rip", "$sp": "rsp"}
_WRAP = (1 << 64) - 1


@dataclass
class Placement:
    """Symbols at one stop.

    `moved` is how far the kernel lies from its p_paddr; `slide` how far it is mapped from its p_vaddr, None while it is not;
    `relocated` how far its pointers were moved, None where that does not show. `found` says whether its bytes are there: None
    where they were not looked at, or the file has none to know it by.
    """

    session: Session
    symbols: Symbols | None
    moved: int = 0
    slide: int | None = None
    paging: bool = False
    found: bool | None = None
    relocated: int | None = None

    def __post_init__(self) -> None:
        self.unread = False  # page tables that were asked for could not be
        self._pages: dict[int, int | None] = {}
        self._tables: dict[int, bytes] = {}

    def physical(self, linear: int) -> int | None:
        """The physical address behind a linear one, or None where the page tables end. Remembers pages."""
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
        """An entry of a page table. Tables are read whole, as many entries of one are asked for."""
        table, offset = address & ~(_PAGE - 1), address & _PAGE - 1
        if table not in self._tables:
            try:
                self._tables[table] = self.session.physical(table, _PAGE)
            except (PvhdbgError, Unavailable):
                return self.session.physical(address, size)  # a recording holds what was walked
        return self._tables[table][offset : offset + size]

    def name_of(self, linear: int) -> str | None:
        """`symbol+0x12` of a linear address, or None."""
        physical = self.physical(linear) if self.symbols is not None and self.found is not False else None
        if self.symbols is None or physical is None:
            return None
        found = self.symbols.nearest(physical - self.moved) if physical >= self.moved else None
        if found is None:
            return None
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    @property
    def missing(self) -> str:
        """What is to be said of a kernel that is not there; empty unless that was seen."""
        if self.found is not False:
            return ""
        return "the kernel is not where its file asks, nor around the pc: not unpacked yet, or moved; its symbols are placed by the file"

    def physical_of(self, name: str) -> int:
        """The symbol's physical address. Raises BadInput as `address_of`."""
        if self.symbols is None:
            raise BadInput(f"there is no kernel file to look {name} up in", self.session.naming)
        return self.symbols.physical_address(name) + self.moved

    def aliases(self, name: str, offset: int = 0) -> tuple[int, ...]:
        """Every linear address at which the symbol will be met: before paging, and after. Raises BadInput as `address_of`."""
        physical = self.physical_of(name)
        assert self.symbols is not None
        virtual = self.symbols.virtual_address(name) + self.slid
        return tuple(dict.fromkeys((physical + offset & _WRAP, virtual + offset & _WRAP)))

    def address_of(self, name: str) -> int:
        """Where the symbol can be reached now: its linear address. Raises BadInput for one that does not exist."""
        if self.symbols is None:
            raise BadInput(f"there is no kernel file to look {name} up in", self.session.naming)
        link = self.symbols.virtual_address(name)
        physical = self.physical_of(name)
        if not self.paging or (self.slide is None and self.physical(physical) == physical):
            return physical
        return link + self.slid & _WRAP

    @property
    def slid(self) -> int:
        """How far the kernel's virtual addresses are moved, as far as that is known."""
        return (self.relocated if self.slide is None else self.slide) or 0


def find(session: Session) -> Placement:
    """Where the kernel lies at the session's current stop."""
    registers = session.registers()
    cr0, pc = registers.get("cr0"), registers.get("rip")
    placement = Placement(session, session.symbols, _moved(session), paging=bool(cr0 is not None and cr0 >> 31 & 1))
    marks = session.marks
    if marks:
        _look_for(placement, marks, pc)
    if placement.symbols is not None and placement.paging:
        placement.slide = _slide(placement, placement.symbols, pc)
    return placement


def _moved(session: Session) -> int:
    """How far a loader moved the kernel (PHYS32_RELOC): the entry that was found less the one of the note."""
    kernel, entry = session.kernel, session.known_entry
    if kernel is None or kernel.entry is None or entry is None or entry.address is None or not kernel.relocatable:
        return 0
    return entry.address - kernel.entry if entry.by_vmm else 0


def _look_for(placement: Placement, marks: Marks, pc: int | None) -> None:
    """Find the kernel's bytes, first where they were last: during one boot a kernel stays where it is."""
    session, read = placement.session, placement.session.physical
    known = session.whereabouts
    places = dict.fromkeys((placement.moved if known is None else known[0], placement.moved))
    likely = islice(_places(placement, marks, pc), _MOST_PLACES)
    for moved in chain(places, likely, islice(_slots(session, marks), _MOST_SLOTS)):
        there = marks.at(moved, read)
        if there is not None:
            placement.found = there
        if there:
            if known is None or known[0] != moved:
                session.whereabouts = known = moved, marks.slide(moved, read)
            break
    if known is not None:
        placement.moved, placement.relocated = known
        placement.found = placement.found or None  # it was there: what is left of it is still to be named


def _places(placement: Placement, marks: Marks, pc: int | None) -> Iterator[int]:
    """How far the kernel may have been moved: so that `pc` is in it, or that what is mapped for kernels begins with it."""
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


def _slots(session: Session, marks: Marks) -> Iterator[int]:
    """Each place that a recording's RAM has: nothing need be asked for, and a core lacks what page tables are read by (EFER)."""
    from pvhdbg.targets.recorded import RecordedTarget

    recording = session.target.snapshot if isinstance(session.target, RecordedTarget) else None
    for area in recording.backing or () if recording is not None else ():
        if area.kind == "ram":
            yield from range(-((marks.start - area.start) // marks.step) * marks.step, area.end - marks.start, marks.step)


def _slide(placement: Placement, symbols: Symbols, pc: int | None) -> int | None:
    """How far the kernel's virtual addresses lie from those that it was linked for; None while they are not mapped."""
    kernel = placement.session.kernel
    relocated = placement.relocated or 0
    for load in kernel.loads if kernel is not None else ():
        for link in symbols.to_virtual(load.start):
            if link != load.start and placement.physical(link + relocated & _WRAP) == load.start + placement.moved:
                return relocated
    physical = None if pc is None else placement.physical(pc)
    if pc is not None and physical is not None and physical != pc and placement.found is not False:
        slides = [pc - link for link in symbols.to_virtual(physical - placement.moved)]
        if slides:
            return min(slides, key=abs)
    return None


# --- what a user writes -------------------------------------------------------------------------------------------


def evaluate(session: Session, text: str, *, physical: bool = False) -> int:
    """Numbers, $registers and symbols, with + and - between them, as an address: symbols at their linear one, or physical.

    What is not of that form goes to the face's own evaluator (GDB's expressions), if it has one. Raises BadInput.
    """
    terms = _terms(text)
    if terms is None:
        if session.evaluate is not None:
            return session.evaluate(text) & _WRAP
        raise BadInput(f"{text!r} is no address", "give a number, a $register or a symbol, with + and - between them")
    total = 0
    for sign, word in terms:
        value = _value(session, word, physical)
        total += -value if sign == "-" else value
    return total & _WRAP


def _terms(text: str) -> list[tuple[str, str]] | None:
    found, at = [], 0
    for match in _TERM.finditer(text):
        if match.start() != at or (at > 0 and not match[1]):
            return None
        found.append((match[1], match[2]))
        at = match.end()
    if not found or text[at:].strip() or not all(_simple(word) for _, word in found):
        return None
    return found


def _simple(word: str) -> bool:
    return bool(re.fullmatch(r"0[xX][0-9A-Fa-f]+|\d+|\$\w+", word, re.ASCII) or _SYMBOL.fullmatch(word))


def _value(session: Session, word: str, physical: bool) -> int:
    if word[0].isdigit():
        try:
            value = int(word, 0)
        except ValueError:
            raise BadInput(f"{word} is no number", "write 0x1000, or 4096") from None
        if value > _WRAP:
            raise BadInput(f"{word} is not an address: it has more than 64 bits", "give a number below 2^64")
        return value
    if word.startswith("$"):
        return _register(session, word)
    return _symbol(session, word, physical)


def _register(session: Session, word: str) -> int:
    name = _ALIASES.get(word, word[1:])
    registers = session.registers()
    value = registers.get(name)
    if value is not None:
        return value
    if session.evaluate is not None:
        return session.evaluate(word)
    if name in LOW_HALVES or name in LOW_HALVES.values():
        raise BadInput(f"{word} was not observed: {registers.missing}", "give its value as a number")
    raise BadInput(f"there is no register {word}", f"it shows {', '.join(sorted(registers)[:6])} and others: regs")


def _symbol(session: Session, word: str, physical: bool) -> int:
    placement = session.placement
    try:
        return placement.physical_of(word) if physical else placement.address_of(word)
    except BadInput as ours:
        if session.evaluate is None:
            raise
        try:
            return session.evaluate(word)  # a variable or a type of the debug information
        except PvhdbgError:
            raise ours from None
