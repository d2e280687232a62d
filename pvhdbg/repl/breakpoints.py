"""The user's breakpoints: one for each symbol, also when it has several addresses.

A kernel's symbol lies at its physical address before paging and at its virtual one afterwards. Both are set from the start, as
hardware breakpoints: software ones are overwritten when the kernel is loaded, and cannot be set where nothing is mapped yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session

_NAMED = re.compile(r"\s*([A-Za-z_.][\w.$@]*)\s*((?:[+-].*)?)", re.DOTALL)
_WRAP = (1 << 64) - 1


@dataclass(frozen=True)
class Breakpoint:
    """`where` as it was typed; `physical` is the address that a symbol's linear addresses must map to, None for a plain address."""

    number: int
    where: str
    addresses: tuple[int, ...]
    physical: int | None = None
    hits: int = 0

    def line(self) -> str:
        """A line of `info breakpoints`."""
        at = ", ".join(f"{address:#x}" for address in self.addresses)
        hits = f", hit {self.hits} time{'' if self.hits == 1 else 's'}" if self.hits else ""
        return f"{self.number:<3} hardware  {self.where:<24} at {at}{hits}"


class Breakpoints:
    """The breakpoints of one conversation, by number."""

    def __init__(self) -> None:
        self._by_number: dict[int, Breakpoint] = {}
        self._next = 1

    def all(self) -> list[Breakpoint]:
        return list(self._by_number.values())

    def addresses(self) -> set[int]:
        """The addresses at which the machine must stop."""
        return {address for one in self._by_number.values() for address in one.addresses}

    def add(self, session: Session, where: str) -> Breakpoint:
        """One at a symbol (at both of its addresses) or an address. Raises BadInput, with the nearest names."""
        one = replace(resolve(session, where), number=self._next)
        self._next += 1
        self._by_number[one.number] = one
        return one

    def delete(self, number: int) -> None:
        """Raises BadInput for an unknown number."""
        if number not in self._by_number:
            raise BadInput(f"breakpoint {number} does not exist", "list them with: info breakpoints")
        del self._by_number[number]

    def clear(self) -> None:
        self._by_number.clear()

    def place(self, session: Session) -> None:
        """Look up each symbol again: KASLR may have moved the kernel, or it was booted again."""
        for number, one in self._by_number.items():
            if one.physical is not None:
                self._by_number[number] = replace(resolve(session, one.where), number=number, hits=one.hits)

    def at(self, address: int) -> Breakpoint | None:
        """The breakpoint at a linear address, which was hit."""
        found = next((one for one in self._by_number.values() if address in one.addresses), None)
        return None if found is None else self.hit(found.number)

    def hit(self, number: int) -> Breakpoint:
        one = self._by_number[number]
        self._by_number[number] = replace(one, hits=one.hits + 1)
        return self._by_number[number]


def resolve(session: Session, where: str) -> Breakpoint:
    """The addresses of `where`, without a number yet. Raises BadInput."""
    plain = where.strip().removeprefix("*").strip()
    match = _NAMED.fullmatch(plain)
    if match is None:
        return Breakpoint(0, plain, (session.address(plain),))
    name, rest = match[1], match[2]
    offset = session.address(f"0{rest}") if rest.strip() else 0
    placement = session.placement
    if session.symbols is None:
        return Breakpoint(0, plain, (session.address(plain),))  # raises BadInput, unless the front end's evaluator knows it
    physical = placement.physical_of(name) + offset & _WRAP
    return Breakpoint(0, plain, placement.aliases(name, offset), physical)
