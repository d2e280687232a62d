"""Memory that a kernel takes for zero, and that was not cleared."""

from __future__ import annotations

from pvhdbg.tracing.addresses import classify
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.death import Touched

_FIELD = 0x1000  # bytes from a pointer to what is used of it


def bss_not_cleared(draft: Draft, case: Case) -> bool:
    """The pointer that killed was read from .bss, where it lay at the entry already."""
    for event, one in reversed(case.death.loads):
        held = _held(case, one)
        if held is None:
            continue
        value = int.from_bytes(held, "little")
        used = [used for used in (case.fault.cr2, case.fault.pc, _landed(case)) if used is not None and 0 <= used - value < _FIELD]
        if not used:
            continue
        draft.address = classify(used[0], case.death.state, case.around)
        draft.promises.append("memory behind the bytes of a PT_LOAD, up to its p_memsz: the loader's to clear (PVH-LOAD-BSS)")
        return draft.found(
            ".bss not cleared",
            f"`{case.text_of(event)}` at {case.around.named(event.pc)} read {value:#x} from {case.around.named(one.address)}, in .bss, "
            "which was not cleared: it held that at the entry already",
            next="clear .bss at the beginning of the kernel, which helps with every loader; pvhdbg check tells what was not cleared",
        )
    return False


def _landed(case: Case) -> int | None:
    return None if case.death.departure is None else case.death.departure[1].pc


def _held(case: Case, one: Touched) -> bytes | None:
    """What the entry left there, if it is not zero and still there."""
    physical = case.around.physical(one.address, case.death.state)
    for start, before in case.around.not_cleared:
        if physical is not None and start <= physical <= start + len(before) - one.size:
            held = before[physical - start : physical - start + one.size]
            return held if any(held) and held == case.around.bytes_at(one.address, one.size, case.death.state) else None
    return None
