"""Page tables that do not map the code that runs: what is wrong with them (Intel SDM volume 3A, chapter 4)."""

from __future__ import annotations

from pvhdbg.decode.cpu_mode import flag
from pvhdbg.decode.paging import FOUR_LEVEL, LARGE, LEGACY, PAE, Scheme, Walk, root_of, translate, walk
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import BackingKind, Registers, Unavailable
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import classify
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.opcodes import Effect, effect_of

_PAGING = (Effect.WRITE_CR0, Effect.WRITE_CR3, Effect.WRITE_CR4)
_EDGE = 2  # instructions after a switch of paging within which the switch is to blame
_EFER_MSR = 0xC0000080
_MAP_IT = "map the code one to one, at its physical address, before CR0.PG is set"
_FIRST_TABLES = "paging: off at the entry; the first page tables are the kernel's, and must map where it runs"


def long_mode_refused(draft: Draft, case: Case) -> bool:
    """Long mode was asked for, on a CPU that has none."""
    if not faults.is_fetch(case.fault) or not _asked_for_long_mode(case):
        return False
    return draft.found(
        "no long mode",
        "Long mode had been asked for (wrmsr to EFER with LME), but EFER.LME stayed 0: this CPU has no long mode, "
        "and the tables that were made for it are read as PAE tables, which map nothing here",
        next="give the machine a 64-bit CPU (--cpu qemu64 or max); a kernel would ask CPUID 0x80000001, EDX bit 29, before",
    )


def wrong_tables(draft: Draft, case: Case) -> bool:
    """Paging was switched on, or to other tables, and the next instruction is not where it was."""
    at = _edge(case)
    if at is None:
        return False
    registers = Registers(case.death.state)
    try:
        now = translate(registers, at, case.around.read)
    except Unavailable:
        return False
    if now.scheme is None or now.physical == at:
        return False
    draft.promises.append(_FIRST_TABLES)
    root = root_of(registers, now.scheme)
    return (
        _root_is_not_ram(draft, case, root)
        or _not_long_mode(draft, case, now, root, at)
        or _large_without_pse(draft, now)
        or _wrong_level(draft, case, now, root, at)
        or _mapped_elsewhere(draft, now, at)
        or draft.found(
            "unmapped code",
            "Paging was switched on just before, with page tables that do not map the code that is running",
            next=_MAP_IT,
        )
    )


def overwritten_tables(draft: Draft, case: Case) -> bool:
    """The code ran before with the same tables: since then they were changed."""
    before = case.death.ran_before
    if before is None or not faults.is_fetch(case.fault) or case.fault.cr2 is None:
        return False
    found = classify(case.fault.cr2, case.death.state, case.around).walk
    if found is None or not found.levels or found.physical is not None:
        return False
    entry = found.levels[-1]
    where = case.around.named(entry.address)
    return draft.found(
        "page tables overwritten",
        f"The same page ran at instruction {before:,}, and CR3 is the same: its page tables were changed since. The {entry.name}'s "
        f"entry for it, at {where}, now holds {entry.entry or 0:#x}",
        next=f"see who wrote there last: pvhdbg goto KERNEL death --last-write {entry.address:#x}:{found.scheme.entry_size if found.scheme else 1}",
    )


def _edge(case: Case) -> int | None:
    """The address of the instruction after the last switch of paging, if no jump came since; None where there is none."""
    if case.fault.pc is None:
        return None
    path = case.death.path
    for index in range(len(path) - 1, max(len(path) - 1 - _EDGE, -1), -1):
        event = path[index]
        if effect_of(event.code, event.mode.bits) in _PAGING:
            behind = path[index + 1].pc if index + 1 < len(path) else case.fault.pc
            return behind if behind == event.pc + len(event.code) else None
    return None


def _root_is_not_ram(draft: Draft, case: Case, root: int) -> bool:
    backing = case.around.backed(root)
    if case.around.backing is None or (backing is not None and backing.kind in (BackingKind.RAM, BackingKind.UNKNOWN)):
        return False
    where = "outside all memory and devices" if backing is None else f"in {backing.kind.value.upper()}"
    return draft.found(
        "page tables not in RAM",
        f"CR3 points to {root:#x}, which is {where}: what the kernel stored there was lost",
        next="put the page tables into RAM that the memory map of start_info calls usable",
    )


def _not_long_mode(draft: Draft, case: Case, now: Walk, root: int, at: int) -> bool:
    if now.scheme is not PAE or not _maps(FOUR_LEVEL, root, at, case):
        return False
    return draft.found(
        "long mode not enabled",
        f"EFER.LME is 0, so the CPU reads the tables at {root:#x} as PAE tables. Read as those of long mode they map the code "
        "that is running",
        next="set EFER.LME (MSR 0xc0000080, bit 8) before CR0.PG is set",
    )


def _large_without_pse(draft: Draft, now: Walk) -> bool:
    entry = now.levels[0].entry if now.scheme is LEGACY and now.levels else None
    if entry is None or not entry & 1 or not entry >> LARGE & 1 or now.levels[0].maps:
        return False
    return draft.found(
        "large pages without PSE",
        f"The page directory's entry {now.levels[0].index} is that of a 4 MiB page ({entry:#x}), but CR4.PSE is 0: the CPU takes it "
        f"for a page table at {entry & 0xFFFFF000:#x}",
        next="set CR4.PSE (bit 4) before CR0.PG is set",
    )


def _wrong_level(draft: Draft, case: Case, now: Walk, root: int, at: int) -> bool:
    if now.scheme is None or now.scheme is LEGACY:
        return False
    lower = now.scheme._replace(levels=now.scheme.levels[1:])
    top, second = now.scheme.levels[0][0], lower.levels[0][0]
    if _maps(lower, root, at, case):
        return draft.found(
            "CR3 one level off",
            f"CR3 points to {case.around.named(root)}, which is a {second}, not a {top}: read as a {second} it maps the code that is "
            "running",
            next=f"load CR3 with the address of the {top}",
        )
    try:
        first = int.from_bytes(case.around.read(root, 8), "little")
    except MemoryUnreadable:
        return False
    below = first & ~0xFFF & (1 << 52) - 1
    if not first & 1 or not _maps(now.scheme, below, at, case):
        return False
    return draft.found(
        "CR3 one level off",
        f"CR3 points to {case.around.named(root)}, one table above the {top}: the table at {case.around.named(below)}, read as the {top}, "
        "maps the code that is running",
        next=f"load CR3 with the address of the {top}",
    )


def _mapped_elsewhere(draft: Draft, now: Walk, at: int) -> bool:
    if now.physical is None:
        return False
    return draft.found(
        "code mapped elsewhere",
        f"Paging was switched on just before, with page tables that map {at:#x} to {now.physical:#x}: the CPU went on with what lies there",
        next=_MAP_IT,
    )


def _maps(scheme: Scheme, root: int, at: int, case: Case) -> bool:
    """Whether these tables map the code where it is."""
    pse = flag(case.death.state, "cr4", "PSE") or False
    return walk(scheme, root, at, pse, case.around.read).physical == at


def _asked_for_long_mode(case: Case) -> bool:
    """EFER was written with LME, and does not hold it. The value that was written is known only where states were seen."""
    state = case.death.state
    if flag(state, "efer", "LME") or not flag(state, "cr4", "PAE"):
        return False
    for event in case.death.system:
        if effect_of(event.code, event.mode.bits) is Effect.WRMSR and event.delta is not None:
            before = event.delta.state()
            written = {"efer": before.get("rax", 0)}
            if before.get("rcx", 0) & 0xFFFFFFFF == _EFER_MSR and flag(written, "efer", "LME"):
                return True
    return False
