"""What `display` shows at each stop: memory in a format, or the value of an expression with registers."""

from __future__ import annotations

from dataclasses import dataclass

from pvhdbg.decode.text import safe
from pvhdbg.errors import BadInput, PvhdbgError, TargetLost
from pvhdbg.machine.session import Session
from pvhdbg.model import Unavailable
from pvhdbg.repl import memory_view

_MOST = 32  # displays


@dataclass(frozen=True)
class Display:
    """One display: `format` is that of `x`, empty for the value of an expression."""

    number: int
    format: str
    what: str

    @property
    def words(self) -> str:
        """How it was typed."""
        return f"{self.format} {self.what}".strip()

    def lines(self, session: Session) -> list[str]:
        """What it shows now; one line with the reason where that cannot be read. Raises TargetLost."""
        try:
            if not self.format:
                return [f"{self.number}: {self.what} = {session.address(self.what):#x}"]
            found = memory_view.shown(session, self.format, session.address(self.what)).lines
        except TargetLost:
            raise
        except Unavailable as gap:
            return [f"{self.number}: {self.words}: {safe(gap.reason)}"]
        except PvhdbgError as gap:
            return [f"{self.number}: {self.words}: {safe(gap.what)}"]
        return [f"{self.number}: {self.words}", *(f"  {line}" for line in found)]


class Displays:
    """The displays of one conversation, by number."""

    def __init__(self) -> None:
        self._by_number: dict[int, Display] = {}
        self._next = 1

    def all(self) -> list[Display]:
        return list(self._by_number.values())

    def add(self, session: Session, format: str, what: str) -> Display:
        """One more; an address without a format is shown as a word of memory. Raises BadInput for what cannot be shown anywhere."""
        if len(self._by_number) >= _MOST:
            raise BadInput(f"{_MOST} displays are the most", "delete one: undisplay N")
        session.address(what)
        if not format and not what.startswith("$"):
            format = "/x"
        if format:
            try:
                memory_view.shown(session, format, session.address(what))
            except BadInput:
                raise
            except (PvhdbgError, Unavailable):
                pass  # it may be readable at another stop
        one = Display(self._next, format, what)
        self._next += 1
        self._by_number[one.number] = one
        return one

    def delete(self, number: int) -> None:
        """Raises BadInput for an unknown number."""
        if number not in self._by_number:
            raise BadInput(f"display {number} does not exist", "list them with: display")
        del self._by_number[number]

    def clear(self) -> None:
        self._by_number.clear()

    def lines(self, session: Session) -> list[str]:
        """All of them, as they are now."""
        return [line for one in self.all() for line in one.lines(session)]
