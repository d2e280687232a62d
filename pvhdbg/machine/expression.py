"""Address expressions: numbers, $registers and symbols, with + and - between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import LOW_HALVES

if TYPE_CHECKING:
    from pvhdbg.machine.placement import Placement
    from pvhdbg.model import Registers

_TERM = re.compile(r"\s*([+-]?)\s*([^\s+-]+)")
_SYMBOL = re.compile(r"[A-Za-z_.][\w.$@]*")
_ALIASES = {"$pc": "rip", "$sp": "rsp"}
_WRAP = (1 << 64) - 1


class Evaluated(Protocol):
    """The machine of an expression. `evaluate` is the front end's own evaluator (GDB's expressions), if it has one."""

    @property
    def evaluate(self) -> Callable[[str], int] | None: ...
    @property
    def placement(self) -> Placement: ...
    def registers(self) -> Registers: ...


def evaluate(session: Evaluated, text: str, *, physical: bool = False) -> int:
    """Numbers, $registers and symbols, with + and - between them, as an address: symbols at their linear one, or physical.

    Any other form goes to the front end's own evaluator (GDB's expressions), if it has one. Raises BadInput.
    """
    terms = _terms(text)
    if terms is None:
        if session.evaluate is not None:
            return session.evaluate(text) & _WRAP
        raise BadInput(f"{text!r} is not an address", "give a number, a $register or a symbol, with + and - between them")
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


def _value(session: Evaluated, word: str, physical: bool) -> int:
    if word[0].isdigit():
        try:
            value = int(word, 0)
        except ValueError:
            raise BadInput(f"{word} is not a number", "write 0x1000, or 4096") from None
        if value > _WRAP:
            raise BadInput(f"{word} is not an address: it has more than 64 bits", "give a number below 2^64")
        return value
    if word.startswith("$"):
        return _register(session, word)
    return _symbol(session, word, physical)


def _register(session: Evaluated, word: str) -> int:
    name = _ALIASES.get(word, word[1:])
    registers = session.registers()
    value = registers.get(name)
    if value is not None:
        return value
    if session.evaluate is not None:
        return session.evaluate(word)
    if name in LOW_HALVES or name in LOW_HALVES.values():
        raise BadInput(f"{word} was not observed: {registers.missing}", "give its value as a number")
    raise BadInput(f"the machine shows no register {word}", f"it shows {', '.join(sorted(registers)[:6])} and others: regs")


def _symbol(session: Evaluated, word: str, physical: bool) -> int:
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
