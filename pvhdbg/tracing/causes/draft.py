"""What an explanation is made of, and the case that it is made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pvhdbg.tracing.addresses import ClassifiedAddress, Surroundings
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.event import Event, Fault

Disassemble = Callable[[bytes, int, int], str]


@dataclass
class Draft:
    """An explanation in the making: `cause` in a word or two, sentences without their full stops."""

    cause: str
    sentences: list[str] = field(default_factory=list)
    promises: list[str] = field(default_factory=list)
    next: str = ""
    address: ClassifiedAddress | None = None

    def found(self, cause: str, *sentences: str, next: str) -> bool:
        """Take this for the cause; always True."""
        self.cause, self.next = cause, next
        self.sentences += sentences
        return True

    def adopt(self, inner: Draft, lead: str) -> None:
        """Take the cause of `inner`, its sentences behind `lead`, and its promises instead of the own ones."""
        first, *others = inner.sentences
        self.sentences += [f"{lead}{first}", *others]
        self.cause, self.address, self.promises, self.next = inner.cause, inner.address, inner.promises, inner.next


class Case(NamedTuple):
    """One fault of a death: `event` is the instruction that it hit, where that is known."""

    death: Death
    fault: Fault
    event: Event | None
    around: Surroundings
    disassemble: Disassemble

    @property
    def text(self) -> str:
        """The instruction that was hit, as text; "" where it is not known."""
        return "" if self.event is None else self.text_of(self.event)

    def text_of(self, event: Event) -> str:
        """An instruction as text; "" where its bytes are not known."""
        return self.disassemble(event.code, event.pc, event.mode.bits) if event.code else ""


# A cause that is recognized: it fills the draft and returns True, or returns False and leaves the draft as it was.
Recognize = Callable[[Draft, Case], bool]
