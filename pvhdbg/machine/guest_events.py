"""The instructions of a machine at or after its entry, as a Python iterator."""

from __future__ import annotations

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.machine.names import Names
from pvhdbg.targets.target import Target
from pvhdbg.tracing.engines.engine import Bounds, Engine
from pvhdbg.tracing.engines.events import Events
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.step import StepEngine


def events(
    target: Target, boot: BootState, names: Names, until: str | int | None, count: int | None, states: bool, seconds: float
) -> Events:
    """By QEMU's log; with KVM or without a monitor, by single steps. `until` is a symbol, an address or a mode. Raises BadInput."""
    mode = {one.value: one for one in Mode}.get(until) if isinstance(until, str) else None
    addresses: tuple[int, ...] = ()
    if isinstance(until, int):
        addresses = (until,)
    elif until is not None and mode is None:
        addresses = tuple(names.addresses(until))
    engine: Engine
    if boot.snapshot.vmm.accelerator == "kvm" or not target.capabilities.monitor:
        engine = StepEngine(target)
    else:
        engine = LogEngine(target, states=states or mode is not None, peek=names.code)
    return Events(engine, Bounds(addresses, count, seconds), mode)
