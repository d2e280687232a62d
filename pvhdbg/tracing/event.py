"""One event is one executed instruction: where, in which mode, and what it changed.

The sequence number is the universal coordinate: 0 is the first instruction that was traced, usually the entry. All iterations of
one REP are one event, in every engine. A change is kept as the engine saw it and decoded when it is asked for, so that a trace
of millions costs what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, repeat
from typing import NamedTuple

from pvhdbg.spec.x86 import CR0, CR4, EFER


class Mode(Enum):
    """The CPU's mode. Where an engine does not show CR0, paging in 32-bit code is not told apart: that is PROTECTED."""

    REAL = "real"
    VM86 = "vm86"
    PROTECTED16 = "protected-16"
    PROTECTED = "protected"
    PAGED = "paged"  # protected mode with 32-bit page tables
    PAE = "pae"
    COMPATIBILITY = "compatibility"
    LONG = "long"

    @property
    def bits(self) -> int:
        """The width of code: 16, 32 or 64."""
        if self in (Mode.REAL, Mode.VM86, Mode.PROTECTED16):
            return 16
        return 64 if self is Mode.LONG else 32


def mode_of(cr0: int, cr4: int, efer: int, cs_flags: int | None, eflags: int = 0) -> Mode:
    """The mode that system registers amount to. `cs_flags` is CS's cached descriptor; None takes 32-bit code."""
    if not cr0 >> CR0["PE"] & 1:
        return Mode.REAL
    if eflags >> 17 & 1:
        return Mode.VM86
    long, wide = (False, True) if cs_flags is None else (bool(cs_flags >> 21 & 1), bool(cs_flags >> 22 & 1))
    if efer >> EFER["LMA"] & 1:
        return Mode.LONG if long else Mode.COMPATIBILITY
    if not wide:
        return Mode.PROTECTED16
    if not cr0 >> CR0["PG"] & 1:
        return Mode.PROTECTED
    return Mode.PAE if cr4 >> CR4["PAE"] & 1 else Mode.PAGED


_CS32, _PE, _LMA, _CS64, _VM = 1 << 4, 1 << 7, 1 << 14, 1 << 15, 1 << 17


def mode_of_hflags(flags: int) -> Mode:
    """The mode in the flags of a QEMU log line (target/i386/cpu.h, HF_*_MASK), which say nothing of paging."""
    if not flags & _PE:
        return Mode.REAL
    if flags & _VM:
        return Mode.VM86
    if flags & _LMA:
        return Mode.LONG if flags & _CS64 else Mode.COMPATIBILITY
    return Mode.PROTECTED if flags & _CS32 else Mode.PROTECTED16


class Delta:
    """What one instruction changed. Subclasses decode what their engine saw."""

    __slots__ = ()

    def decode(self) -> Mapping[str, int]:
        """New values by name."""
        raise NotImplementedError

    def state(self) -> Mapping[str, int]:
        """The registers before the instruction, as far as they were seen."""
        return {}


class Changes(Delta):
    """Changes that are decoded already, and the registers before them where those were kept."""

    __slots__ = ("_state", "_values")

    def __init__(self, values: Mapping[str, int], state: Mapping[str, int] | None = None) -> None:
        self._values = values
        self._state = state or {}

    def decode(self) -> Mapping[str, int]:
        return self._values

    def state(self) -> Mapping[str, int]:
        return self._state


class Event(NamedTuple):
    """One instruction that was begun. `mode` is the mode it ran in, `code` its bytes (empty when they were not seen).

    An instruction that faults was begun, too: the fault that follows it carries the next sequence number.
    """

    seq: int
    pc: int
    mode: Mode
    code: bytes = b""
    delta: Delta | None = None
    cpu: int = 0

    @property
    def changes(self) -> Mapping[str, int] | None:
        """New values by register name, `rip` excepted; None when the engine saw places only.

        Names are those of `model.Registers`, and for hidden state cs_base, cs_limit, cs_flags, …, tr, gdt_base, gdt_limit.
        """
        return None if self.delta is None else self.delta.decode()


@dataclass(frozen=True)
class Fault:
    """An exception or interrupt that the CPU took, or the end of all: what QEMU's `int` and `cpu_reset` logs say.

    `seq` is the number of events that had begun before it. `vector` is None for a triple fault and for a reset, which `kind`
    tells: "exception", "interrupt", "triple fault", "reset". `state` holds the registers as they were when it was taken, as
    far as they were printed; `cr2` is there for page faults.
    """

    seq: int
    kind: str
    vector: int | None = None
    error: int | None = None
    pc: int | None = None
    cr2: int | None = None
    state: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """The machine was reset, which is no event: `seq` is the number of events that had begun before it.

    `number` counts the resets of a trace from 1. `pc` and `mode` are those of the last event before it (None: there was none).
    `why` holds the reason in words where it was seen; "" for a guest that asked for it, or where nothing tells. `goes_on` says that the trace goes
    on at the reset vector.
    """

    seq: int
    number: int
    pc: int | None
    mode: Mode | None
    why: str = ""
    goes_on: bool = False


@dataclass(frozen=True)
class Batch:
    """Consecutive events as columns, with the faults that were taken between them. Iterating it makes `Event`s.

    `system` lists the indexes of events that changed more than general registers and flags; `deltas` is None when the engine
    saw places only. The columns have the same length. A batch with a `reset` holds nothing else.
    """

    seq: int
    pcs: Sequence[int]
    modes: Sequence[Mode]
    codes: Sequence[bytes]
    deltas: Sequence[Delta | None] | None = None
    cpus: Sequence[int] | None = None
    system: Sequence[int] = ()
    faults: Sequence[Fault] = ()
    reset: Reset | None = None

    def __len__(self) -> int:
        return len(self.pcs)

    def __iter__(self) -> Iterator[Event]:
        deltas = repeat(None) if self.deltas is None else self.deltas
        cpus = repeat(0) if self.cpus is None else self.cpus
        # All in C: this is what bounds the rate at which places are delivered.
        columns = zip(count(self.seq), self.pcs, self.modes, self.codes, deltas, cpus)
        return map(tuple.__new__, repeat(Event), columns)

    def event(self, index: int) -> Event:
        """One of them."""
        return Event(
            self.seq + index,
            self.pcs[index],
            self.modes[index],
            self.codes[index],
            None if self.deltas is None else self.deltas[index],
            0 if self.cpus is None else self.cpus[index],
        )

    def cut(self, length: int) -> Batch:
        """The first `length` events, and the faults before the next one."""
        if length >= len(self):
            return self
        return Batch(
            self.seq,
            self.pcs[:length],
            self.modes[:length],
            self.codes[:length],
            None if self.deltas is None else self.deltas[:length],
            None if self.cpus is None else self.cpus[:length],
            [index for index in self.system if index < length],
            [fault for fault in self.faults if fault.seq <= self.seq + length],
        )

    def since(self, index: int) -> Batch:
        """The events from `index` on, and the faults behind the one before it."""
        if index <= 0:
            return self
        return Batch(
            self.seq + index,
            self.pcs[index:],
            self.modes[index:],
            self.codes[index:],
            None if self.deltas is None else self.deltas[index:],
            None if self.cpus is None else self.cpus[index:],
            [at - index for at in self.system if at >= index],
            [fault for fault in self.faults if fault.seq > self.seq + index],
        )
