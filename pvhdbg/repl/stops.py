"""What stops the machine, by the numbers that the user sees: breakpoints and watchpoints share them, as in GDB."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput
from pvhdbg.repl.breakpoints import Breakpoint, resolve

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.repl.watchpoints import WatchedMemory


class StopPlaces:
    """The breakpoints and watchpoints of one conversation, by number."""

    def __init__(self) -> None:
        self._by_number: dict[int, Breakpoint] = {}
        self._watches: dict[int, WatchedMemory] = {}
        self._next = 1

    def all(self) -> list[Breakpoint]:
        return list(self._by_number.values())

    def watches(self) -> list[WatchedMemory]:
        return list(self._watches.values())

    def watch(self, one: WatchedMemory) -> WatchedMemory:
        """Keep a watchpoint, under its own number or the next one."""
        if not one.number:
            one = replace(one, number=self._next)
            self._next += 1
        self._watches[one.number] = one
        return one

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
        if self._watches.pop(number, None) is None and self._by_number.pop(number, None) is None:
            raise BadInput(f"breakpoint {number} does not exist", "list them with: info breakpoints")

    def clear(self) -> None:
        self._by_number.clear()
        self._watches.clear()

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
