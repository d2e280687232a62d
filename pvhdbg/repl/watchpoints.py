"""The user's watchpoints: memory whose accesses stop the machine, by the stub's own watchpoints, or where it has none by steps.

A symbol is watched at its physical and its virtual address, as breakpoints are. Steps show a change of the bytes only: a read, or a store
of the value that was there, is not seen by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import Unavailable
from pvhdbg.repl.breakpoints import Breakpoint, resolve
from pvhdbg.targets.target import WatchKind, Watchpoint

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session

_SIZED = re.compile(r"(.*\S)\s*:\s*(\d{1,5})", re.ASCII | re.DOTALL)
_USUAL = 4  # bytes
_MOST = 4096  # bytes of one watchpoint
_SHOWN = 16  # bytes of a value that is not a number
WORDS = {WatchKind.WRITE: "watch", WatchKind.READ: "rwatch", WatchKind.ANY: "awatch"}


@dataclass(frozen=True)
class WatchedMemory:
    """`where` as it was typed, with its `addresses` and `physical` as in `Breakpoint`. `value` are the bytes at the last stop that
    was looked at, `before` those before the last hit; None where they cannot be read."""

    number: int
    where: str
    addresses: tuple[int, ...]
    size: int
    access: WatchKind
    physical: int | None = None
    by_steps: bool = False
    hits: int = 0
    value: bytes | None = None
    before: bytes | None = None

    def points(self) -> tuple[Watchpoint, ...]:
        """What the stub is asked for; nothing where it is watched by steps."""
        return () if self.by_steps else tuple(Watchpoint(address, self.size, self.access) for address in self.addresses)

    def line(self) -> str:
        """A line of `info breakpoints`."""
        at = ", ".join(f"{address:#x}" for address in self.addresses)
        hits = f", hit {self.hits} time{'' if self.hits == 1 else 's'}" if self.hits else ""
        steps = ", by steps" if self.by_steps else ""
        return f"{self.number:<3} {WORDS[self.access]:<8}  {self.where:<24} {counted(self.size)} at {at}{steps}{hits}"

    def change(self) -> str:
        """What the last hit did, in words."""
        now, before = shown(self.value), shown(self.before)
        if self.access is not WatchKind.READ and self.value != self.before:
            return f"{before} -> {now}"
        return f"{self.access.value}, it holds {now}"

    def now(self, session: Session) -> bytes | None:
        """The bytes that are there; None where they cannot be read."""
        try:
            if self.physical is not None:
                return session.physical(self.physical, self.size)
            return session.linear(self.addresses[0], self.size)
        except (PvhdbgError, Unavailable):
            return None


def shown(value: bytes | None) -> str:
    """A value as a number, or as bytes where it does not fit into a register."""
    if value is None:
        return "unreadable"
    if len(value) in (1, 2, 4, 8):
        return f"{int.from_bytes(value, 'little'):#x}"
    return value[:_SHOWN].hex(" ") + (" …" if len(value) > _SHOWN else "")


def watch_of(session: Session, text: str, access: WatchKind) -> WatchedMemory:
    """The watch that `SYMBOL`, `ADDRESS` or either with `:SIZE` means, without a number yet. Raises BadInput."""
    sized = _SIZED.fullmatch(text.strip())
    where, size = (sized[1], int(sized[2])) if sized is not None else (text, _USUAL)
    if not 0 < size <= _MOST:
        raise BadInput(f"{size} bytes cannot be watched", f"give a size of 1 to {_MOST}")
    at: Breakpoint = resolve(session, where)
    one = WatchedMemory(0, at.where, at.addresses, size, access, at.physical)
    return replace(one, value=one.now(session))


def placed(session: Session, one: WatchedMemory) -> WatchedMemory:
    """The same at the addresses that its symbol has now, with the bytes that are there."""
    if one.physical is not None:
        at = resolve(session, one.where)
        one = replace(one, addresses=at.addresses, physical=at.physical)
    return replace(one, value=one.now(session))


def counted(size: int) -> str:
    """A number of bytes."""
    return "1 byte" if size == 1 else f"{size} bytes"
