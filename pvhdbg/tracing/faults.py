"""Exceptions in words: their names, their error codes, and why the CPU could not deliver them (Intel SDM volume 3A, chapter 6)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import long_mode_active, protected
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.tracing.addresses import Surroundings, classify
from pvhdbg.tracing.event import Fault

NAMES = MappingProxyType(
    {
        0: "#DE divide error", 1: "#DB debug", 2: "NMI", 3: "#BP breakpoint", 4: "#OF overflow", 5: "#BR bound range",
        6: "#UD invalid opcode", 7: "#NM no FPU", 8: "#DF double fault", 10: "#TS invalid TSS", 11: "#NP segment not present",
        12: "#SS stack segment", 13: "#GP general protection", 14: "#PF page fault", 16: "#MF x87", 17: "#AC alignment",
        18: "#MC machine check", 19: "#XM SIMD", 20: "#VE virtualization", 21: "#CP control protection",
    }
)  # fmt: skip
DE, DB, UD, NM, DF, TS, NP, SS, GP, PF = 0, 1, 6, 7, 8, 10, 11, 12, 13, 14
WITH_SELECTOR = (TS, NP, SS, GP)
_TASK_GATE = 0x5
_GATES = (_TASK_GATE, 0x6, 0x7, 0xE, 0xF)  # task gate; 16- and 32-bit interrupt and trap gates


def name(vector: int | None) -> str:
    """ "#PF page fault", or "vector 0x21" for what has no name."""
    return NAMES.get(vector if vector is not None else -1, f"vector {vector:#x}" if vector is not None else "a fault")


def is_fetch(fault: Fault) -> bool:
    """Whether a page fault is an instruction fetch. Without NX the error code does not show it: then cr2 equal to pc does."""
    return fault.vector == PF and (bool((fault.error or 0) >> 4 & 1) or (fault.cr2 is not None and fault.cr2 == fault.pc))


def page_fault(fault: Fault) -> str:
    """The access, and why it was refused."""
    error = fault.error or 0
    access = "fetching the instruction" if is_fetch(fault) else "a write" if error >> 1 & 1 else "a read"
    where = "an address that was not observed" if fault.cr2 is None else f"{fault.cr2:#x}"
    if error >> 3 & 1:
        why = "a page table entry has a reserved bit set"
    elif not error & 1:
        why = "not present"
    elif is_fetch(fault):
        why = "the page must not be executed"
    else:
        why = "the page is read-only" if error >> 1 & 1 else "the page is not readable there"
    return f"{access} at {where}: {why}"


def selector(error: int, prior: int | None = None, why: str = "") -> str:
    """An error code that names a descriptor, in words (SDM 6.13); "" for none.

    `prior` is the vector that was being delivered, `why` what is wrong with the descriptor (see `descriptor`).
    """
    if not error:
        return ""
    outside = ", found while delivering another" if error & 1 else ""
    if error & 2:
        # QEMU: for the 16-byte gates of long mode it puts twice the vector into the error code.
        vector = prior if prior is not None and prior in (error >> 3, error >> 4) else error >> 3
        return f"the IDT's entry for vector {vector} ({name(vector)}) is not a usable gate{outside}"
    table = "LDT" if error & 4 else "GDT"
    return f"selector {error & 0xFFF8:#x} in the {table} is not usable{f': {why}' if why else ''}{outside}"


def descriptor(selected: int, state: Mapping[str, int], around: Surroundings, *, code: bool = False) -> str:
    """What is wrong with the descriptor that a selector names in the GDT; "" where it looks sound or was not observed.

    With `code`, one that is not a code segment is wrong too.
    """
    base, limit = state.get("gdt_base"), state.get("gdt_limit")
    if base is None or limit is None or selected & 4:
        return ""
    if not selected & 0xFFF8:
        return "it is the null selector"
    if (selected & 0xFFF8) + 7 > limit:
        return f"it is behind the end of the GDT (limit {limit:#x})"
    read = _read(base + (selected & 0xFFF8), 8, state, around)
    if read is None:
        return ""
    if not read[5] >> 7 & 1:
        return "its descriptor is not present" if any(read) else "its descriptor is empty"
    if code and read[5] & 0x18 != 0x18:
        return "its descriptor is not that of a code segment"
    return ""


class GateFault(Enum):
    """What is wrong with an entry of the IDT."""

    MISSING = "missing"  # behind the IDT's limit
    NOT_READABLE = "not readable"
    NOT_PRESENT = "not present"
    NOT_A_GATE = "not a gate"
    SELECTOR = "selector"


class Undeliverable(NamedTuple):
    """Why the CPU could not call a handler, in words."""

    gate: GateFault
    words: str


def undeliverable(vector: int, state: Mapping[str, int], around: Surroundings) -> Undeliverable | None:
    """Why the CPU could not call the handler for `vector`; None where its gate looks sound or was not observed."""
    base, limit = state.get("idt_base"), state.get("idt_limit")
    if base is None or limit is None:
        return None
    real = protected(state) is False
    size = 16 if long_mode_active(state) else 4 if real else 8
    kept = "; it is still the loader's IDT" if untouched_idt(state, around) else ""
    if vector * size + size - 1 > limit:
        return Undeliverable(GateFault.MISSING, f"the IDT (limit {limit:#x}) has no entry for vector {vector}{kept}")
    if real:
        return None
    at = classify(base + vector * size, state, around)
    if at.walk is None or at.walk.physical is None:
        return Undeliverable(GateFault.NOT_READABLE, f"the IDT at {base:#x} is not mapped{kept}")
    gate = _read(base + vector * size, size, state, around)
    if gate is None:
        return Undeliverable(GateFault.NOT_READABLE, f"the IDT at {base:#x} cannot be read{kept}")
    entry = f"the IDT's entry for vector {vector}"
    if not gate[5] >> 7 & 1:
        return Undeliverable(GateFault.NOT_PRESENT, f"{entry} is not present{kept}")
    if gate[5] & 0x1F not in _GATES:
        return Undeliverable(GateFault.NOT_A_GATE, f"{entry} is not a gate (type {gate[5] & 0x1F:#x}){kept}")
    selected = int.from_bytes(gate[2:4], "little")
    wrong = descriptor(selected, state, around, code=True) if gate[5] & 0x1F != _TASK_GATE else ""
    return Undeliverable(GateFault.SELECTOR, f"{entry} names selector {selected:#x}, and {wrong}{kept}") if wrong else None


def _read(address: int, size: int, state: Mapping[str, int], around: Surroundings) -> bytes | None:
    walk = classify(address, state, around).walk
    try:
        return None if walk is None or walk.physical is None else around.read(walk.physical, size)
    except MemoryUnreadable:
        return None


def untouched_idt(state: Mapping[str, int], around: Surroundings) -> bool:
    """Whether the IDT is the same as at the entry."""
    return all(state.get(part) is not None and state.get(part) == around.start.get(part) for part in ("idt_base", "idt_limit"))
