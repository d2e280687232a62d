"""The user's breakpoints: one for each symbol, also when it has several addresses.

A kernel's symbol lies at its physical address before paging and at its virtual one afterwards. Both are set from the start, as
hardware breakpoints: software ones are overwritten when the kernel is loaded, and cannot be set where nothing is mapped yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
