"""A plan: the axes of a sweep, what is left out, and the bounds; read from TOML, and from options, which win.

::

    kernels = ["vmlinux-6.1", "vmlinux-6.12"]     # files, relative to the plan
    machines = ["pc", "q35", "microvm"]
    memory = ["256M", "3G"]
    qemus = ["qemu-system-x86_64", "/opt/qemu/bin/qemu-system-x86_64@10.0"]
    initrds = ["", "initrd.img"]                  # "" is the default: none
    mutations = ["", "all"]                       # each mutation of `pvhdbg stress` alone; "a+b" is two together

    goal_seconds = 60
    strict = true

    [[exclude]]                                   # cells that match all of its keys are left out
    machines = "microvm*"
    memory = "3G"

    [[only]]                                      # if there is one, only cells that match one of them are kept
    kernels = "*6.12"
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from pvhdbg.commands.options import JudgeOptions
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput
from pvhdbg.stress.campaign import MOST_BOOTS
from pvhdbg.stress.catalogue import MUTATIONS
from pvhdbg.stress.catalogue import find as find_mutation
from pvhdbg.sweep.axes import AXES, BY_KEY, SweepAxis
from pvhdbg.sweep.cell import CellBounds, SweepCell, accelerator, revision

MOST_CELLS = 10_000_000
USUAL_CELLS = 100_000
_MOST_VALUES = 100_000  # of one axis
_MOST_RULES = 1000
_LONGEST = 4096  # characters of a value
_ALL = "all"
_TODO = "see docs/sweeps.md for what a plan holds"

Value = str | int
Choice = Mapping[str, frozenset[Value]]  # a field of a cell -> the values that match


@dataclass(frozen=True)
class SweepPlan:
    """The values of each axis by its cell's field, in order. `folder` is what the names of files are relative to."""

    axes: Mapping[str, tuple[Value, ...]]
    exclude: tuple[Choice, ...] = ()
    only: tuple[Choice, ...] = ()
    bounds: CellBounds = field(default_factory=CellBounds)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    extra: tuple[str, ...] = ()
    reports: bool = True
    most: int = USUAL_CELLS
    folder: str = ""

    def cells(self) -> Iterator[SweepCell]:
        """Every cell, one at a time, always in the same order."""
        names = tuple(self.axes)
        for values in product(*self.axes.values()):
            content = dict(zip(names, values, strict=True))
            if self._kept(content):
                yield SweepCell(**content)  # type: ignore[arg-type]  # the plan checked the kinds of the values

    def count(self) -> int:
        """How many cells there are."""
        if not self.exclude and not self.only:
            return self.combinations()
        names = tuple(self.axes)
        return sum(self._kept(dict(zip(names, values, strict=True))) for values in product(*self.axes.values()))

    def combinations(self) -> int:
        """The number of all combinations, before `exclude` and `only`."""
        return math.prod(len(values) for values in self.axes.values())

    def _kept(self, content: Mapping[str, Value]) -> bool:
        if any(_matches(one, content) for one in self.exclude):
            return False
        return not self.only or any(_matches(one, content) for one in self.only)

    def sizes(self) -> str:
        """The axes that have more than one value: "2 kernels x 3 machines"; empty where there is none."""
        named = [(one.key.replace("_", " "), len(self.axes.get(one.field, ()))) for one in AXES]
        return " x ".join(f"{count} {name}" for name, count in named if count > 1)

    def files(self) -> dict[str, str]:
        """The path of each file that a cell names. Raises BadInput for one that cannot be read."""
        found: dict[str, str] = {}
        for axis in AXES:
            for value in self.axes.get(axis.field, ()) if axis.files else ():
                if not value or str(value) in found:
                    continue
                path = os.path.join(self.folder, os.path.expanduser(str(value)))
                if axis.perhaps and not os.path.isfile(path):
                    continue  # a firmware that QEMU finds by its name
                if not os.access(path, os.R_OK) or not os.path.isfile(path):
                    raise BadInput(
                        f"{path} of {axis.key} cannot be read",
                        "give an existing file, by its path from the plan's folder",
                    )
                found[str(value)] = path
        return found

    def document(self) -> str:
        """What decides which cells there are and how they are judged, as JSON: a run is only resumed with the same."""
        whole = {
            "axes": {name: list(values) for name, values in self.axes.items()},
            "exclude": [_plain(one) for one in self.exclude],
            "only": [_plain(one) for one in self.only],
            "timeout": self.bounds.timeout,
            "goal_seconds": self.bounds.goal_seconds,
            "judge": [self.judge.strict, list(self.judge.select), list(self.judge.ignore)],
            "extra": list(self.extra),
        }
        return json.dumps(whole, sort_keys=True)


def _matches(choice: Choice, content: Mapping[str, Value]) -> bool:
    return all(name not in content or content[name] in values for name, values in choice.items())


def _plain(choice: Choice) -> dict[str, list[str]]:
    return {name: sorted(map(str, values)) for name, values in choice.items()}


# --- reading ------------------------------------------------------------------------------------------------------


def planned(document: Mapping[str, Any], options: Mapping[str, Sequence[Value]], folder: str, name: str) -> SweepPlan:
    """The plan in a parsed TOML document with the axes that `options` give, by their key. Raises BadInput that names the place."""
    reader = _Reader(name)
    reader.known(document, "", (*BY_KEY, *SETTINGS, "exclude", "only"))
    axes: dict[str, tuple[Value, ...]] = {}
    for axis in AXES:
        given = options.get(axis.key, ())
        values = reader.values(list(given) or document.get(axis.key, []), axis)
        if values:
            axes[axis.field] = tuple(dict.fromkeys(_expanded(axis, values)))
    if not axes.get("kernel"):
        raise BadInput(f"{name} names no kernel", 'write kernels = ["vmlinux"], or give --kernel FILE')
    _check(axes)
    plan = SweepPlan(
        axes,
        reader.choices(document, "exclude", axes),
        reader.choices(document, "only", axes),
        reader.bounds(document, any(axes.get("mutations", ()))),
        JudgeOptions(reader.flag(document, "strict"), reader.words(document, "select"), reader.words(document, "ignore")),
        reader.words(document, "extra"),
        reader.flag(document, "reports", True),
        int(reader.number(document, "cells", USUAL_CELLS, MOST_CELLS)),
        folder,
    )
    plan.judge.refuse_unknown()
    if plan.combinations() > MOST_CELLS:
        raise BadInput(
            f"{name} has {plan.combinations()} combinations, more than {MOST_CELLS}", "leave values out, or make several sweeps"
        )
    count = plan.count()
    if count > plan.most:
        raise BadInput(f"{name} has {count} cells, more than {plan.most}", f"leave values out, or write cells = {count}")
    if not count:
        raise BadInput(f"{name} has no cell: exclude and only leave nothing", "see what they match")
    return plan


SETTINGS = (
    "timeout", "goal_seconds", "cell_seconds", "cell_memory", "cells", "strict", "select", "ignore", "extra", "reports",
)  # fmt: skip


class _Reader:
    """Reads the parts of a document; every error names the file and the key."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wrong(self, at: str, what: str) -> BadInput:
        return BadInput(f"{self._name}: {printable(at)[:80]}: {what}", _TODO)

    def known(self, table: Mapping[str, Any], at: str, keys: Iterable[str]) -> None:
        keys = tuple(keys)
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                raise self.wrong(
                    f"{at}{key}", f"there is no such key; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(keys)}"
                )

    def values(self, given: Any, axis: SweepAxis) -> list[Value]:
        listed = given if isinstance(given, list) else [given]
        if len(listed) > _MOST_VALUES:
            raise self.wrong(axis.key, f"there are {len(listed)} values, more than {_MOST_VALUES}")
        return [self._value(one, axis) for one in listed]

    def _value(self, value: Any, axis: SweepAxis) -> Value:
        if axis.numbers:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 16:
                raise self.wrong(axis.key, "each value must be a number; 0 is the default")
            return value
        if not isinstance(value, str) or len(value) > _LONGEST or not _is_utf8(value) or "\0" in value:
            raise self.wrong(axis.key, f'each value must be text in quotes, of at most {_LONGEST} characters; "" is the default')
        return value

    def choices(self, document: Mapping[str, Any], key: str, axes: Mapping[str, tuple[Value, ...]]) -> tuple[Choice, ...]:
        rows = document.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
            raise self.wrong(key, f"it must be a list of tables: write [[{key}]]")
        if len(rows) > _MOST_RULES:
            raise self.wrong(key, f"there are {len(rows)} of them, more than {_MOST_RULES}")
        return tuple(self._choice(one, f"{key}[{index}].", axes) for index, one in enumerate(rows))

    def _choice(self, row: Mapping[str, Any], at: str, axes: Mapping[str, tuple[Value, ...]]) -> Choice:
        self.known(row, at, BY_KEY)
        if not row:
            raise self.wrong(at.rstrip("."), "it is empty, and would match every cell")
        found: dict[str, frozenset[Value]] = {}
        for key, given in row.items():
            axis = BY_KEY[key]
            there = axes.get(axis.field, (0,) if axis.numbers else ("",))
            matching: set[Value] = set()
            for pattern in self.values(given, axis):
                some = {one for one in there if one == pattern or (isinstance(pattern, str) and fnmatchcase(str(one), pattern))}
                if not some:
                    near = difflib.get_close_matches(str(pattern), map(str, there), 1)
                    raise self.wrong(
                        f"{at}{key}", f"{pattern!r} matches no value of {key}{f'; did you mean {near[0]}?' if near else ''}"
                    )
                matching |= some
            found[axis.field] = frozenset(matching)
        return found

    def bounds(self, document: Mapping[str, Any], mutated: bool) -> CellBounds:
        usual = CellBounds()
        timeout = self.number(document, "timeout", usual.timeout, 86400)
        goal = self.number(document, "goal_seconds", usual.goal_seconds, 86400)
        boots = MOST_BOOTS if mutated else 1
        whole = self.number(document, "cell_seconds", boots * (timeout + goal) + 30, 10 * 86400)
        return CellBounds(timeout, goal, whole, self._memory(document, usual.memory))

    def _memory(self, document: Mapping[str, Any], usual: int) -> int:
        given = document.get("cell_memory")
        if given is None:
            return usual
        size = memory_size(given) if isinstance(given, str) else None
        if size is None or not 64 << 20 <= size <= 1 << 40:
            raise self.wrong("cell_memory", 'it must be a size of at least 64M, as in "4G"')
        return size

    def number(self, document: Mapping[str, Any], key: str, usual: float, most: float) -> float:
        value = document.get(key, usual)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.wrong(key, f"it must be a number greater than 0 and at most {most:g}")
        return value

    def flag(self, document: Mapping[str, Any], key: str, usual: bool = False) -> bool:
        value = document.get(key, usual)
        if not isinstance(value, bool):
            raise self.wrong(key, "it must be true or false")
        return value

    def words(self, document: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value) or len(value) > _MOST_RULES:
            raise self.wrong(key, "it must be a list of texts")
        return tuple(value)


def _expanded(axis: SweepAxis, values: Iterable[Value]) -> Iterator[Value]:
    for value in values:
        if axis.field == "mutations" and value == _ALL:
            yield from (one.id for one in MUTATIONS)
        else:
            yield value


def _check(axes: Mapping[str, tuple[Value, ...]]) -> None:
    """Raises BadInput for a value that no machine could have, before one is started."""
    for text in map(str, axes.get("accel", ())):
        if text:
            accelerator(text)
    for text in map(str, axes.get("spec", ())):
        if text:
            revision(text)
    for text in map(str, axes.get("mutations", ())):
        for id in text.split("+") if text else ():
            find_mutation(id)
    if any(axes.get("mutations", ())) and any(axes.get("expect", ())):
        raise BadInput("a plan cannot have both mutations and expectations", "make two sweeps; both can be kept in one file")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line
        return False
    return True


_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def memory_size(text: str) -> int | None:
    """A size as `-m` has it, in bytes: "256M", "3G", MiB without a unit; None for another notation."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "M")
    if not (number.isascii() and number.isdigit() and len(number) < 12) or unit not in _UNITS:
        return None
    return int(number) << _UNITS[unit]
