"""`Target`: the one seam to a machine. Every adapter means the same by it; one contract test defines that meaning.

Addresses are guest-physical unless a name says otherwise. What an adapter cannot do is absent from `capabilities`,
not an exception met half-way. Whatever an adapter changes in the machine, `close` puts back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pvhdbg.errors import EntryNotReached, GuestDied, TargetError, TargetTimeout
from pvhdbg.model import Registers

END_IT = "end its process yourself"  # what to do where `close` returned False


class Leave(Enum):
    """How `close` leaves the machine behind."""

    RUNNING = "running"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True)
class Capabilities:
    """What a target can do besides reading registers and memory."""

    monitor: bool = False  # QEMU's human monitor answers
    control: bool = True  # it can run, step and set breakpoints; a recorded machine cannot
    write: bool = True  # registers and memory can be changed
    width: int = 64  # bits of the general registers as the peer sends them: 32 for qemu-system-i386


class StopKind(Enum):
    """Why the machine stands still."""

    BREAKPOINT = "breakpoint"  # T05: breakpoint, watchpoint or finished step
    INTERRUPT = "interrupt"  # T02: it was asked to stop
    SHUTDOWN = "shutdown"  # T03: the guest shut down or triple-faulted and the VMM kept it
    ERROR = "error"  # T06 and the like: the VMM's internal error
    EXITED = "exited"  # W or X: the VMM process is gone


@dataclass(frozen=True)
class Stop:
    """A stop as it was reported; `signal` is the GDB signal number or exit status, `text` the report's own words."""

    kind: StopKind
    signal: int = 5
    text: str = ""


class Target(Protocol):
    """A machine that can be looked at, and mostly run. All methods raise `TargetError`s only."""

    @property
    def name(self) -> str:
        """How a user would name it: ":1234", a socket path, a file."""

    @property
    def via(self) -> str:
        """What the values are read by: "g packet", "GDB", "snapshot"; becomes `Snapshot.sources`."""

    @property
    def capabilities(self) -> Capabilities: ...

    def read_registers(self) -> Registers:
        """All registers that the peer shows, under canonical names."""

    def write_register(self, name: str, value: int) -> None:
        """Change one register by canonical name. Never by writing all of them back."""

    def read_memory(self, address: int, size: int) -> bytes:
        """`size` bytes of guest-physical memory whatever paging says. Raises `MemoryUnreadable`."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write guest-physical memory. Raises `MemoryUnreadable`."""

    def set_breakpoint(self, address: int) -> None:
        """A hardware execution breakpoint at a linear address. Setting one twice is one breakpoint."""

    def clear_breakpoint(self, address: int) -> None:
        """Remove it; removing one that is not set does nothing."""

    def resume(self) -> None:
        """Let the machine run. Steps off a breakpoint at the current pc first."""

    def wait(self, timeout: float) -> Stop:
        """The next stop. Raises `TargetTimeout` after `timeout` seconds, with the machine still running."""

    def step(self) -> Stop:
        """One instruction, also from a breakpoint."""

    def interrupt(self) -> Stop:
        """Stop a running machine and say how it stopped."""

    def monitor(self, command: str) -> str:
        """A command of QEMU's human monitor, and what it printed. `command` is ours, never a stranger's text."""

    def close(self, leave: Leave) -> bool:
        """Put back what was changed, and leave the machine as asked. Safe to call twice, and after a failure.

        False where the VMM was to be killed and was not seen to end.
        """


Watch = Callable[[str], None]


RESET_VECTOR = 0xFFFFFFF0  # the linear address of the first instruction after a reset
_IDLE = 16  # steps that may do nothing
RESET_RIP = RESET_VECTOR & 0xFFFF  # rip there: cs.base is 0xffff0000


def run_until(
    target: Target,
    addresses: Collection[int],
    timeout: float,
    *,
    reboots: int = 0,
    progress: Watch = lambda _: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Run to the first of some linear addresses, and return which. Hardware breakpoints; gone again on every way out.

    A breakpoint at the reset vector tells a reboot at once instead of by time-out; `reboots` of them are let pass (SeaBIOS
    reboots itself once after a warm reset). `meanwhile` is called once while the machine runs, for work that does not need
    it. Raises EntryNotReached when `timeout` seconds pass (the machine is then stopped where it is), GuestDied when the
    guest reboots or ends first.
    """
    names = " or ".join(f"{address:#x}" for address in sorted(addresses))
    deadline = time.monotonic() + timeout
    if target.read_registers()["rip"] == RESET_RIP:
        _step_off(target)  # so that the breakpoint there means a reboot
        if target.read_registers()["rip"] == RESET_RIP:
            raise EntryNotReached("the machine does not leave its reset vector", "does it wait for a migration (-incoming)?")
    watched = (*addresses, RESET_VECTOR)
    try:
        for address in watched:
            target.set_breakpoint(address)
        target.resume()
        meanwhile()
        while True:
            progress(f"waiting for the guest to reach {names}")
            try:
                stop = target.wait(max(deadline - time.monotonic(), 0.001))
            except TargetTimeout:
                target.interrupt()
                raise EntryNotReached(f"the guest did not reach {names} within {timeout:g} s") from None
            except KeyboardInterrupt:
                target.interrupt()
                raise
            if stop.kind in (StopKind.SHUTDOWN, StopKind.EXITED):
                raise GuestDied(f"the guest ended before it reached {names}: {stop.text or stop.kind.value}")
            pc = target.read_registers()["rip"]
            if pc in addresses:
                return pc
            if stop.kind is StopKind.BREAKPOINT and pc != RESET_RIP and (linear := _linear(target, pc)) in addresses:
                return linear
            if pc == RESET_RIP:
                if reboots <= 0:
                    raise GuestDied(f"the guest rebooted before it reached {names}")
                reboots -= 1
                leave_reset_vector(target)
                target.resume()
                continue
            if stop.kind is not StopKind.BREAKPOINT:
                raise EntryNotReached(f"the machine stopped at {pc:#x} ({stop.kind.value}) before it reached {names}")
            if time.monotonic() > deadline:
                raise EntryNotReached(f"the guest did not reach {names} within {timeout:g} s")
            target.resume()
    finally:
        for address in watched:
            try:
                target.clear_breakpoint(address)
            except Exception:
                pass


def reset_machine(target: Target, seconds: float = 2.0) -> None:
    """Reset a machine that stands still: it stands at its reset vector then. Raises TargetError where it does not get there."""
    target.monitor("system_reset")
    deadline = time.monotonic() + seconds
    while target.read_registers()["rip"] != RESET_RIP:  # the request is carried out by the main loop, not by the command
        if time.monotonic() > deadline:
            raise TargetError(
                f"the machine did not reset within {seconds:g} s", "a QEMU that was started with -no-reboot never does: start it without"
            )


def leave_reset_vector(target: Target) -> None:
    """Step a machine that stands at its reset vector off it, and watch the vector from then on.

    `resume` does not: in real mode the pc is an offset, which is not where the breakpoint is. Raises TargetError.
    """
    target.clear_breakpoint(RESET_VECTOR)
    _step_off(target)
    target.set_breakpoint(RESET_VECTOR)


def _step_off(target: Target) -> None:
    """Step a machine off its reset vector: QEMU answers some steps without having run an instruction, when it was woken for else."""
    for _ in range(_IDLE):
        target.step()
        if target.read_registers()["rip"] != RESET_RIP:
            return


def _linear(target: Target, pc: int) -> int:
    """The linear address of `pc`, which is an offset into cs where that has a base; `pc` where the base is not shown."""
    if not target.capabilities.monitor:
        return pc
    from pvhdbg.decode import qemu_monitor

    base = qemu_monitor.cpu_state(target.monitor("info registers")).segments["cs"].base
    return (pc + base) & 0xFFFFFFFF if base else pc  # a base is for 32-bit code: 64-bit code has none
