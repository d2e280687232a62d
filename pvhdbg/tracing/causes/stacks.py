"""Stacks that end a boot: one that was never loaded, one that points to no RAM, one that grew too far."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import BackingKind
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import classify
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.stack import physical_words, words

_STACK_REACH = 0x100  # bytes below and above the stack pointer that count as the stack
_NEAR_START = 0x1000  # bytes below the entry's stack pointer
_ENTRIES_NEAR = 64  # entries behind that of a fault within which a stack must begin that has overwritten it
_RECURSION = 8  # return addresses of one call on the stack that show a recursion
_PAGE = 0x1000
_DEEP = 1 << 18  # bytes of a stack that are read
_LOAD_IT = "load the stack pointer with the end of memory that is the kernel's own, and mapped, before the first push or call"
_PROMISE = "esp: unspecified at the entry, and no stack is promised; the kernel has to load one of its own"


class Recursion(NamedTuple):
    """A return address that is on the stack again and again, the bytes from the stack pointer to the last of them, and where the first is."""

    address: int
    times: int
    depth: int
    nearest: int


def on_stack(draft: Draft, case: Case) -> bool:
    """A page fault at the stack pointer."""
    stack, address = case.death.state.get("rsp"), case.fault.cr2
    if case.fault.vector != faults.PF or address is None or stack is None or abs(address - stack) > _STACK_REACH:
        return False
    start = case.around.start.get("rsp")
    if start is not None and start - _NEAR_START <= stack <= start:
        draft.promises.append(_PROMISE)
        return draft.found(
            "no stack of its own",
            f"That is the stack, and it is still the loader's: the stack pointer is {stack:#x}, at the entry it was {start:#x}",
            next=_LOAD_IT,
        )
    deep = recursion(case)
    if deep is not None:
        ran_into = classify(address, case.death.state, case.around)
        return draft.found(
            "stack overflow",
            f"That is the stack, which is full: the return address {case.around.named(deep.address)} is on it {deep.times:,} times, in "
            f"{deep.depth:,} bytes, and below it memory is {ran_into.words}",
            next=f"see why {_function(case, deep.address)} calls itself without end, or give it a larger stack",
        )
    draft.promises.append(_PROMISE)
    return draft.found("wild stack", f"That is the stack: the stack pointer is {stack:#x}", next=_LOAD_IT)


def grown_into_tables(draft: Draft, case: Case) -> bool:
    """A page fault by an entry that a recursion's stack overwrote: the table holds one return address again and again from there on."""
    if case.fault.vector != faults.PF or case.fault.cr2 is None:
        return False
    found = classify(case.fault.cr2, case.death.state, case.around)
    walk = found.walk
    if walk is None or walk.scheme is None or not walk.levels or walk.physical is not None:
        return False
    entry = walk.levels[-1]
    deep = recursion_at(case, entry.address, physical=True)
    if deep is None or deep.nearest > entry.address + walk.scheme.entry_size * _ENTRIES_NEAR:
        return False
    draft.address = found
    return draft.found(
        "stack overflow",
        f"A stack has grown into the page tables: the {entry.name}'s entry for that address, at {case.around.named(entry.address)}, now holds "
        f"{entry.entry or 0:#x}, and from there on the return address {case.around.named(deep.address)} is in the table and above it "
        f"{deep.times:,} times, in {deep.depth:,} bytes",
        next=f"see why {_function(case, deep.address)} calls itself without end, or give it a larger stack; a page that is not mapped below the "
        "stack would have shown it at once",
    )


def lost_return_address(draft: Draft, case: Case) -> bool:
    """A return from a stack that is not RAM: what was pushed was lost."""
    if case.death.departure is None:
        return False
    jump, landed = case.death.departure
    state = jump.delta.state() if jump.delta is not None else {}
    stack = state.get("rsp")
    if effect_of(jump.code, jump.mode.bits) is not Effect.RETURN or stack is None or case.around.backing is None:
        return False
    physical = case.around.physical(stack, {**case.death.state, **state})
    backing = None if physical is None else case.around.backed(physical)
    if physical is None or (backing is not None and backing.kind in (BackingKind.RAM, BackingKind.UNKNOWN)):
        return False
    kind = "outside all memory and devices" if backing is None else f"in {backing.kind.value.upper()}"
    draft.promises.append(_PROMISE)
    return draft.found(
        "stack not in RAM",
        f"The stack pointer was {stack:#x}, {kind}, so what was pushed was lost: `{case.text_of(jump)}` at "
        f"{case.around.named(jump.pc)} went to {landed.pc:#x}, which no instruction had pushed",
        next=_LOAD_IT,
    )


def recursion(case: Case) -> Recursion | None:
    """The call that filled the stack; None where no return address is there often. The stack pointer may be in a page that is not mapped."""
    start = case.death.state.get("rsp")
    if start is None:
        return None
    return recursion_at(case, start) or recursion_at(case, (start | _PAGE - 1) + 1)


def recursion_at(case: Case, start: int | None, *, physical: bool = False) -> Recursion | None:
    """The same for a stack that begins at the linear address `start`, or at a physical one."""
    if start is None:
        return None
    around, state = case.around, {**case.death.state, "rsp": start}
    stack = physical_words(state, around, _DEEP) if physical else words(state, around, _DEEP)
    found = [(at, word) for at, word in stack if around.holds(around.linked(word))]
    if not found:
        return None
    address, count = Counter(word for _, word in found).most_common(1)[0]
    if count < _RECURSION or not _is_return(case, address):
        return None
    places = [at for at, word in found if word == address]
    return Recursion(address, count, max(places) - start, min(places))


def _is_return(case: Case, address: int) -> bool:
    """Whether a call is before it: `call` with a relative target, or through a register."""
    try:
        physical = case.around.linked(address) - 5
        before = case.around.file(physical, 5) or case.around.read(physical, 5)
    except MemoryUnreadable:
        return False
    return before[:1] == b"\xe8" or (before[3:4] == b"\xff" and before[4] & 0xF8 == 0xD0)


def _function(case: Case, address: int) -> str:
    return (case.around.name(address) or f"the code at {address:#x}").partition("+")[0]
