"""What a recording holds, one value each: blocks and their executions, register states, system instructions, stores, interrupts.

`recording` reads them from the recorder's file.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class RecordedBlock(NamedTuple):
    """One block, the `number`-th of the table, that was executed `runs` times.

    `first` is None for one that was translated and never executed, negative for one that ran before the entry: so many instructions
    before it. `runs` is 0 where they were not counted.
    """

    number: int
    linear: int
    physical: int | None
    first: int | None
    runs: int
    instructions: int
    size: int
    cpu: int
    preceding: tuple[int, ...] = ()  # as in the record

    @property
    def before(self) -> list[int]:
        """The blocks that `cpu` executed before the first execution, by number, the latest one first; four at most."""
        return [one - 1 for one in self.preceding if one]

    def holds(self, address: int) -> bool:
        """Whether a linear or physical address is in it."""
        physical = self.physical
        return self.linear <= address < self.linear + self.size or (
            physical is not None and physical <= address < physical + self.size
        )


class Executed(NamedTuple):
    """One execution of a block by a CPU. `number` is that of its first instruction; negative before the entry."""

    number: int
    block: RecordedBlock


class State(NamedTuple):
    """Registers of `cpu` as QEMU prints them (`info registers`) before instruction `number`, at `pc`; None: when QEMU ended."""

    number: int
    pc: int | None
    cpu: int
    text: bytes


class System(NamedTuple):
    """A system instruction that was executed, its bytes, and the state of the CPU a little later."""

    number: int
    pc: int
    cpu: int
    code: bytes
    after: State | None


class MemoryWrite(NamedTuple):
    """A store to the watched memory: the instruction, the physical address, and the number of bytes."""

    number: int
    pc: int
    address: int
    size: int
    cpu: int


class DiscontinuityKind(Enum):
    """Why a CPU did not go on with the next instruction; the values are those of QEMU's plugin API."""

    INTERRUPT = 1
    EXCEPTION = 2
    HOST_CALL = 4


class Discontinuity(NamedTuple):
    """An interrupt or an exception that a CPU took, before instruction `number`, from the linear address `origin` to `target`.

    For a fault on memory, QEMU's first `origin` may be the start of the block instead of the instruction.
    """

    kind: DiscontinuityKind
    number: int
    origin: int
    target: int
