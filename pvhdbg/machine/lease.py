"""The lease of a live session's machine to what lets it run in its own way: an engine that follows the CPU, a watch for its death.

Each face knows how its machine can be run by somebody else (`Session.lender`): the prompt takes it from GDB's hands, GDB runs it and
leaves the looking to another thread. Afterwards it stands still, and the session knows that it has run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pvhdbg.targets.target import Target

if TYPE_CHECKING:
    from pvhdbg.vmm.qemu import QemuProcess


class Stoppable(Protocol):
    def stop(self) -> None: ...


@contextmanager
def interruptible(engine: Stoppable) -> Iterator[None]:
    """The first Ctrl-C ends the trace with what there is; a second one is an interruption as everywhere."""
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
    """What the borrower gets: the machine, how Ctrl-C reaches it, and its QEMU where it was started here."""

    target: Target
    interruptible: Callable[[Stoppable], AbstractContextManager[None]] = interruptible
    qemu: QemuProcess | None = None
    ended: str | None = None  # what the borrower saw of the guest's end; None for one that can run on


Lender = Callable[[Callable[[Lease], Any]], Any]  # calls the borrower's work, and returns what that returns
