"""Where the CPU executes: code that is not the file's, data, zeros, address 0, and how it left its code."""

from __future__ import annotations

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import BackingKind
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, classify
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.causes.stacks import recursion_at
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.opcodes import Effect, effect_of

_PAGE = 0x1000
_DEVICES, _FOUR_GIB = 2 << 30, 4 << 30  # from here on a PC may have devices: QEMU's q35 has RAM up to 2 GiB, pc up to 3 or 3.5 GiB
_SAMPLE = 64
_LONGEST = 15
_GAP = 16  # equal bytes in a row that end a changed range
_CALLS = (Effect.CALL, Effect.FAR_CALL)
_WRITER = "see who wrote there last: pvhdbg goto KERNEL death --last-write"


def too_little_memory(draft: Draft, case: Case) -> bool:
    """A part of the kernel lies where there is no RAM: what was loaded, and is stored there, is lost."""
    ram = [one for one in case.around.backing or () if one.kind is BackingKind.RAM]
    if not ram:
        return False
    lost = [load for load in case.around.loads if not any(one.start < load.end and load.start < one.end for one in ram)]
    cut = [load for load in case.around.loads if load not in lost and case.around.backed(load.end - 1) is None]
    if not lost and not cut:
        return False
    load = (lost + cut)[0]
    if load.end > _DEVICES and load.start < _FOUR_GIB:
        if _as_in_file(case, load.start):
            return False  # the firmware's ROM holds it
        return draft.found(
            "kernel outside of RAM",
            f"The kernel does not fit: its segment from {load.start:#x} to {load.end:#x} is outside of RAM, and more memory does not help: "
            "up to 4 GiB, a PC has devices and ROM there",
            next=f"link the kernel to run below {_DEVICES >> 30} GiB; an image that is made for ROM is started as firmware: -- -bios FILE",
        )
    least = -(-max(one.end for one in case.around.loads) >> 20) + 1
    return draft.found(
        "too little memory",
        f"The kernel does not fit: its segment from {load.start:#x} to {load.end:#x} is {'partly ' if cut and not lost else ''}outside of RAM",
        next=f"give the machine at least {least}M (--memory {least}M)",
    )


def _as_in_file(case: Case, physical: int) -> bool:
    there = case.around.file(physical, _SAMPLE)
    try:
        return bool(there) and case.around.read(physical, len(there)) == there
    except MemoryUnreadable:
        return False


def overwritten(draft: Draft, case: Case) -> bool:
    """The instruction is not that of the kernel's file. Linux patches itself, so there it says nothing."""
    if case.around.patches_itself:
        return False
    for event in _suspects(case):
        physical = case.around.physical(event.pc, case.death.state)
        if physical is None:
            continue
        changed = _changed(case, physical, max(len(event.code), 1))
        if changed is None:
            continue
        start, end = changed
        own = recursion_at(case, start & ~3) if start < physical + _LONGEST else None
        if own is not None:
            return draft.found(
                "stack overflow",
                f"The stack grew into the kernel's own code: from {case.around.named(start)} on the bytes are not those of the file, and the "
                f"return address {case.around.named(own.address)} is there {own.times:,} times, in {own.depth:,} bytes",
                next="see why that code calls itself without end, or put the stack where nothing of the kernel lies below it",
            )
        now, before = case.around.read(start, min(end - start, 8)), case.around.file(start, min(end - start, 8))
        return draft.found(
            "overwritten code",
            f"The code there is not that of the kernel's file: {end - start:,} bytes from {case.around.named(start)} on differ "
            f"({now.hex(' ')} instead of {before.hex(' ')})",
            next=f"{_WRITER} {start:#x}",
        )
    return False


def null_call(draft: Draft, case: Case) -> bool:
    """A call, jump or return to the first page."""
    left = _left(case)
    if left is None or left[1] >= _PAGE:
        return False
    jump, landed = left
    effect = effect_of(jump.code, jump.mode.bits)
    what = "called" if effect in _CALLS else "returned to" if effect is Effect.RETURN else "jumped to"
    cause = {"called": "call through null", "returned to": "return to null", "jumped to": "jump through null"}[what]
    draft.address = classify(landed, case.death.state, case.around)
    next_step = (
        "see who overwrote the return address, or popped too much"
        if effect is Effect.RETURN
        else "see where that pointer should be set"
    )
    return draft.found(
        cause,
        f"`{case.text_of(jump)}` at {case.around.named(jump.pc)} {what} address {landed:#x}: a pointer that is null",
        next=next_step,
    )


def executes_data(draft: Draft, case: Case) -> bool:
    """The CPU executes what the kernel's file holds as data."""
    pc = case.fault.pc if case.death.departure is None else case.death.departure[1].pc
    if pc is None or faults.is_fetch(case.fault):
        return False
    physical = case.around.physical(pc, case.death.state)
    name = case.around.data_at(pc)
    part = None if physical is None else case.around.holds(physical)
    if name is None and (part is not False or case.around.name(pc) is not None):
        return False  # Linux' .init.text is code in a PT_LOAD that is not executable: a symbol that is not a data object may be a function
    what = f"in the data object {name}" if name else "in a PT_LOAD of the kernel that is not executable"
    how = ""
    if case.death.departure is not None:
        jump = case.death.departure[0]
        how = f": `{case.text_of(jump)}` at {case.around.named(jump.pc)} went there"
    return draft.found(
        "data executed",
        f"{case.around.named(pc)} is data, not code: it lies {what}{how}",
        next="see where that jump took its target from",
    )


def left_its_code(draft: Draft, case: Case) -> bool:
    """The CPU left the kernel's code, and died there."""
    if case.death.departure is None or faults.is_fetch(case.fault):
        return False
    jump, landed = case.death.departure
    found = draft.address = classify(landed.pc, case.death.state, case.around)
    if found.kind in (AddressClass.UNKNOWN, AddressClass.KERNEL):
        draft.address = None
        return False
    return draft.found(
        "wild jump",
        f"It left its code by `{case.text_of(jump)}` at {case.around.named(jump.pc)}, to {landed.pc:#x}, which is {found.words}",
        next="see where that jump took its target from",
    )


def _left(case: Case) -> tuple[Event, int] | None:
    """The instruction that left the kernel's code, and where it went."""
    if case.death.departure is not None:
        return case.death.departure[0], case.death.departure[1].pc
    path = case.death.path
    if faults.is_fetch(case.fault) and path and case.fault.pc is not None and path[-1].pc != case.fault.pc:
        return path[-1], case.fault.pc
    return None


def _suspects(case: Case) -> list[Event]:
    """The instructions that may have been overwritten: the one that was hit, and the one that left the code."""
    departed = case.death.departure
    found = [case.event] if case.event is not None else []
    return found + ([departed[0]] if departed is not None else [])


def _changed(case: Case, physical: int, size: int) -> tuple[int, int] | None:
    """The range around an instruction whose bytes are not the file's; None where those of the instruction are."""
    low, high = physical & ~(_PAGE - 1), (physical & ~(_PAGE - 1)) + _PAGE
    low = max([low, *(load.start for load in case.around.loads if load.start <= physical < load.end)])
    try:
        there = case.around.file(low, high - low)
        now = case.around.read(low, len(there))
    except MemoryUnreadable:
        return None
    at = physical - low
    if at + size > len(there) or now[at : at + size] == there[at : at + size]:
        return None
    different = [index for index in range(len(there)) if now[index] != there[index]]
    first = next(index for index in different if index >= at)
    start = end = different.index(first)
    while start > 0 and different[start] - different[start - 1] <= _GAP:
        start -= 1
    while end + 1 < len(different) and different[end + 1] - different[end] <= _GAP:
        end += 1
    return low + different[start], low + different[end] + 1
