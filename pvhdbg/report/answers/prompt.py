"""The answers that only the prompt gives: what stops the machine, and what is shown at a stop."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import answer
from pvhdbg.report.answers.memory import MachineCode


class StopState(NamedTuple):
    """A breakpoint or a watchpoint. `size` and `access` are those of a watchpoint; `by_steps` where the stub cannot watch memory."""

    number: int
    command: str
    where: str
    addresses: tuple[Hex, ...]
    size: int | None
    access: str | None
    by_steps: bool
    hits: int
    value: bytes | None


@answer("breakpoints")
class BreakpointsAnswer(NamedTuple):
    """The breakpoints and watchpoints, by number."""

    stops: tuple[StopState, ...]


class ChangedRegister(NamedTuple):
    """A register, and its value at the last stop; null where that was not observed."""

    name: str
    value: Hex
    before: Hex | None


class StackWord(NamedTuple):
    """A word of the stack, of `size` bytes. `symbol` names the address that it holds."""

    address: Hex
    size: int
    value: Hex
    symbol: str | None


@answer("context")
class ContextAnswer(NamedTuple):
    """The context of a stop. `registers` are those that changed, at the `first` stop the general ones; `unread` says why a part is missing."""

    pc: Hex
    place: str
    mode: str
    first: bool
    registers: tuple[ChangedRegister, ...]
    code: tuple[MachineCode, ...]
    source: str | None
    source_text: str | None
    stack: tuple[StackWord, ...]
    serial: str | None
    unread: tuple[str, ...]


class ShownDisplay(NamedTuple):
    """A display as it was typed, and what it shows."""

    number: int
    what: str
    lines: tuple[str, ...]


@answer("displays")
class DisplaysAnswer(NamedTuple):
    """What is shown at each stop."""

    displays: tuple[ShownDisplay, ...]
