"""Read a file of expectations, parsed from TOML, into values that can be judged. Every error names its place in the file.

::

    [machine]                       # how a kernel file is booted
    memory = "512M"

    [[expect]]
    field = "start_info.command_line"
    matches = "console="

    [[milestone]]                   # in this order, after the entry
    reaches = "start_kernel"
    timeout = 20
    max_instructions = 20000        # counted from the entry

    [[allow]]
    rule = "PVH-SEG-ACCESSED"
    reason = "TCG never sets them"

    [[stress]]                      # for pvhdbg stress
    allow = "version-0"
    reason = "this kernel needs a memory map"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.expect.conditions import OPERATORS, BadValue, Condition, condition
from pvhdbg.expect.fields import NoSuchField, ReportField, resolve
from pvhdbg.rules.catalogue import find

BOUND = 1000  # expectations in one file
_TODO = "see docs/expectations.md for the format of a file of expectations"


@dataclass(frozen=True)
class Expectation:
    """The expected value of one field. `place` is the expectation's place in the file: `expect[2]`."""

    place: str
    field: ReportField
    conditions: tuple[Condition, ...]
    why: str = ""

    @property
    def words(self) -> str:
        """The whole expectation on one line of safe text."""
        return printable(f"{self.field.path} {' and '.join(str(one) for one in self.conditions)}")


@dataclass(frozen=True)
class ExpectedMilestone:
    """A step of the boot, which must follow the steps before it in the file: a symbol, "0x" address or mode, or serial output.

    `timeout` is in seconds, counted from the step before. `instructions` is the highest number of instructions between the entry
    and the step (None: any number).
    """

    place: str
    reaches: str | None
    serial: re.Pattern[str] | None
    timeout: float
    why: str = ""
    instructions: int | None = None

    @property
    def words(self) -> str:
        """The whole milestone on one line of safe text."""
        what = f"reaches {self.reaches}" if self.serial is None else f"serial matches {self.serial.pattern!r}"
        budget = "" if self.instructions is None else f" and {self.instructions:,} instructions"
        return printable(f"{what} within {self.timeout:g} s{budget}")


@dataclass(frozen=True)
class Allowance:
    """A rule of the ABI whose violation is allowed, or a mutation that the guest need not survive, and the reason."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Expectations:
    """The whole file; `name` is its name in reports. `machine` holds options of `check` by name. `stress` holds mutations by id."""

    name: str
    machine: Mapping[str, Any]
    expected: tuple[Expectation, ...]
    allowed: tuple[Allowance, ...]
    milestones: tuple[ExpectedMilestone, ...] = ()
    stress: tuple[Allowance, ...] = ()


class _Wrong(Exception):
    """An error in the file: its `path` in the document, and what is wrong there."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path = path
        self.what = what


def read(document: Mapping[str, Any], name: str) -> Expectations:
    """The expectations in a parsed TOML document. Raises BadInput that names the place, `expect[2].matches`."""
    try:
        _keys(document, "", ("machine", "expect", "milestone", "allow", "stress"))
        return Expectations(
            name,
            _machine(_table(document.get("machine", {}), "machine")),
            tuple(_expectation(one, f"expect[{index}]") for index, one in enumerate(_rows(document, "expect"))),
            _allowed(document),
            tuple(_milestone(one, f"milestone[{index}]") for index, one in enumerate(_rows(document, "milestone"))),
            tuple(_unstressed(one, f"stress[{index}]") for index, one in enumerate(_rows(document, "stress"))),
        )
    except _Wrong as wrong:
        raise BadInput(f"{name}: {wrong.path}: {wrong.what}", _TODO) from None


def _keys(table: Mapping[str, Any], path: str, known: Iterable[str]) -> None:
    known = tuple(known)
    for key in table:
        at = f"{path}.{printable(key)[:60]}".lstrip(".")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise _Wrong(at, f"there is no such key{f': did you mean {near[0]}?' if near else '; there are ' + ', '.join(known)}")


def _table(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(path, "it must be a table")
    return value


def _rows(document: Mapping[str, Any], name: str) -> list[Any]:
    rows = document.get(name, [])
    if not isinstance(rows, list):
        raise _Wrong(name, f"it must be a list of tables: write [[{name}]]")
    if len(rows) > BOUND:
        raise _Wrong(name, f"there are {len(rows)} of them, more than {BOUND}")
    return rows


def _text(table: Mapping[str, Any], key: str, path: str) -> str:
    value = table.get(key)
    if value is None:
        raise _Wrong(f"{path}.{key}", "it is missing")
    if not isinstance(value, str) or not value:
        raise _Wrong(f"{path}.{key}", "it must be text in quotes")
    return value


def _expectation(value: Any, path: str) -> Expectation:
    table = _table(value, path)
    _keys(table, path, ("field", "why", *OPERATORS))
    try:
        field = resolve(_text(table, "field", path))
    except NoSuchField as error:
        raise _Wrong(f"{path}.field", str(error)) from None
    conditions = []
    for key, given in table.items():
        if key in OPERATORS:
            try:
                conditions.append(condition(field.kind, key, given))
            except BadValue as error:
                raise _Wrong(f"{path}.{key}", str(error)) from None
    if not conditions:
        raise _Wrong(path, f"it has no condition on {field.path}: add one of {', '.join(OPERATORS)}")
    return Expectation(path, field, tuple(conditions), printable(_text(table, "why", path)) if "why" in table else "")


_TIMEOUT = 30.0  # seconds
_LONGEST = 86400.0
_MOST_COUNTED = 2_000_000  # instructions: some 20 seconds


def _milestone(value: Any, path: str) -> ExpectedMilestone:
    table = _table(value, path)
    _keys(table, path, ("reaches", "serial", "timeout", "max_instructions", "why"))
    if ("reaches" in table) == ("serial" in table):
        raise _Wrong(path, "it must have either reaches (a symbol, 0xADDRESS or mode) or serial (a regular expression)")
    timeout = table.get("timeout", _TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
        raise _Wrong(f"{path}.timeout", f"it must be a number of seconds greater than 0 and at most {_LONGEST:g}")
    serial = None
    if "serial" in table:
        try:
            serial = compiled(_text(table, "serial", path))
        except BadPattern as error:
            raise _Wrong(f"{path}.serial", f"it is not a regular expression: {printable(str(error))}") from None
    reaches = _text(table, "reaches", path) if serial is None else None
    why = printable(_text(table, "why", path)) if "why" in table else ""
    return ExpectedMilestone(path, reaches, serial, float(timeout), why, _budget(table, path))


def _budget(table: Mapping[str, Any], path: str) -> int | None:
    budget = table.get("max_instructions")
    if budget is None:
        return None
    if "serial" in table:
        raise _Wrong(
            f"{path}.max_instructions", "it needs reaches: the instruction that wrote a line to the serial port is not known"
        )
    if isinstance(budget, bool) or not isinstance(budget, int) or not 0 < budget <= _MOST_COUNTED:
        raise _Wrong(f"{path}.max_instructions", f"it must be a whole number from 1 to {_MOST_COUNTED}")
    return budget


def _allowed(document: Mapping[str, Any]) -> tuple[Allowance, ...]:
    found: list[Allowance] = []
    for index, value in enumerate(_rows(document, "allow")):
        path = f"allow[{index}]"
        if isinstance(value, str):
            raise _Wrong(path, f'it needs a reason: write {{ rule = "{printable(value)[:40]}", reason = "…" }}')
        table = _table(value, path)
        _keys(table, path, ("rule", "reason"))
        try:
            rule = find(_text(table, "rule", path))
        except BadInput as error:
            raise _Wrong(f"{path}.rule", f"{error.what}: {error.todo}") from None
        if any(one.rule == rule.id for one in found):
            raise _Wrong(f"{path}.rule", f"{rule.id} is allowed twice")
        found.append(Allowance(rule.id, printable(_text(table, "reason", path))))
    return tuple(found)


def _unstressed(value: Any, path: str) -> Allowance:
    table = _table(value, path)
    _keys(table, path, ("allow", "reason"))
    return Allowance(printable(_text(table, "allow", path)), printable(_text(table, "reason", path)))


# --- [machine] ----------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


# The names are those of the options of `pvhdbg check`; `extra` holds the arguments after `--`.
_MACHINE: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("append", "initrd", "machine", "memory", "cpu", "accel", "qemu"), (_is_text, "text in quotes")),
    "cpus": (_is_count, "a number of at least 1"),
    "extra": (_is_words, "a list of arguments for QEMU"),
}


def _machine(table: Mapping[str, Any]) -> Mapping[str, Any]:
    _keys(table, "machine", _MACHINE)
    for key, value in table.items():
        fits, wanted = _MACHINE[key]
        if not fits(value):
            raise _Wrong(f"machine.{key}", f"it must be {wanted}")
    if table.get("accel", "tcg") not in ("tcg", "kvm", "auto"):
        raise _Wrong("machine.accel", "it must be tcg, kvm or auto")
    return {key: tuple(value) if key == "extra" else value for key, value in table.items()}
