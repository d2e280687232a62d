"""A death as it was seen: what `trace/explain` works on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.tracing.event import Event, Fault, Mode, mode_of

TAKEN = ("exception", "software interrupt", "interrupt")  # kinds of faults that a handler is called for


@dataclass(frozen=True)
class Death:
    """What was seen of the end.

    `kind` is one of: "triple fault", "reset", "shutdown", "exited", "halted" (hlt, interrupts off), "loop" (the same state again and
    again, interrupts off), "zeros" (executing memory that holds only zeros), "nowhere" (executing where no memory is), "alive".
    `state` are the registers at the first fault, else as the CPU stands. `path` are the last instructions that matter, `system` the
    system instructions before; `begun` counts all since the entry, None where they were not counted. `loop` are the places of an
    endless loop; `polls` says that it reads memory or a port. "panic" is a kernel that says so itself, and goes on waiting.
    `reason` is QEMU's own word for how the guest ended ("guest-panic"); `blind` says that faults could not be seen (KVM).
    `handling` are the exceptions that the guest's own handlers had taken and not returned from, the outermost first, and `struck`
    the instruction that the first of them, or of `faults`, hit; `lately` is the last exception seen, where returns were not observed.
    """

    kind: str
    state: Mapping[str, int]
    faults: tuple[Fault, ...] = ()
    path: tuple[Event, ...] = ()
    system: tuple[Event, ...] = ()
    begun: int | None = None
    loop: tuple[int, ...] = ()
    polls: bool = False
    status: int | None = None
    reason: str = ""
    blind: bool = False
    handling: tuple[Fault, ...] = ()
    struck: Event | None = None
    lately: Fault | None = None

    @property
    def first(self) -> Fault | None:
        """The fault that began it: an exception mostly, or an interrupt that could not be delivered."""
        return next((one for one in self.faults if one.kind in TAKEN), None)

    @property
    def told(self) -> tuple[Fault, ...]:
        """The faults that are told of: those that killed, else those that its own handlers were busy with."""
        return self.faults or self.handling

    @property
    def pc(self) -> int | None:
        """Where: the faulting instruction or the hlt, else where the CPU stands."""
        if self.first is not None and self.first.pc is not None:
            return self.first.pc
        return self.path[-1].pc if self.kind == "halted" and self.path else self.state.get("rip")

    @property
    def mode(self) -> Mode | None:
        """The mode that it died in."""
        names = ("cr0", "cr4", "efer")
        if any(self.state.get(name) is None for name in names):
            return None
        cr0, cr4, efer = (self.state[name] for name in names)
        return mode_of(cr0, cr4, efer, self.state.get("cs_flags"), self.state.get("eflags", 0))


def interrupts_off(state: Mapping[str, int]) -> bool:
    """Whether eflags.IF is 0; not observed counts as on."""
    return "eflags" in state and not state["eflags"] >> EFLAGS["IF"] & 1


def chain_of(seen: Iterable[Fault]) -> tuple[Fault, ...]:
    """Of all faults seen, those that killed: the last run of exceptions at one place, and what ended it."""
    seen = tuple(seen)
    if not any(one.kind == "triple fault" for one in seen):
        return ()
    end = max(index for index, one in enumerate(seen) if one.kind == "triple fault")
    start = end
    while start > 0 and seen[start - 1].kind in TAKEN and seen[start - 1].pc == seen[end - 1].pc:
        start -= 1
    return tuple(seen[start : end + 2 if end + 1 < len(seen) and seen[end + 1].kind == "reset" else end + 1])


def unreturned(taken: Iterable[Fault], returns: Iterable[int]) -> tuple[Fault, ...]:
    """Of faults whose handlers were called, those that had not returned at the end, the outermost first; () without an exception.

    `returns` are the sequence numbers of all `iret`s, rising, as are those of `taken`.
    """
    waiting = deque(taken)
    inside: list[Fault] = []
    for number in returns:
        while waiting and waiting[0].seq <= number:
            inside.append(waiting.popleft())
        if inside:
            inside.pop()
    inside += waiting
    return tuple(inside) if any(one.kind == "exception" for one in inside) else ()


def panicked(serial: Iterable[str]) -> str | None:
    """Linux' own line about its panic, if it is among the last on the serial port."""
    lines = [line for line in serial if "Kernel panic - not syncing" in line]
    return lines[0] if lines else None
