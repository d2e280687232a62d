"""A death as it was observed: the input of `tracing.explain`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pvhdbg.decode.cpu_mode import Mode, mode_in
from pvhdbg.model import GuestEnd
from pvhdbg.spec.vmm_bugs import WRONG_EFLAGS, VmmBug, shows_wrong_eflags
from pvhdbg.tracing.event import Event, Fault, FaultKind

VECTORS = 32  # vectors that are exceptions by the architecture
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
    LEFT = "left"  # not known: only a state is left, and what came before or after it was not seen
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
    """Memory that an instruction reads or writes: linear address and bytes; of a plain store `value`, where it is known."""

    address: int
    size: int
    write: bool
    value: int | None = None


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
    """The observations about the end. Each field's comment says what it holds; addresses are linear."""

    kind: DeathKind
    # The registers at the first fault, else the current ones.
    state: Mapping[str, int]
    # The faults that ended the guest, in their order.
    faults: tuple[Fault, ...] = ()
    # The last relevant instructions; they end at the fault where `after` holds those of the handlers.
    path: tuple[Event, ...] = ()
    # The system instructions before.
    system: tuple[Event, ...] = ()
    # How many instructions ran since the entry; None where they were not counted.
    begun: int | None = None
    # The pcs of the loop that the CPU is in. With ALIVE, the loop may end.
    loop: tuple[int, ...] = ()
    # What that loop waits for, as far as it is known.
    awaited: tuple[Awaited, ...] = ()
    # The CPU was in the loop at every look within the last seconds, of this number.
    looped: float = 0.0
    # The exit status of the VMM.
    status: int | None = None
    # Why QEMU says that the guest ended; None where it did not say.
    reason: GuestEnd | None = None
    # Faults may have been missed (KVM, several CPUs).
    blind: bool = False
    # The exceptions whose handlers had not returned, the outermost first.
    handling: tuple[Fault, ...] = ()
    # The instruction that the first of `handling`, or of `faults`, hit; its number is -1 where it was not counted.
    struck: Event | None = None
    # The last exception, where returns from handlers were not observed.
    lately: Fault | None = None
    # The instruction that a machine stands at which was dead before it was looked at.
    left: Event | None = None
    # What `left`, or else `struck`, reads or writes.
    touched: tuple[Touched, ...] = ()
    # The features of CPUID that it needs, by QEMU's names.
    needs: tuple[str, ...] = ()
    # The last instructions of the handlers.
    after: tuple[Event, ...] = ()
    # The last instruction in the kernel's own code and the first one outside of it, where the CPU did not come back.
    departure: tuple[Event, Event] | None = None
    # The number of an instruction that ran in the same page, with the same page tables, as a fetch that failed.
    ran_before: int | None = None
    # The CPU that died, where the machine has several.
    cpu: int | None = None
    # How the machine of a kernel ended that panicked.
    ended: DeathKind | None = None
    # The CPUs that did not halt, where it is not known which one died.
    standing: tuple[StoppedCpu, ...] = ()
    # The instructions from the pc on, where those before it were not recorded.
    there: tuple[Event, ...] = ()
    # The reads of memory by the instructions of `path`, as far as their registers were observed.
    loads: tuple[tuple[Event, Touched], ...] = ()
    # The writes of a machine that ended by itself, likewise.
    stores: tuple[tuple[Event, Touched], ...] = ()
    # How many instructions ran, as a sum over blocks, where `begun` is None.
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
