"""Where the kernel lies at one stop, so that its symbols mean what the machine has there.

Before paging a symbol is at its physical address; afterwards at its virtual one, moved by what the kernel slid (KASLR). A name
is given to an address by the machine's own page tables: linear to physical, and physical to the symbol whose segment was loaded
there. That holds in every mode, for identity maps and kernel maps alike, and never guesses a slide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvhdbg.decode.paging import translate
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import LOW_HALVES, Unavailable

if TYPE_CHECKING:
    from pvhdbg.frontends.session import Session
    from pvhdbg.symbols import Symbols

_PAGE = 1 << 12
_TERM = re.compile(r"\s*([+-]?)\s*([^\s+-]+)")
_SYMBOL = re.compile(r"[A-Za-z_.][\w.$@]*")
_ALIASES = {"$pc": "rip", "$sp": "rsp"}
_WRAP = (1 << 64) - 1


@dataclass
class Placement:
    """Symbols at one stop. `moved` is how far the kernel lies from its p_paddr; `slide` from its p_vaddr, None if unmapped."""

    session: Session
    symbols: Symbols | None
    moved: int = 0
    slide: int | None = None
    paging: bool = False

    def __post_init__(self) -> None:
        self._pages: dict[int, int | None] = {}

    def physical(self, linear: int) -> int | None:
        """The physical address behind a linear one, or None where the page tables end. Remembers pages."""
        if not self.paging:
            return linear
        page = linear & ~(_PAGE - 1)
        if page not in self._pages:
            try:
                walk = translate(self.session.registers(), page, self.session.physical)
                self._pages[page] = walk.physical
            except (PvhdbgError, Unavailable):
                self._pages[page] = None
        found = self._pages[page]
        return None if found is None else found | linear & _PAGE - 1

    def name_of(self, linear: int) -> str | None:
        """`symbol+0x12` of a linear address, or None."""
        physical = self.physical(linear) if self.symbols is not None else None
        if self.symbols is None or physical is None:
            return None
        found = self.symbols.nearest(physical - self.moved) if physical >= self.moved else None
        if found is None:
            return None
        name, offset = found
        return f"{name}+{offset:#x}" if offset else name

    def physical_of(self, name: str) -> int:
        """The symbol's physical address. Raises BadInput as `address_of`."""
        if self.symbols is None:
            raise BadInput(f"there is no kernel file to look {name} up in", self.session.naming)
        return self.symbols.physical_address(name) + self.moved

    def aliases(self, name: str) -> tuple[int, ...]:
        """Every linear address at which the symbol will be met: before paging, and after. Raises BadInput as `address_of`."""
        physical = self.physical_of(name)
        assert self.symbols is not None
        virtual = self.symbols.virtual_address(name) + (self.slide or 0) & _WRAP
        return tuple(dict.fromkeys((physical, virtual)))

    def address_of(self, name: str) -> int:
        """Where the symbol can be reached now: its linear address. Raises BadInput for one that does not exist."""
        if self.symbols is None:
            raise BadInput(
                f"there is no kernel file to look {name} up in", self.session.naming
            )
        link = self.symbols.virtual_address(name)
        physical = self.physical_of(name)
        if not self.paging or (self.slide is None and self.physical(physical) == physical):
            return physical
        return link + (self.slide or 0) & _WRAP


def find(session: Session) -> Placement:
    """Where the kernel lies at the session's current stop."""
    registers = session.registers()
    cr0 = registers.get("cr0")
    placement = Placement(session, session.symbols, _moved(session), paging=bool(cr0 is not None and cr0 >> 31 & 1))
    if placement.symbols is not None and placement.paging:
        placement.slide = _slide(placement, placement.symbols, registers.get("rip"))
    return placement


def _moved(session: Session) -> int:
    """How far a loader moved the kernel (PHYS32_RELOC): the entry that was found less the one of the note."""
    kernel, entry = session.kernel, session.known_entry
    if kernel is None or kernel.entry is None or entry is None or entry.address is None or not kernel.relocatable:
        return 0
    return entry.address - kernel.entry if entry.by_vmm else 0


def _slide(placement: Placement, symbols: Symbols, pc: int | None) -> int | None:
    """How far the kernel's virtual addresses lie from those that it was linked for; None while they are not mapped."""
    physical = None if pc is None else placement.physical(pc)
    if pc is not None and physical is not None and physical != pc:
        slides = [pc - link for link in symbols.to_virtual(physical - placement.moved)]
        if slides:
            return min(slides, key=abs)
    kernel = placement.session.kernel
    for load in kernel.loads if kernel is not None else ():
        for link in symbols.to_virtual(load.start):
            if link != load.start and placement.physical(link) == load.start + placement.moved:
                return 0
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
