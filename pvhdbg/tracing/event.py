"""One event is one executed instruction: where, in which mode, and what it changed.

The sequence number is the coordinate that all of tracing shares: 0 is the first instruction that was traced, usually the entry. All
iterations of one REP are one event, in every engine. A change is kept as the engine saw it and decoded on demand: in a trace
of millions of events, only those that are used cost time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, repeat
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import NOTHING, SafeText


class FaultKind(str, Enum):
    """The kind of a `Fault`; the values are those of saved traces and JSON. A `str`, so that users of the API compare it with text."""

    EXCEPTION = "exception"
    SOFTWARE_INTERRUPT = "software interrupt"
    INTERRUPT = "interrupt"
    TRIPLE_FAULT = "triple fault"
    RESET = "reset"

    @property
    def has_handler(self) -> bool:
        """Whether the CPU calls a handler for it."""
        return self not in (FaultKind.TRIPLE_FAULT, FaultKind.RESET)


class EndReason(str, Enum):
    """Why a trace ended; the values are those of saved traces. A `str`, because users of the API compare it with words."""

    ADDRESS = "address"
    COUNT = "count"
    ENOUGH = "enough"  # the reader stopped
    TIME = "time"
    INTERRUPTED = "interrupted"
    SHUTDOWN = "shutdown"  # the guest shut down or triple-faulted, and QEMU keeps its state
    RESET = "reset"
    HALTED = "halted"  # hlt with interrupts off
    EXITED = "exited"  # QEMU is gone
    KILLED = "killed"  # a signal ended QEMU, in which the guest has no part
    STOPPED = "stopped"
    CUT = "cut"  # the end of a saved trace is missing

    @property
    def final(self) -> bool:
        """Whether the machine cannot run on."""
        return self in (EndReason.SHUTDOWN, EndReason.HALTED, EndReason.EXITED, EndReason.KILLED)


class Delta:
    """The changes of one instruction. Subclasses decode what their engine saw."""

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
        """New values by register name, `rip` excepted; None when the engine saw addresses only.

        Names are those of `model.Registers`, and for hidden state cs_base, cs_limit, cs_flags, …, tr, gdt_base, gdt_limit.
        """
        return None if self.delta is None else self.delta.decode()


@dataclass(frozen=True)
class Fault:
    """An exception or interrupt that the CPU took, a triple fault, or a reset: what QEMU's `int` and `cpu_reset` logs say.

    `seq` is the number of events that had begun before it. `vector` is None for a triple fault and for a reset. `state` holds the
    registers at that moment, as far as they were printed; `cr2` is set for page faults only.
    """

    seq: int
    kind: FaultKind
    vector: int | None = None
    error: int | None = None
    pc: int | None = None
    cr2: int | None = None
    state: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """The machine was reset, which is not an event: `seq` is the number of events that had begun before it.

    `number` counts the resets of a trace from 1. `pc` and `mode` are those of the last event before it (None: there was none).
    `why` is the reason in words where it was observed, else "": the guest asked for the reset, or nothing shows the reason.
    `goes_on` says that the trace continues at the reset vector.
    """

    seq: int
    number: int
    pc: int | None
    mode: Mode | None
    why: SafeText = NOTHING
    goes_on: bool = False


@dataclass(frozen=True)
class Batch:
    """Consecutive events as columns, with the faults that were taken between them. Iterating it makes `Event`s.

    `system` lists the indexes of events that changed more than general registers and flags; `deltas` is None when the engine
    saw addresses only. The columns have the same length. A batch with a `reset` holds nothing else.
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
        # All in C: this is what bounds the rate at which events are delivered.
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
        return self._part(0, length, [fault for fault in self.faults if fault.seq <= self.seq + length])

    def joined(self, other: Batch) -> Batch:
        """These events and those of `other`, which follow them."""
        deltas = None if self.deltas is None and other.deltas is None else [*(self.deltas or ()), *(other.deltas or ())]
        return Batch(
            self.seq,
            [*self.pcs, *other.pcs],
            [*self.modes, *other.modes],
            [*self.codes, *other.codes],
            deltas,
            None if self.cpus is None and other.cpus is None else [*(self.cpus or ()), *(other.cpus or ())],
            [*self.system, *(index + len(self) for index in other.system)],
            [*self.faults, *other.faults],
        )

    def since(self, index: int) -> Batch:
        """The events from `index` on, and the faults after the one before it."""
        if index <= 0:
            return self
        return self._part(index, len(self), [fault for fault in self.faults if fault.seq > self.seq + index])

    def _part(self, start: int, end: int, faults: list[Fault]) -> Batch:
        return Batch(
            self.seq + start,
            self.pcs[start:end],
            self.modes[start:end],
            self.codes[start:end],
            None if self.deltas is None else self.deltas[start:end],
            None if self.cpus is None else self.cpus[start:end],
            [at - start for at in self.system if start <= at < end],
            faults,
        )
