"""A live session's machine, lent to what lets it run in its own way: an engine that follows the CPU, a watch for its death.

Each face knows how its machine can be run by somebody else (`Session.lender`): the prompt takes it from GDB's hands, GDB runs it and
leaves the looking to another thread. Afterwards it stands still, and the session knows that it has run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pvhdbg.errors import PvhdbgError
from pvhdbg.targets.target import RESET_RIP, Target

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.vmm.qemu import QemuProcess

T = TypeVar("T")


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
class Lent:
    """What the borrower gets: the machine, how Ctrl-C reaches it, and its QEMU where it was started here."""

    target: Target
    interruptible: Callable[[Stoppable], AbstractContextManager[None]] = interruptible
    qemu: QemuProcess | None = None
    ended: str | None = None  # what the borrower saw of the guest's end; None for one that can run on


Lender = Callable[["Session", Callable[[Lent], Any]], Any]


def as_it_is(session: Session, work: Callable[[Lent], T]) -> T:
    """For a session without a face: its own target."""
    return work(Lent(session.target))


def lend(session: Session, work: Callable[[Lent], T]) -> T:
    """Lend the machine for `work`. What was seen of it is then the stop before, or of another boot where it was reset."""
    session.resumed()
    try:
        found: T = (session.lender or as_it_is)(session, work)
        return found
    finally:
        try:
            if session.registers().get("rip") == RESET_RIP:
                session.forget()
        except PvhdbgError:
            pass  # it is gone: the next command says so
