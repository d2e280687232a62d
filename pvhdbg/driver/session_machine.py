"""The tracer's machine of a live session, in its current state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from pvhdbg.decode.qemu_monitor import is_shut_down
from pvhdbg.driver.traced_machine import KASLR_MOVED, SHUT_DOWN, TracedMachine, found_image, has_shut_down, is_kaslr_moved
from pvhdbg.errors import TargetError
from pvhdbg.machine.lease import Lease
from pvhdbg.machine.names import Names
from pvhdbg.machine.running import with_lease
from pvhdbg.machine.session import Session
from pvhdbg.targets.run import Progress, step_off_reset_vector
from pvhdbg.targets.target import RESET_RIP, Target
from pvhdbg.tracing.engines.engine import halted

T = TypeVar("T")


def on_session(session: Session, command: str, work: Callable[[TracedMachine], T], progress: Progress = lambda _: None) -> T:
    """Do `work` on a session's machine in its current state. Raises PvhdbgError.

    `work` may run in another thread: it uses the machine that it gets, and nothing else of the session.
    """
    session.needs_control(command)
    _refuse_ended(session.target)
    boot = session.boot()
    with ExitStack() as stack:
        image = session.image or found_image(boot, stack)

        def leased(lease: Lease) -> T:
            if boot.registers.get("rip") == RESET_RIP:
                step_off_reset_vector(lease.target)
            machine = TracedMachine(
                lease.target,
                boot,
                Names(image),
                image,
                lease.qemu,
                progress=progress,
                live=True,
                interruptible=lease.interruptible,
            )
            if lease.recorded and lease.qemu is not None:
                from pvhdbg.tracing.engines.registers import open_recorder

                machine.recorder = stack.enter_context(open_recorder(lease.qemu.recording))
            if is_kaslr_moved(machine):
                machine.warnings.append(KASLR_MOVED)
            try:
                return work(machine)
            finally:
                lease.ended = machine.ended or _ended_since(lease.target)

        return with_lease(session, leased)


def _refuse_ended(target: Target) -> None:
    """Raises TargetError for a guest that has shut down while QEMU keeps its state: it would never stop again."""
    if has_shut_down(target):
        raise TargetError(f"the machine cannot run on: {SHUT_DOWN}", "boot it again to its entry")


def _ended_since(target: Target) -> str | None:
    """How a guest ended that ran on after the end of the trace, if it did."""
    if not target.capabilities.monitor:
        return None
    try:
        if is_shut_down(target.monitor("info status")):
            return SHUT_DOWN
        over = None if "HLT=0" in target.monitor("info registers -a") else halted(target)
    except TargetError:
        return None  # the connection is lost, which is reported elsewhere; or the CPU waits for an interrupt
    return None if over is None else over.words
