"""The instructions of a machine at or after its entry, as a Python iterator."""

from __future__ import annotations

from pvhdbg.decode.boot_state import BootState
from pvhdbg.machine.names import Names, goal_of
from pvhdbg.targets.target import Target
from pvhdbg.tracing.engines.engine import Bounds, Engine
from pvhdbg.tracing.engines.events import Events
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.goal import Goal


def events(
    target: Target, boot: BootState, names: Names, until: str | int | None, count: int | None, states: bool, seconds: float
) -> Events:
    """By QEMU's log; with KVM or without a monitor, by single steps. `until` is a symbol, an address or a mode. Raises BadInput."""
    goal = goal_of(until, names) if isinstance(until, str) else Goal(() if until is None else (until,))
    engine: Engine
    if boot.snapshot.vmm.kvm or not target.capabilities.monitor:
        engine = StepEngine(target)
    else:
        engine = LogEngine(target, states=states or bool(goal.modes), peek=names.code)
    return Events(engine, Bounds(goal.addresses, count, seconds), goal.modes)
