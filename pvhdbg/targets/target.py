"""`Target`: the one interface to a machine. All adapters behave the same; one contract test defines the behaviour.

Addresses are guest-physical unless a name says otherwise. An adapter declares its abilities in `capabilities`, so that callers
need not run into exceptions. `close` undoes all changes that an adapter made to the machine.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol, cast

from pvhdbg.decode.followed_control import Control
from pvhdbg.model import Registers
from pvhdbg.record import dataclass
from pvhdbg.rsp.registers import RegisterLayout

END_IT = "end its process yourself"  # what to do where `close` returned False


class Leave(Enum):
    """How `close` leaves the machine behind."""

    RUNNING = "running"
    STOPPED = "stopped"
    KILLED = "killed"


@dataclass(frozen=True)
class Capabilities:
    """What a target can do in addition to reading registers and memory."""

    monitor: bool = False  # QEMU's human monitor answers
    control: bool = True  # it can run, step and set breakpoints; a recorded machine cannot
    write: bool = True  # registers and memory can be changed
    packets: bool = False  # it hands out the stub's own packets: it is `Steppable`
    width: int = 64  # bits of the general registers as the peer sends them: 32 for qemu-system-i386
    watchpoints: bool = False  # it takes requests for watchpoints: it is `Watching`
    unwinds: bool = False  # a debugger is between, which unwinds the stack: it is `Unwinding`
    steps_take_interrupts: bool = False  # a step takes an interrupt that is due, and then executes nothing


class StopKind(Enum):
    """Why the machine is stopped."""

    BREAKPOINT = "breakpoint"  # T05: breakpoint, watchpoint or finished step
    INTERRUPT = "interrupt"  # T02: it was asked to stop
    SHUTDOWN = "shutdown"  # T03: the guest shut down or triple-faulted and the VMM keeps its state
    ERROR = "error"  # T06 and the like: the VMM's internal error
    EXITED = "exited"  # W or X: the VMM process is gone


@dataclass(frozen=True)
class Stop:
    """A stop as it was reported; `signal` is the GDB signal number or exit status, `text` the report's own text."""

    kind: StopKind
    signal: int = 5
    text: str = ""
    watched: int | None = None  # the first address of the watchpoint that was hit, where the peer names it
    watched_for: WatchKind | None = None  # and its kind


GONE = Stop(StopKind.EXITED, 0, "the connection closed")


class Stoppable(Protocol):
    """What Ctrl-C ends: an engine or a watch that controls a machine for a while."""

    def stop(self) -> None: ...


class Target(Protocol):
    """A machine that can be read, and usually run. All methods raise `TargetError`s only."""

    @property
    def name(self) -> str:
        """How a user would name it: ":1234", a socket path, a file."""

    @property
    def via(self) -> str:
        """The source of the values: "g packet", "GDB", "snapshot"; becomes `Snapshot.sources`."""

    @property
    def capabilities(self) -> Capabilities: ...

    def read_registers(self) -> Registers:
        """All registers that the peer shows, under canonical names."""

    def write_register(self, name: str, value: int) -> None:
        """Change one register by canonical name. Never by writing all of them back."""

    def read_memory(self, address: int, size: int) -> bytes:
        """`size` bytes of guest-physical memory, without paging. Raises `MemoryUnreadable`."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write guest-physical memory. Raises `MemoryUnreadable`."""

    def set_breakpoint(self, address: int) -> None:
        """A hardware execution breakpoint at a linear address. Setting one twice is one breakpoint."""

    def clear_breakpoint(self, address: int) -> None:
        """Remove it; removing one that is not set does nothing."""

    def resume(self) -> None:
        """Start the machine. Steps off a breakpoint at the current pc first."""

    def wait(self, timeout: float) -> Stop:
        """The next stop. Raises `TargetTimeout` after `timeout` seconds, with the machine still running."""

    def step(self) -> Stop:
        """One instruction, also from a breakpoint."""

    def interrupt(self) -> Stop:
        """Stop a running machine and say how it stopped."""

    def monitor(self, command: str) -> str:
        """A command of QEMU's human monitor, and what it printed. `command` is ours, never untrusted text."""

    def peer_command(self) -> tuple[str, ...]:
        """The command line of the VMM, where the system shows it; empty where it does not."""

    def alive(self) -> bool:
        """Whether the connection still works, as far as that can be seen without a request to the machine."""

    @property
    def cpu(self) -> int | None:
        """The CPU that is followed; None for the peer's own choice."""

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
        """One instruction from `pc`, the current one; the registers after it, and memory at `ahead` where that costs nothing."""

    def follow_control(self) -> None:
        """The machine stands at a PVH entry: from here on, control registers that the stub does not show follow from each step."""

    def followed(self) -> Control | None:
        """These registers, where they were followed up to here; None where the stub shows its own, or the machine ran freely."""

    def read_linear(self, address: int, size: int) -> bytes:
        """Memory at a linear address, as the CPU translates it. Raises MemoryUnreadable."""


def steppable(target: Target) -> Steppable | None:
    """The target, if it hands out packets."""
    return cast(Steppable, target) if target.capabilities.packets else None


class WatchKind(Enum):
    """The accesses that a watchpoint stops at."""

    WRITE = "written"
    READ = "read"
    ANY = "read or written"


@dataclass(frozen=True)
class Watchpoint:
    """`size` bytes at a linear address that the peer watches for an access, by the CPU's own means. The machine stops right after it."""

    address: int
    size: int
    access: WatchKind = WatchKind.WRITE


class Watching(Target, Protocol):
    """A target with `capabilities.watchpoints`."""

    def set_watchpoint(self, one: Watchpoint) -> bool:
        """Set it; setting one twice is one. False where the peer has no watchpoints of that kind. Raises TargetError if it refuses this one."""

    def clear_watchpoint(self, one: Watchpoint) -> None:
        """Remove it; removing one that is not set does nothing."""


def watching(target: Target) -> Watching | None:
    """The target, if it can be asked for watchpoints."""
    return cast(Watching, target) if target.capabilities.watchpoints else None


class Unwinding(Target, Protocol):
    """A target with `capabilities.unwinds`."""

    def frames(self, most: int) -> tuple[int, ...]:
        """The pcs of the CPU's frames as the debugger unwinds them, the innermost first, `most` of them. Raises TargetError."""


def unwinding(target: Target) -> Unwinding | None:
    """The target, if it unwinds the stack."""
    return cast(Unwinding, target) if target.capabilities.unwinds else None


STEP_TIME = 2.0  # seconds for one instruction
WAITS = "the CPU waits for an interrupt, and a step lets none in"  # Stop.text of a step that did not end
RESET_VECTOR = 0xFFFFFFF0  # the linear address of the first instruction after a reset
RESET_RIP = RESET_VECTOR & 0xFFFF  # rip there: cs.base is 0xffff0000
OWN_REBOOTS = 2  # reboots that firmware may need after a warm reset: SeaBIOS reboots once more to get a fresh copy of itself
