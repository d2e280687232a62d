"""A death as it was observed: the input of `tracing.explain`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pvhdbg.decode.cpu_mode import Mode, mode_in
from pvhdbg.spec.vmm_bugs import WRONG_EFLAGS, VmmBug, shows_wrong_eflags
from pvhdbg.tracing.event import Event, Fault, FaultKind

VECTORS = 32  # vectors that are exceptions by the architecture
WATCHDOG = "watchdog"  # the reason of a death by a watchdog device
_DOUBLE_FAULT = 8
_TOLD = 8  # faults of nested handlers, from either end, that are told


class DeathKind(Enum):
    """How a machine ended, or where it hangs; the values are those of JSON."""

    TRIPLE_FAULT = "triple fault"
    RESET = "reset"
    SHUTDOWN = "shutdown"
    EXITED = "exited"  # the VMM's process is gone
    HALTED = "halted"  # hlt with interrupts off
    LOOP = "loop"  # the same state again and again, with interrupts off, and nothing that could change it
    ZEROS = "zeros"  # it executes memory that holds only zeros
    NOWHERE = "nowhere"  # it executes where there is no memory
    PANIC = "panic"  # the kernel reports a panic, and keeps waiting
    LEFT = "left"  # not known: only a state is left, and nobody saw what came before or after it
    ALIVE = "alive"  # not dead

    @property
    def final(self) -> bool:
        """Whether such a machine no longer runs."""
        return self in (DeathKind.TRIPLE_FAULT, DeathKind.SHUTDOWN, DeathKind.RESET, DeathKind.EXITED)


@dataclass(frozen=True)
class Awaited:
    """Something outside of the CPU's registers that a loop reads or changes: `port` or `address` (linear), or else `what`, an instruction.

    `value` is what a read gave, `size` bytes of it; None where it is not known. `counts` says that the loop itself changes it.
    """

    port: int | None = None
    address: int | None = None
    what: str = ""
    size: int = 1
    value: int | None = None
    counts: bool = False


@dataclass(frozen=True)
class Touched:
    """Memory that an instruction reads or writes: linear address and bytes."""

    address: int
    size: int
    write: bool


@dataclass(frozen=True)
class StoppedCpu:
    """Where one CPU of several stands at the end: its registers, the instruction, what that touches, and the features that it needs."""

    cpu: int
    state: Mapping[str, int]
    at: Event
    touched: tuple[Touched, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Death:
    """The observations about the end.

    `state` holds the registers at the first fault, else the current ones. `path` holds the last relevant instructions,
    `system` the system instructions before; `begun` counts all instructions since the entry, None where they were not counted, and `roughly` is their number as a sum over blocks. `loop` holds
    the pcs of the loop that the CPU is in. If it is ALIVE, the loop may end, by what is `awaited` if that is known, and the CPU was in it
    at every look within the last `looped` seconds. `status` is the exit status of the VMM. `reason` is QEMU's own term for how the
    guest ended ("guest-panic"), or WATCHDOG; `blind` says that faults may have been missed (KVM, several CPUs). `handling` holds
    the exceptions whose handlers had not returned, the outermost first, and `struck` the instruction that the first of
    them, or of `faults`, hit, of number -1 where it was not counted; `lately` is the last exception, where returns were not observed. `after` holds the last instructions
    of the handlers: `path` then ends at the fault. `left` is the instruction that a machine stands at which was dead before it was
    looked at. `touched` holds the linear addresses that `left`, or the instruction that was struck, reads or writes, and `needs` the
    features of CPUID that it needs, by QEMU's names. `departure` is the last instruction in the kernel's own code and the first one
    outside of it, where the CPU did not come back. `ran_before` is the number of an instruction that ran in the same page with the same
    page tables as a fetch that failed. `cpu` is the number of the CPU that died, where the machine has several; `standing` holds those
    that did not halt, where it is not known which one died. `ended` says how the machine of a kernel ended that panicked. `there` holds the instructions from the pc on, where those before it were not recorded;
    `loads` the reads of memory by the instructions of `path`, as far as their registers were observed.
    """

    kind: DeathKind
    state: Mapping[str, int]
    faults: tuple[Fault, ...] = ()
    path: tuple[Event, ...] = ()
    system: tuple[Event, ...] = ()
    begun: int | None = None
    loop: tuple[int, ...] = ()
    awaited: tuple[Awaited, ...] = ()
    looped: float = 0.0
    status: int | None = None
    reason: str = ""
    blind: bool = False
    handling: tuple[Fault, ...] = ()
    struck: Event | None = None
    lately: Fault | None = None
    left: Event | None = None
    touched: tuple[Touched, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[Event, ...] = ()
    departure: tuple[Event, Event] | None = None
    ran_before: int | None = None
    cpu: int | None = None
    ended: DeathKind | None = None
    standing: tuple[StoppedCpu, ...] = ()
    there: tuple[Event, ...] = ()
    loads: tuple[tuple[Event, Touched], ...] = ()
    roughly: int | None = None

    @property
    def vmm_bug(self) -> VmmBug | None:
        """The VMM's bug that the state at the end shows. What is seen then says nothing about the guest."""
        states = (self.state, *(fault.state for fault in (*self.faults, *self.handling)))
        return WRONG_EFLAGS if any(shows_wrong_eflags(state.get("eflags")) for state in states) else None

    @property
    def died(self) -> bool:
        """Whether the guest is dead by its own doing."""
        return self.kind not in (DeathKind.ALIVE, DeathKind.LEFT) and self.vmm_bug is None

    @property
    def first(self) -> Fault | None:
        """The fault that began the death: mostly an exception, or an interrupt that could not be delivered.

        Where the handler of an exception faulted itself, it is that exception.
        """
        killed = next((one for one in self.faults if one.kind.has_handler), None)
        return self.handling[0] if killed is not None and self.handling else killed

    @property
    def last(self) -> Fault | None:
        """The fault that could not be handled."""
        return next((one for one in self.faults if one.kind.has_handler), None)

    @property
    def reported(self) -> tuple[Fault, ...]:
        """The faults of a report: those whose handlers had not returned, and those that killed. Of many, the first and the last."""
        handling = self.handling
        return (*(handling if len(handling) <= 2 * _TOLD else (*handling[:_TOLD], *handling[-_TOLD:])), *self.faults)

    @property
    def pc(self) -> int | None:
        """The address of the faulting instruction or of the hlt, else the current pc."""
        if self.first is not None and self.first.pc is not None:
            return self.first.pc
        last = self.after or self.path
        if self.left is not None:
            return self.left.pc
        return last[-1].pc if self.kind is DeathKind.HALTED and last else self.state.get("rip")

    @property
    def mode(self) -> Mode | None:
        """The mode at the death; None where the control registers were not observed."""
        return mode_in(self.state)


def chain_of(seen: Iterable[Fault]) -> tuple[Fault, ...]:
    """Of all faults seen, the fatal ones: the last run of exceptions at one instruction, and the triple fault after it."""
    seen = tuple(seen)
    if not any(one.kind is FaultKind.TRIPLE_FAULT for one in seen):
        return ()
    end = max(index for index, one in enumerate(seen) if one.kind is FaultKind.TRIPLE_FAULT)
    start = end
    while start > 0 and _belongs(seen[start - 1], seen[end - 1], first=start == end):
        start -= 1
    return tuple(seen[start : end + 2 if end + 1 < len(seen) and seen[end + 1].kind is FaultKind.RESET else end + 1])


def _belongs(one: Fault, last: Fault, *, first: bool) -> bool:
    """Whether a fault is of the chain that ended with `last`: of an instruction whose handler was called, the handler has run since.

    A double fault is the last one of a chain: an earlier one had a handler.
    """
    same = one.kind.has_handler and one.pc == last.pc and one.seq == last.seq
    return same and (first or one.vector != _DOUBLE_FAULT or one.kind is not FaultKind.EXCEPTION)


def unreturned(taken: Iterable[Fault], returns: Iterable[int]) -> tuple[Fault, ...]:
    """Of faults whose handlers were called, those that had not returned at the end, the outermost first.

    () where there is neither an exception nor an interrupt at an exception's vector among them.

    `returns` holds the sequence numbers of all `iret`s in rising order; `taken` rises too.
    """
    waiting = deque(taken)
    inside: list[Fault] = []
    for number in returns:
        while waiting and waiting[0].seq <= number:
            inside.append(waiting.popleft())
        if inside:
            inside.pop()
    inside += waiting
    return tuple(inside) if any(one.kind is FaultKind.EXCEPTION or (one.vector or 0) < VECTORS for one in inside) else ()


def panicked(serial: Iterable[str]) -> str | None:
    """Linux' own line about its panic, if one of `serial` is that line."""
    lines = [line for line in serial if "Kernel panic - not syncing" in line]
    return lines[0] if lines else None
