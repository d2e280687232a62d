"""Why a fault ended a boot: what the CPU refused, and why no handler took it."""

from __future__ import annotations

from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, Surroundings, classify
from pvhdbg.tracing.causes import code, instructions, interrupts, memory, processors, stacks, tables
from pvhdbg.tracing.causes.draft import Case, Disassemble, Draft, Recognize
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.event import Event, Fault, FaultKind
from pvhdbg.tracing.opcodes import Effect, effect_of

# The first that recognizes a fault is its cause. Where the CPU executes comes before what the instruction does.
_CAUSES: tuple[Recognize, ...] = (
    code.too_little_memory,
    memory.bss_not_cleared,
    interrupts.interrupt,
    interrupts.called,
    processors.woken,
    tables.long_mode_refused,
    stacks.grown_into_tables,
    tables.overwritten_tables,
    tables.wrong_tables,
    code.overwritten,
    stacks.lost_return_address,
    code.null_call,
    code.executes_data,
    code.left_its_code,
    stacks.on_stack,
    instructions.page_fault,
    instructions.invalid_opcode,
    instructions.non_canonical,
    instructions.msr,
    instructions.bad_selector,
    instructions.division,
    instructions.no_fpu,
    instructions.single_step,
    instructions.any_other,
)
# The same where the CPU runs astray without a fault.
_ASTRAY_CAUSES: tuple[Recognize, ...] = (
    code.too_little_memory,
    memory.bss_not_cleared,
    tables.wrong_tables,
    code.overwritten,
    stacks.lost_return_address,
    code.null_call,
    code.executes_data,
)


_SURE = 2000  # equal faults that are surely all: of more, some may not have been kept


def explain_fault(draft: Draft, death: Death, fault: Fault, around: Surroundings, disassemble: Disassemble) -> None:
    """Put the cause of a death by `fault`, its first one, into the draft, and why the CPU could not call a handler."""
    event = death.struck or (death.path[-1] if death.path and death.path[-1].pc == fault.pc else None)
    find_cause(draft, Case(death, fault, event, around, disassemble))
    processors.started(draft, death)
    last = death.last or fault
    nested = last is not fault and bool(death.handling)
    state = last.state or death.state
    if nested:
        where = "" if last.pc is None else f" at {around.named(last.pc)}"
        times = sum(one.pc == last.pc and one.vector == last.vector for one in death.handling)
        again = f", for {'at least ' if times >= _SURE else ''}the {times + 1:,}th time" if times else ""
        draft.sentences.append(f"Its handler did not return: in it came {faults.name(last.vector)}{where}{again}")
        if times >= _SURE:
            draft.sentences.append("Of so many faults the last ones alone are known: the first of all may have been another")
    why = faults.undeliverable(last.vector or 0, state, around)
    if why:
        draft.sentences.append(f"{'That' if nested else 'The fault'} could not be handled: {why.words}")
        if last.kind is FaultKind.SOFTWARE_INTERRUPT and why.gate is faults.GateFault.SELECTOR:
            draft.cause = "bad IDT gate"
            draft.next = "give the IDT's gates the selector of a code segment in the GDT that is loaded"
        if faults.untouched_idt(state, around):
            draft.promises.append("the IDT: unspecified at the entry; until the kernel's own lidt, every fault ends the machine")


def find_cause(draft: Draft, case: Case) -> None:
    """Put into the draft what the instruction did that the CPU refused."""
    fault = case.fault
    if fault.vector == faults.PF and fault.kind is FaultKind.EXCEPTION:
        if fault.cr2 is not None:
            draft.address = classify(fault.cr2, case.death.state, case.around)
        told = f"`{case.text}`: " if case.text and not faults.is_fetch(fault) else ""
        draft.sentences.append(f"{told}{faults.page_fault(fault)}")
    next(recognize for recognize in _CAUSES if recognize(draft, case))
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        explain_linked(draft)


def explain_linked(draft: Draft) -> None:
    """The draft's address is one that the kernel is linked to, and its page tables are not on yet."""
    draft.cause = "virtual address too early"
    if draft.address is not None:
        draft.sentences.append(f"{draft.address.address:#x} is {draft.address.words}")
    draft.promises.append("paging: off at the entry; until the kernel's own page tables are on, every address is a physical one")
    draft.next = "use physical addresses (link-time address minus the offset of its PT_LOAD) until paging is on"


def find_astray(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> bool:
    """Put into the draft why a CPU runs where no code is; False where no cause is recognized."""
    pc = death.path[-1].pc if death.path else death.pc
    event = death.path[-1] if death.path else None
    case = Case(death, Fault(0, FaultKind.EXCEPTION, None, None, pc, None, death.state), event, around, disassemble)
    return any(recognize(draft, case) for recognize in _ASTRAY_CAUSES)


_NO_FAULT = Fault(0, FaultKind.RESET, None, None, None, None, {})


def must_have_faulted(death: Death, left: Event, around: Surroundings) -> Fault | None:
    """The fault that the machine's current instruction must have taken; None where that is not certain."""
    if effect_of(left.code, left.mode.bits) is Effect.UD2:
        return Fault(0, FaultKind.EXCEPTION, faults.UD, None, left.pc, None, death.state)
    if any(classify(one.address, death.state, around).kind is AddressClass.NOT_CANONICAL for one in death.touched):
        return Fault(0, FaultKind.EXCEPTION, faults.GP, 0, left.pc, None, death.state)
    if instructions.divisor_of(Case(death, _NO_FAULT, left, around, lambda *_: "")) == 0:
        return Fault(0, FaultKind.EXCEPTION, faults.DE, None, left.pc, None, death.state)
    cr2 = death.state.get("cr2")
    if cr2 is None:
        return None
    fetch = not left.code and cr2 == left.pc
    write = next((one.write for one in death.touched if one.address <= cr2 < one.address + one.size), None)
    walk = classify(cr2, death.state, around).walk
    if (not fetch and write is None) or walk is None or walk.scheme is None or walk.physical is not None:
        return None
    return Fault(0, FaultKind.EXCEPTION, faults.PF, 16 if fetch else 2 * bool(write), left.pc, cr2, death.state)
