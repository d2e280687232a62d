"""Unexpected hardware interrupts, and vectors that the guest called itself."""

from __future__ import annotations

from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.death import VECTORS
from pvhdbg.tracing.event import FaultKind

_PIC_BASE = 8  # the vector of IRQ 0, as a PC's firmware sets up the first PIC
_PROMISE = "eflags.IF: 0 at the entry; interrupt controllers are as the firmware left them, and no IDT is promised"


def interrupt(draft: Draft, case: Case) -> bool:
    """A hardware interrupt."""
    fault = case.fault
    if fault.kind is not FaultKind.INTERRUPT:
        return False
    vector = fault.vector or 0
    line = vector - _PIC_BASE
    firmware = (
        f": IRQ {line}{', the timer' if not line else ''}, by the vectors that a PC's firmware gives the PIC"
        if 0 <= line < 8
        else ""
    )
    draft.promises.append(_PROMISE)
    if case.death.handling and vector < VECTORS:
        return draft.found(
            "interrupt before the PIC is remapped",
            f"a hardware interrupt came, vector {vector:#x}{firmware}. The handler takes it for an exception",
            next="remap the PIC to vectors 0x20 and up, or mask it (0xff to ports 0x21 and 0xa1), before sti",
        )
    return draft.found(
        "interrupt",
        f"a hardware interrupt came, vector {vector:#x}{firmware}, with interrupts on (eflags.IF)",
        next="load an IDT, and mask or reprogram the interrupt controllers, before sti",
    )


def called(draft: Draft, case: Case) -> bool:
    """`int`."""
    if case.fault.kind is not FaultKind.SOFTWARE_INTERRUPT:
        return False
    by = f", by `{case.text}`" if case.text else ""
    return draft.found(
        "int", f"the guest called vector {case.fault.vector} itself{by}", next="load an IDT with a gate for it before"
    )
