"""The end of a run whose VMM is gone: the guest ended it, or a signal did, in which the guest has no part."""

from __future__ import annotations

from dataclasses import replace

from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import EndReason
from pvhdbg.vmm.qemu import QemuProcess

_PATIENCE = 1.0  # seconds in which a QEMU ends whose connection closed


def by_whom(end: TraceEnd, qemu: QemuProcess | None) -> TraceEnd:
    """`end`, or KILLED in its place, which says which signal it was and what to do."""
    error = qemu.killed(_PATIENCE) if qemu is not None and end.why is EndReason.EXITED else None
    return end if error is None else replace(end, why=EndReason.KILLED, cause=f"{error.what}: {error.todo}")
