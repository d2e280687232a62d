"""The register dump of QEMU's log (target/i386/cpu-dump.c, both widths), as values by name, and the changes between two dumps.

Names are those of `model.Registers`; hidden segment state is NAME_base, NAME_limit, NAME_flags of es cs ss ds fs gs ldt tr, and
gdt_base, gdt_limit, idt_base, idt_limit. A register that the dump does not show has no value here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.tracing.event import Delta

_GENERAL = re.compile(rb"\b(R[A-Z0-9][A-Z0-9]?|E[A-Z]{2}|CR[0-9]) ?=([0-9a-f]{1,16})\b")
_SEGMENT = re.compile(rb"^(ES|CS|SS|DS|FS|GS|LDT|TR) ?= ?([0-9a-f]{4}) ([0-9a-f]{8,16}) ([0-9a-f]{8}) ([0-9a-f]{8})")
_TABLE = re.compile(rb"^(GDT|IDT)= +([0-9a-f]{8,16}) ([0-9a-f]{8})")
_EFER = re.compile(rb"^EFER=([0-9a-f]{16})")
_FLAGS = {"rfl": "eflags", "efl": "eflags"}


def decode_line(line: bytes, into: dict[str, int]) -> None:
    """Add the values that one line holds."""
    segment = _SEGMENT.match(line)
    if segment:
        name = segment[1].decode().lower()
        into[name] = int(segment[2], 16)
        into[f"{name}_base"], into[f"{name}_limit"], into[f"{name}_flags"] = (int(part, 16) for part in segment.groups()[2:])
        return
    table = _TABLE.match(line)
    if table:
        name = table[1].decode().lower()
        into[f"{name}_base"], into[f"{name}_limit"] = int(table[2], 16), int(table[3], 16)
        return
    efer = _EFER.match(line)
    if efer:
        into["efer"] = int(efer[1], 16)
        return
    for found, digits in _GENERAL.findall(line):
        name = found.decode().lower()
        name = _FLAGS.get(name, f"r{name[1:]}" if name[0] == "e" else name)
        into[name] = int(digits, 16)


def decode(text: bytes) -> dict[str, int]:
    """All values in a register dump."""
    values: dict[str, int] = {}
    for line in text.split(b"\n"):
        decode_line(line, values)
    return values


def has_interrupts_on(text: str) -> bool:
    """Whether a register dump shows that interrupts are on."""
    return interrupts_on(decode(text.encode("latin-1", "replace"))) is True


def of_cpu(text: str, cpu: int) -> str:
    """One CPU's part of `info registers -a`; empty for an unknown CPU."""
    _, _, part = f"\n{text}".replace("\r", "").partition(f"\nCPU#{cpu}\n")
    return part.partition("\nCPU#")[0]


class Dump(Mapping[str, int]):
    """The values in a register dump, which is decoded when the first one is asked for: most dumps of a guest's faults are never looked at."""

    def __init__(self, lines: Sequence[bytes] = ()) -> None:
        self._lines = lines

    @cached_property
    def _values(self) -> dict[str, int]:
        values: dict[str, int] = {}
        for line in self._lines:
            decode_line(line, values)
        return values

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class TextDelta(Delta):
    """The dumps before and after an instruction, compared on demand."""

    __slots__ = ("after", "before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before = before
        self.after = after

    def state(self) -> Mapping[str, int]:
        return decode(self.before)

    def decode(self) -> Mapping[str, int]:
        """Only registers that both dumps show can have changed: a 32-bit dump does not show r8."""
        if self.before == self.after:
            return {}
        before, after = self.before.split(b"\n"), self.after.split(b"\n")
        old: dict[str, int] = {}
        new: dict[str, int] = {}
        if len(before) == len(after):
            for one, other in zip(before, after, strict=True):
                if one != other:
                    decode_line(one, old)
                    decode_line(other, new)
        else:  # the width of the dump changed with the mode
            old, new = decode(self.before), decode(self.after)
        return {name: value for name, value in new.items() if name != "rip" and name in old and old[name] != value}
