"""The faults of a death in words, in their order."""

from __future__ import annotations

from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.event import Fault, FaultKind


def chain(death: Death, around: Surroundings) -> list[str]:
    """A line for each fault that was reported."""
    words: list[str] = []
    prior: Fault | None = None
    for one in death.reported:
        if one.kind is FaultKind.TRIPLE_FAULT:
            words.append("triple fault: the double fault could not be delivered either; the CPU shuts down")
        elif one.kind is FaultKind.RESET:
            words.append("CPU reset")
        else:
            words.append(link(one, prior, around))
            prior = one
    return words


def link(one: Fault, prior: Fault | None, around: Surroundings) -> str:
    """One fault; `prior` is the one before it, whose delivery may have failed."""
    where = "" if one.pc is None else f" at {around.named(one.pc)}"
    if one.kind is not FaultKind.EXCEPTION:
        return f"{one.kind.value}, vector {one.vector:#x}{where}"
    if one.vector == faults.PF:
        return f"{faults.name(one.vector)}{where}: {faults.page_fault(one)}"
    if one.vector == faults.DF:
        why = None if prior is None or prior.vector is None else faults.undeliverable(prior.vector, one.state, around)
        return f"{faults.name(one.vector)}{where}: the fault before could not be delivered{f': {why.words}' if why else ''}"
    error = one.error or 0
    wrong = (
        faults.descriptor(error & 0xFFF8, one.state, around)
        if one.vector in faults.WITH_SELECTOR and error and not error & 6
        else ""
    )
    about = faults.selector(error, None if prior is None else prior.vector, wrong) if one.vector in faults.WITH_SELECTOR else ""
    return f"{faults.name(one.vector)}{where}{f': {about}' if about else ''}"
