"""The lease of a live session's machine: an engine or a death watch controls the machine for a while.

Each front end provides `Session.lessor`: the prompt takes the machine from GDB; in GDB, GDB runs the machine and another thread
does the work. Afterwards the machine is stopped, and the session knows that it has run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from pvhdbg.record import dataclass
from pvhdbg.targets.target import Stoppable, Target

if TYPE_CHECKING:
    from pvhdbg.vmm.qemu import QemuProcess


@contextmanager
def interruptible(engine: Stoppable) -> Iterator[None]:
    """The first Ctrl-C ends the trace and keeps its events; a second one is a KeyboardInterrupt as everywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        engine.stop()

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Lease:
    """The leased machine, how Ctrl-C reaches it, and its QEMU where it was started here.

    `recorded`: the flight recorder is in that QEMU, and has seen one boot only.
    """

    target: Target
    interruptible: Callable[[Stoppable], AbstractContextManager[None]] = interruptible
    qemu: QemuProcess | None = None
    recorded: bool = False
    ended: str | None = None  # how the guest ended under the lease; None for one that can run on


Lessor = Callable[[Callable[[Lease], Any]], Any]  # calls the work with the lease, and returns its result
