"""Every error that pvhdbg raises on purpose, grouped by whose fault it is.

::

    PvhdbgError                 exit code
    ├── BadInput                2   the file or the argument that was given
    │   ├── BadSnapshot         2   a saved snapshot that cannot be read
    │   ├── BadLog              2   a log without a usable report of the probe
    │   └── CannotMutate        2   a mutation that this machine cannot have
    ├── NotBootable             1   the kernel has no usable PVH entry
    ├── TargetError             3   the machine
    │   ├── VmmFailed           3   QEMU (or GDB) is missing, too old, or gave up
    │   │   └── PluginRefused   3   QEMU does not load the flight recorder
    │   ├── EntryNotReached     3   it ran, but never reached the entry
    │   ├── TargetLost          3   the connection or the process ended
    │   ├── TargetTimeout       3   no answer in time
    │   ├── GuestDied           3   the guest shut down, reset or triple-faulted
    │   └── MemoryUnreadable    3   memory at one address cannot be read
    └── ProtocolError           3   the peer's answer does not follow its protocol

Each instance says in one line what happened and, in `todo`, what to do next. A front end prints both, and never a
traceback.
"""

from __future__ import annotations


class PvhdbgError(Exception):
    """Base of all: `what` happened, and what `todo` about it (either may hold guest text; renderers escape)."""

    exit_code = 70

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo


class BadInput(PvhdbgError):
    """An argument or a file that cannot be used for its purpose."""

    exit_code = 2


class BadSnapshot(BadInput):
    """A file that claims to be a snapshot and cannot be read as one."""


class BadLog(BadInput):
    """A log of the sample guest `probe` without a usable report."""


class CannotMutate(BadInput):
    """A mutation that was asked for, and that this machine cannot have."""


class NotBootable(PvhdbgError):
    """The kernel offers no PVH entry that a loader could use."""

    exit_code = 1


class TargetError(PvhdbgError):
    """The machine, or the connection to it, failed before anything could be judged."""

    exit_code = 3


class VmmFailed(TargetError):
    """A program that runs the guest or connects to it is missing, too old, or ended at once."""


class PluginRefused(VmmFailed):
    """This QEMU does not load the flight recorder; without it, it may run."""


class EntryNotReached(TargetError):
    """The guest was observed, but not at its PVH entry."""


class TargetLost(TargetError):
    """The connection closed, or the process behind it ended."""


class TargetTimeout(TargetError):
    """No answer within the time allowed."""


class GuestDied(TargetError):
    """The guest shut down, rebooted or triple-faulted while it was being watched."""


class MemoryUnreadable(TargetError):
    """`size` bytes of guest memory at the physical `address` cannot be read.

    `looked` is False where no machine was asked, as with a recording that does not hold these bytes.
    """

    def __init__(self, address: int, size: int, why: str = "nothing is there", *, looked: bool = True) -> None:
        super().__init__(
            f"{size} byte{'' if size == 1 else 's'} of guest memory at {address:#x} cannot be read: {why}",
            "see what is there: memmap, pagewalk",
        )
        self.address = address
        self.size = size
        self.why = why
        self.looked = looked


class ProtocolError(TargetError):
    """The peer's bytes do not follow the protocol of the connection."""


def cause_of(error: OSError | ValueError) -> str:
    """The system's words for a failure of reading or writing; Python's own where it has none."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
