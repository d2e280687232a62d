"""Clean up a machine that a killed pvhdbg left behind: by its keeper, or by `pvhdbg release`.

Connecting clears all breakpoints, because `?` does so in QEMU. pvhdbg changes three more things in a QEMU: its log, its
one-instruction mode, and the stub's address mode.
"""

from __future__ import annotations

import time

from pvhdbg.errors import PvhdbgError, TargetError, TargetTimeout
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.keeper import address_of
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.target import Leave
from pvhdbg.tracing.engines.log_switch import single_step_mode_on, switch_off

_PATIENCE = 60.0  # seconds for a stopped process to continue, or another client to disconnect
_ONE_TRY = 5.0


def mend(where: str, which: str, was: str, single: str, log: str) -> None:
    """The keeper's work when pvhdbg is gone; `words` are those that it received."""
    target = _connected(address_of(where, which))
    if target is not None:
        runs = was == "running" or (was == "unknown" and _ran(target))
        put_back(target, Leave.RUNNING if runs else Leave.STOPPED, single=single == "on", log=log == "on")


def _ran(target: RemoteTarget) -> bool:
    """Whether the machine ran, where pvhdbg was killed before it could report it: its own connection may have stopped it."""
    try:
        return target.was_running() or target.is_paused()
    except TargetError:
        return False


def put_back(target: RemoteTarget, leave: Leave, *, single: bool, log: bool) -> None:
    """Switch off what is on, and release the machine. Never raises."""
    try:
        if target.capabilities.monitor and (single or log):
            switch_off(target, single=single)
        target.put_back_memory_mode()
    except PvhdbgError:
        pass  # it is gone, or refuses
    target.close(leave)


def release(address: StubAddress, leave: Leave, timeout: float) -> list[str]:
    """Restore all that is found, and release the machine. Returns what was found, in sentences. Raises TargetError."""
    target = RemoteTarget.connect(address, timeout=timeout)
    monitor = target.capabilities.monitor
    single = single_step_mode_on(target) is not None if monitor else False
    log = single or any("/pvhdbg-" in name and name.endswith("/log (deleted)") for name in target.peer_files())
    put_back(target, leave, single=single, log=log)
    found = ["all breakpoints of the stub were cleared"]
    found += ["QEMU's one-instruction mode was switched off"] if single else []
    found += ["QEMU's log was restored"] if log else []
    return found


def _connected(address: StubAddress) -> RemoteTarget | None:
    """A connection, as soon as one succeeds; None where nothing listens any more."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return RemoteTarget.connect(address, timeout=_ONE_TRY)
        except TargetTimeout:
            if time.monotonic() > deadline:
                return None
        except TargetError:
            return None
