"""`Target`: the one seam to a machine. Every adapter means the same by it; one contract test defines that meaning.

Addresses are guest-physical unless a name says otherwise. What an adapter cannot do is absent from `capabilities`,
not an exception met half-way. Whatever an adapter changes in the machine, `close` puts back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, cast

from pvhdbg.model import Registers
from pvhdbg.rsp.registers import RegisterLayout

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
    packets: bool = False  # it hands out the stub's own packets: it is `Steppable`
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


GONE = Stop(StopKind.EXITED, 0, "the connection closed")


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

    def peer_command(self) -> tuple[str, ...]:
        """The command line of the VMM, where the system shows it; empty where it does not."""

    def close(self, leave: Leave) -> bool:
        """Put back what was changed, and leave the machine as asked. Safe to call twice, and after a failure.

        False where the VMM was to be killed and was not seen to end.
        """


class Steppable(Target, Protocol):
    """A target with `capabilities.packets`: it hands out the stub's own packets, of the CPU that it follows."""

    def follow(self, cpu: int | None) -> None:
        """Follow this CPU; None for the stub's own choice. Raises TargetError."""

    @property
    def layout(self) -> RegisterLayout:
        """Where each register lies in a `g` packet."""

    def packet(self) -> bytes:
        """The registers as the stub sends them, in hexadecimal."""

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]:
        """One instruction from `pc`, where the machine stands; the registers after it, and memory at `ahead` where that is free."""

    def read_linear(self, address: int, size: int) -> bytes:
        """Memory at a linear address, as the CPU translates it. Raises MemoryUnreadable."""


def steppable(target: Target) -> Steppable | None:
    """The target, if it hands out packets."""
    return cast(Steppable, target) if target.capabilities.packets else None


RESET_VECTOR = 0xFFFFFFF0  # the linear address of the first instruction after a reset
RESET_RIP = RESET_VECTOR & 0xFFFF  # rip there: cs.base is 0xffff0000
OWN_REBOOTS = 2  # what firmware may need after a warm reset: SeaBIOS reboots once more to get a fresh copy of itself
