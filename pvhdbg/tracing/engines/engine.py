"""What all engines share: the bounds of a trace, the end of one, and the protocol that they implement."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetError
from pvhdbg.targets.target import RESET_RIP, Stop, StopKind, Target
from pvhdbg.tracing.event import Batch, EndReason

_WORDS = {
    EndReason.ADDRESS: "reached{at}",
    EndReason.COUNT: "the requested number of instructions was reached",
    EndReason.ENOUGH: "everything requested was seen",
    EndReason.TIME: "the time was up",
    EndReason.INTERRUPTED: "interrupted",
    EndReason.SHUTDOWN: "the guest triple-faulted or shut down{at}",
    EndReason.RESET: "the guest rebooted",
    EndReason.HALTED: "the CPU halted with interrupts off{at}",
    EndReason.EXITED: "the machine is gone: the guest ended it",
    EndReason.KILLED: "the machine is gone: {cause}",
    EndReason.STOPPED: "the machine stopped{at}",
    EndReason.CUT: "unknown",
}

EngineKind = Literal["log", "step", "breakpoints", "first", "recorder"]  # in traces; "auto" is a choice of the user's


@dataclass(frozen=True)
class Bounds:
    """When a trace ends by itself: before the instruction at one of `addresses` (linear), after `count` events, or after `seconds`."""

    addresses: Sequence[int] = ()
    count: int | None = None
    seconds: float = 60.0


@dataclass(frozen=True)
class TraceEnd:
    """Why a trace ended, with the machine's last stop and the pc there, where they were observed. `cause` says what KILLED its VMM."""

    why: EndReason
    stop: Stop | None = None
    pc: int | None = None
    cause: str = "a signal ended its VMM"

    @property
    def final(self) -> bool:
        """Whether the machine cannot run on."""
        return self.why.final

    @property
    def words(self) -> str:
        """The end as text for users."""
        return _WORDS[self.why].format(at="" if self.pc is None else f" at {self.pc:#x}", cause=self.cause)


class StopsWhenAsked:
    """Something that watches a machine until it is asked to end: soon, and with all that was seen."""

    _asked = False

    def stop(self) -> None:
        """End soon. Can be called from a signal handler or another thread."""
        self._asked = True


def end_at(stop: Stop, pc: int | None, *, reset: bool = False) -> TraceEnd | None:
    """The end that a stop at `pc` implies; None for a breakpoint or a finished step. `reset` says that the log shows a reset."""
    if stop.kind is StopKind.EXITED:
        return TraceEnd(EndReason.EXITED, stop)
    if stop.kind is StopKind.SHUTDOWN:
        return TraceEnd(EndReason.SHUTDOWN, stop, pc)
    if reset or pc == RESET_RIP:
        return TraceEnd(EndReason.RESET, stop, pc)
    return None if stop.kind is StopKind.BREAKPOINT else TraceEnd(EndReason.STOPPED, stop, pc)


def end_of(stop: Stop, target: Target, bounds: Bounds) -> TraceEnd:
    """The end that a stop of a free run implies: the goal, a death, a reset, or an interrupt from outside."""
    if stop.kind is StopKind.EXITED:
        return TraceEnd(EndReason.EXITED, stop)
    pc = target.read_registers()["rip"]
    if stop.kind is StopKind.SHUTDOWN:
        return TraceEnd(EndReason.SHUTDOWN, stop, pc)
    if pc in bounds.addresses:
        return TraceEnd(EndReason.ADDRESS, stop, pc)
    if stop.kind is StopKind.INTERRUPT:
        return TraceEnd(EndReason.INTERRUPTED, stop, pc)  # by the code that controls the machine
    return TraceEnd(EndReason.RESET if pc == RESET_RIP else EndReason.STOPPED, stop, pc)


def is_halted(target: Target) -> bool:
    """Whether the monitor shows the CPU in `hlt`."""
    return target.capabilities.monitor and "HLT=1" in target.monitor("info registers")


def halted(target: Target) -> TraceEnd | None:
    """The end of a trace that would begin with a step on a CPU in `hlt`: that step would never return. None for a CPU that runs.

    Raises TargetError for a CPU that waits for an interrupt, which QEMU masks while it steps.
    """
    if not is_halted(target):
        return None
    registers = target.read_registers()
    if interrupts_on(registers) is not False:
        raise TargetError(
            "the CPU waits for an interrupt, and stepping masks them", "use --engine log, or let it run on for a moment"
        )
    return TraceEnd(EndReason.HALTED, None, registers["rip"])


class Engine(Protocol):
    """Yields batches until its bounds are reached or the reader stops. Afterwards the machine is stopped and `end` says why."""

    name: EngineKind
    warnings: list[SafeText]

    @property
    def end(self) -> TraceEnd: ...

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]: ...

    def stop(self) -> None: ...
