"""Run a session's machine: to its entry, or under a lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pvhdbg.errors import PvhdbgError, TargetError
from pvhdbg.machine.capture import capture
from pvhdbg.machine.lease import Lease
from pvhdbg.machine.session import Session, timestamp
from pvhdbg.targets.target import RESET_RIP

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.model import Registers

T = TypeVar("T")


def run_to_entry(session: Session, timeout: float = 30.0, reset: bool = False) -> BootState:
    """Run the machine to its entry, after a reset if asked for. Raises EntryNotReached, GuestDied and the target's errors."""
    plan = replace(session.plan(), reset=reset, timeout=timeout)
    before = session.registers()
    session.resumed()
    try:
        boot = capture(session.target, plan, progress=session.progress, confirm=session.confirm, timestamp=timestamp())
    except BaseException:
        session.changed()
        if reset and _moved_from(session, before):  # after a failed reset, what was read of this boot stays valid
            session.forget()
        raise
    session.arrived(boot)
    return boot


def _moved_from(session: Session, before: Registers) -> bool:
    try:
        return session.target.read_registers().values != before.values
    except TargetError:
        return True


def with_lease(session: Session, work: Callable[[Lease], T]) -> T:
    """Lease the machine to `work`. What was read before then belongs to the previous stop, or to a previous boot after a reset."""
    session.resumed()
    try:
        found: T = session.lessor(work) if session.lessor is not None else work(Lease(session.target))
        return found
    finally:
        try:
            if session.registers().get("rip") == RESET_RIP:
                session.forget()
        except PvhdbgError:
            pass  # it is gone: the next command reports it
