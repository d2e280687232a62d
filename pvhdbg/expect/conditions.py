"""The conditions that an expectation may put on a field, each with the kinds of field and of value that it takes."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.expect.fields import ValueKind
from pvhdbg.expect.quantity import number, size_words

_NUMERIC = frozenset({ValueKind.NUMBER, ValueKind.SIZE})
_ALL = frozenset(ValueKind)
_LONGEST = 200  # characters of a value that are shown


class BadValue(Exception):
    """The value does not fit the field or the condition; the message says which value would."""


@dataclass(frozen=True)
class Operator:
    """One comparison. `kinds` are the kinds of field that it applies to."""

    name: str
    kinds: frozenset[ValueKind]
    holds: Callable[[Any, Any], bool]
    value: Callable[[ValueKind, Any], Any]


def _value(kind: ValueKind, given: Any) -> Any:
    if kind is ValueKind.FLAG:
        if not isinstance(given, bool):
            raise BadValue(f"the field is {kind.value}, and this is {_said(given)}")
        return given
    if kind is ValueKind.TEXT:
        return _string(kind, given)
    if isinstance(given, str):
        read = number(given)
        if read is None:
            raise BadValue(f"the field is {kind.value}, and this is {_said(given)}: write 31, 0x1f or a size like 400M")
        return read
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 1 << 64:
        raise BadValue(f"the field is {kind.value}, and this is {_said(given)}: write 31, 0x1f or a size like 400M")
    return given


def _string(kind: ValueKind, given: Any) -> str:
    if not isinstance(given, str):
        raise BadValue(f"it takes text, and this is {_said(given)}")
    return given


def _pattern(kind: ValueKind, given: Any) -> re.Pattern[str]:
    try:
        return compiled(_string(kind, given))
    except BadPattern as error:
        raise BadValue(f"{given!r:.80} is not a regular expression: {error}") from None


def _several(kind: ValueKind, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        raise BadValue(f"it takes a list of values, and this is {_said(given)}")
    return tuple(_value(kind, one) for one in given)


def _flag(kind: ValueKind, given: Any) -> bool:
    if not isinstance(given, bool):
        raise BadValue(f"it takes true or false, and this is {_said(given)}")
    return given


def _said(given: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number with a fraction",
        str: "the text",
        list: "a list",
        dict: "a table",
    }
    name = names.get(type(given), "a date or time")
    if type(given) is int and given.bit_length() > 64:  # Python writes no decimal of more than 4300 digits
        return f"{name} {hex(given)[:40]}"
    return f"{name} {given!r:.40}" if isinstance(given, int | float | str) and not isinstance(given, bool) else name


EXISTS = "exists"
OPERATORS = {
    one.name: one
    for one in (
        Operator("==", _ALL, operator.eq, _value),
        Operator("!=", _ALL, operator.ne, _value),
        Operator("<", _NUMERIC, operator.lt, _value),
        Operator("<=", _NUMERIC, operator.le, _value),
        Operator(">", _NUMERIC, operator.gt, _value),
        Operator(">=", _NUMERIC, operator.ge, _value),
        Operator("matches", frozenset({ValueKind.TEXT}), lambda found, wanted: wanted.search(found) is not None, _pattern),
        Operator("contains", frozenset({ValueKind.TEXT}), lambda found, wanted: wanted in found, _string),
        Operator("in", _ALL, lambda found, wanted: found in wanted, _several),
        Operator(EXISTS, _ALL, lambda found, wanted: wanted is True, _flag),
    )
}


@dataclass(frozen=True)
class Condition:
    """An operator with its value, for a field of one kind."""

    operator: Operator
    value: Any
    kind: ValueKind

    def holds(self, found: Any) -> bool:
        """Whether `found` fulfils the condition."""
        return self.operator.holds(found, self.value)

    def __str__(self) -> str:
        if isinstance(self.value, tuple):
            return f"{self.operator.name} [{', '.join(words(self.kind, one) for one in self.value)}]"
        if isinstance(self.value, re.Pattern):
            return f"{self.operator.name} {self.value.pattern!r}"
        return f"{self.operator.name} {words(self.kind, self.value)}"


def condition(kind: ValueKind, name: str, given: Any) -> Condition:
    """The condition `name = given` on a field of that kind. Raises BadValue."""
    found = OPERATORS[name]
    if kind not in found.kinds:
        raise BadValue(f"the field is {kind.value}, and {name} does not apply to it")
    return Condition(found, found.value(kind, given), kind)


def words(kind: ValueKind, value: Any) -> str:
    """A value in the form of a report."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return (
            f"{value:#x} ({size_words(value)})"
            if kind is ValueKind.SIZE and value > 9
            else f"{value:#x}"
            if value > 9
            else str(value)
        )
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}… ({len(value)} characters)"
