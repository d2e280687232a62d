"""What every engine answers to: where to stop, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pvhdbg.errors import TargetError
from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.targets.target import RESET_RIP, Stop, StopKind, Target
from pvhdbg.tracing.event import Batch


@dataclass(frozen=True)
class Bounds:
    """When to stop by itself: before the instruction at one of `addresses` (linear), after `count` events or `seconds`."""

    addresses: Sequence[int] = ()
    count: int | None = None
    seconds: float = 60.0


@dataclass(frozen=True)
class End:
    """Why a trace ended.

    `why` is one of: "address", "count", "enough" (the reader had what it wanted), "time", "interrupted", "shutdown" (the guest
    shut down or triple-faulted and QEMU kept it), "reset", "halted" (hlt with interrupts off), "exited" (QEMU is gone), "stopped",
    "cut" (a saved trace does not say).
    """

    why: str
    stop: Stop | None = None
    pc: int | None = None

    @property
    def final(self) -> bool:
        """Whether nothing is left to run."""
        return self.why in ("shutdown", "halted", "exited")

    @property
    def words(self) -> str:
        """For people."""
        at = "" if self.pc is None else f" at {self.pc:#x}"
        return {
            "address": f"reached{at}",
            "count": "as many instructions as asked for",
            "enough": "all that was asked for was seen",
            "time": "the time was up",
            "interrupted": "interrupted",
            "shutdown": f"the guest triple-faulted or shut down{at}",
            "reset": "the guest rebooted",
            "halted": f"the CPU halted with interrupts off{at}",
            "exited": "the machine is gone: the guest ended it",
            "cut": "unknown",
        }.get(self.why, f"the machine stopped{at}")


def end_of(stop: Stop, target: Target, bounds: Bounds) -> End:
    """What a stop of the machine means for a trace: the goal, a death, a reboot, or somebody else's stop."""
    if stop.kind is StopKind.EXITED:
        return End("exited", stop)
    pc = target.read_registers()["rip"]
    if stop.kind is StopKind.SHUTDOWN:
        return End("shutdown", stop, pc)
    if pc in bounds.addresses:
        return End("address", stop, pc)
    if stop.kind is StopKind.INTERRUPT:
        return End("interrupted", stop, pc)  # by who holds the machine
    return End("reset" if pc == RESET_RIP else "stopped", stop, pc)


def halted(target: Target) -> End | None:
    """The end of a trace that would begin with a step, on a CPU that has executed `hlt`: a step would never come back.

    None for a CPU that runs. Raises TargetError for one that waits for an interrupt, which QEMU masks while it steps.
    """
    if not target.capabilities.monitor or "HLT=1" not in target.monitor("info registers"):
        return None
    registers = target.read_registers()
    if registers["eflags"] >> EFLAGS["IF"] & 1:
        raise TargetError("the CPU waits for an interrupt, and stepping masks them", "use --engine log, or let it run on a little")
    return End("halted", None, registers["rip"])


class Engine(Protocol):
    """Yields batches until its bounds are met or the reader stops. Afterwards the machine stands still and `end` says why."""

    name: str
    warnings: list[str]

    @property
    def end(self) -> End: ...

    def batches(self, bounds: Bounds) -> Iterator[Batch]: ...

    def stop(self) -> None: ...
