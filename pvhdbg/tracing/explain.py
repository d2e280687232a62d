"""Why a boot died: from an observed death to one paragraph, what the ABI promises, and what to try next.

Pure: all observations come in with `Death` and `Surroundings`. Each sentence follows from an observation; where there is none,
the explanation says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pvhdbg.spec.pc_ports import CLOCKS, PORTS
from pvhdbg.spec.vmm_bugs import VmmBug
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, ClassifiedAddress, Surroundings, classify
from pvhdbg.tracing.causes import code, ends, instructions, interrupts, memory, processors, stacks, tables
from pvhdbg.tracing.causes.draft import Case, Disassemble, Draft, Recognize
from pvhdbg.tracing.death import VECTORS, WATCHDOG, Awaited, Death, DeathKind, panicked
from pvhdbg.tracing.event import Event, Fault, FaultKind
from pvhdbg.tracing.last_words import telling
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.stack import code_addresses, panic_frame

_WATCH_IT = "boot it again and watch it from its entry: pvhdbg why KERNEL"
_ON_STACK = 6
_RESET_PC = 0xFFFFFFF0
_PAGE = 0x1000
_AWAITED = 3  # things that a loop waits for that are told

# The first that recognizes a fault is its cause. Where the CPU executes comes before what the instruction does.
_CAUSES: tuple[Recognize, ...] = (
    code.too_little_memory,
    memory.bss_not_cleared,
    interrupts.interrupt,
    interrupts.called,
    processors.woken,
    tables.long_mode_refused,
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


@dataclass(frozen=True)
class Explanation:
    """The answer: `cause` in a word or two for scripts, `verdict` as a paragraph, `chain` as the faults in words, in order.

    `address` is the linear address that the death is about; None where it is about none. `doing` says what a guest that lives is doing.
    """

    cause: str
    verdict: str
    chain: tuple[str, ...] = ()
    address: ClassifiedAddress | None = None
    promises: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    next: str = ""
    doing: str = ""


def explain(death: Death, around: Surroundings, disassemble: Disassemble = lambda code, _pc, _bits: code.hex(" ")) -> Explanation:
    """Explain a death from what was seen of it."""
    if death.vmm_bug is not None:
        return _vmm_bug(death, death.vmm_bug, around)
    death = on_its_cpu(death, around)
    draft = Draft(death.kind.value)
    if death.first is not None and death.kind in (DeathKind.TRIPLE_FAULT, DeathKind.RESET):
        _fault(draft, death, death.first, around, disassemble)
    else:
        WITHOUT_A_FAULT[death.kind](draft, death, around, disassemble)
    _handed(draft, death, around)
    verdict = f"{_opening(death, around)}: {'. '.join(draft.sentences)}." if draft.sentences else f"{_opening(death, around)}."
    return Explanation(
        draft.cause, verdict, tuple(_chain(death, around)), draft.address, tuple(draft.promises), around.complaints, draft.next,
        ". ".join(draft.sentences) if death.kind is DeathKind.ALIVE and death.loop else "",
    )  # fmt: skip


def on_its_cpu(death: Death, around: Surroundings) -> Death:
    """The death as that of the one CPU of several whose last instruction must have faulted; unchanged where that is not certain."""
    found = []
    for one in death.standing:
        told = replace(death, state=one.state, touched=one.touched, needs=one.needs, cpu=one.cpu)
        fault = _left_by(told, one.at, around)
        if fault is not None and faults.undeliverable(fault.vector or 0, one.state, around) is not None:
            found.append((told, one, fault))
    if len(found) != 1:
        return death
    told, one, fault = found[0]
    if death.left is not None:
        return replace(told, left=one.at, standing=())
    return replace(
        told, kind=DeathKind.TRIPLE_FAULT, faults=(fault, *death.faults), struck=one.at, path=(), begun=None, standing=()
    )


def _vmm_bug(death: Death, bug: VmmBug, around: Surroundings) -> Explanation:
    verdict = (
        f"A bug of {bug.vmm}'s, not the guest's: {bug.sign}, and {bug.what}. What was seen of the end does not tell how the guest "
        f"behaves on a CPU: {_opening(death, around)}"
    )
    fixed = ".".join(map(str, (*bug.fixed, 0)[:2]))
    return Explanation(
        VMM_BUG, f"{verdict}.", tuple(_chain(death, around)), complaints=around.complaints,
        next=f"use {bug.vmm} {fixed} or newer, or a CPU model without {bug.missing} (--cpu {bug.remedy}), or KVM",
    )  # fmt: skip


VMM_BUG = "VMM's bug"  # the cause of an end that the guest is not to blame for
OPENINGS = {
    DeathKind.TRIPLE_FAULT: "The CPU shut down with a triple fault",
    DeathKind.RESET: "The guest rebooted",
    DeathKind.SHUTDOWN: "The guest shut itself down",
    DeathKind.EXITED: "The guest ended the VMM",
    DeathKind.HALTED: "The CPU halted for good",
    DeathKind.LOOP: "The CPU is in an endless loop",
    DeathKind.ZEROS: "The CPU runs through memory that was never written",
    DeathKind.NOWHERE: "The CPU executes where no memory is",
    DeathKind.PANIC: "The kernel panicked",
    DeathKind.LEFT: "What is left is a state",
    DeathKind.ALIVE: "It did not die while it was watched",
}
_ASTRAY = (DeathKind.LOOP, DeathKind.ZEROS, DeathKind.NOWHERE)  # these deaths go on: their beginning counts


def _opening(death: Death, around: Surroundings) -> str:
    if death.left is not None:
        mode = f" in {death.mode.words}" if death.mode is not None else ""
        if death.kind is DeathKind.LEFT:
            cpu = "The machine" if death.cpu is None else f"CPU {death.cpu}"
            return f"{cpu} stands at {around.named(death.left.pc)}{mode}, and it was not seen whether it runs on"
        seen = (
            "The guest shut down, and nothing was seen of how"
            if death.blind
            else "The machine had shut down before it was looked at"
        )
        return f"{seen}; it stands at {around.named(death.left.pc)}{mode}"
    words = OPENINGS[death.kind]
    if death.kind is DeathKind.EXITED:
        words = f"The guest ended {around.vmm}"
    elif death.reason == WATCHDOG:
        words = "A watchdog ended the machine"
    if death.cpu is not None and death.kind is DeathKind.TRIPLE_FAULT:
        words = f"CPU {death.cpu} shut down with a triple fault"
    since = "the beginning of the watch" if around.entry is None else "the entry"
    if death.begun is not None and death.kind in _ASTRAY and death.path:
        words += f" since {death.path[-1].seq:,} instructions after {since}"
    elif death.begun is not None and death.kind is not DeathKind.ALIVE:
        words += f", {death.begun:,} instructions after {since}"
    elif death.roughly and death.cpu is None and death.kind is not DeathKind.ALIVE:
        words += f", about {death.roughly:,} instructions after {since}"
    if death.pc is not None and death.kind not in (DeathKind.SHUTDOWN, DeathKind.EXITED):
        words += f", at {around.named(death.pc)}"
        words += "" if death.mode is None else f" in {death.mode.words}"
    return words


# --- faults -------------------------------------------------------------------------------------------------------


def _fault(draft: Draft, death: Death, fault: Fault, around: Surroundings, disassemble: Disassemble) -> None:
    event = death.struck or (death.path[-1] if death.path and death.path[-1].pc == fault.pc else None)
    _cause(draft, Case(death, fault, event, around, disassemble))
    processors.started(draft, death)
    last = death.last or fault
    nested = last is not fault and bool(death.handling)
    state = last.state or death.state
    if nested:
        where = "" if last.pc is None else f" at {around.named(last.pc)}"
        times = sum(one.pc == last.pc and one.vector == last.vector for one in death.handling)
        again = f", for the {times + 1:,}th time" if times else ""
        draft.sentences.append(f"Its handler did not return: in it came {faults.name(last.vector)}{where}{again}")
    why = faults.undeliverable(last.vector or 0, state, around)
    if why:
        draft.sentences.append(f"{'That' if nested else 'The fault'} could not be handled: {why.words}")
        if last.kind is FaultKind.SOFTWARE_INTERRUPT and why.gate is faults.GateFault.SELECTOR:
            draft.cause = "bad IDT gate"
            draft.next = "give the IDT's gates the selector of a code segment in the GDT that is loaded"
        if faults.untouched_idt(state, around):
            draft.promises.append("the IDT: unspecified at the entry; until the kernel's own lidt, every fault ends the machine")


def _cause(draft: Draft, case: Case) -> None:
    """What the instruction did that the CPU refused."""
    fault = case.fault
    if fault.vector == faults.PF and fault.kind is FaultKind.EXCEPTION:
        if fault.cr2 is not None:
            draft.address = classify(fault.cr2, case.death.state, case.around)
        told = f"`{case.text}`: " if case.text and not faults.is_fetch(fault) else ""
        draft.sentences.append(f"{told}{faults.page_fault(fault)}")
    next(recognize for recognize in _CAUSES if recognize(draft, case))
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        _linked(draft)


def _linked(draft: Draft) -> None:
    draft.cause = "virtual address too early"
    if draft.address is not None:
        draft.sentences.append(f"{draft.address.address:#x} is {draft.address.words}")
    draft.promises.append("paging: off at the entry; until the kernel's own page tables are on, every address is a physical one")
    draft.next = "use physical addresses (link-time address minus the offset of its PT_LOAD) until paging is on"


# --- deaths without a fault ---------------------------------------------------------------------------------------


def _in_handler(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """A kernel that stops in its own handler died of the exception that the handler was called for."""
    if death.lately is not None:
        draft.sentences.append(f"The last exception that was seen before is {_link(death.lately, None, around)}")
    if not death.handling:
        return
    first = death.handling[0]
    if first.kind is FaultKind.SOFTWARE_INTERRUPT or (first.kind is FaultKind.INTERRUPT and (first.vector or 0) >= VECTORS):
        return
    inner = Draft(draft.cause)
    _cause(inner, Case(replace(death, state=first.state or death.state), first, death.struck, around, disassemble))
    where = "" if first.pc is None else f" at {around.named(first.pc)}"
    before = "" if death.struck is None or death.struck.seq < 0 else f", {death.struck.seq:,} instructions after the entry"
    name = faults.name(first.vector) if first.kind is FaultKind.EXCEPTION else f"vector {first.vector:#x}"
    draft.sentences.append(
        f"It is in the guest's own handler, which has not returned, of {name}{where}{before}: {inner.sentences[0]}"
    )
    draft.sentences += inner.sentences[1:]
    draft.cause, draft.address, draft.next = inner.cause, inner.address, inner.next
    draft.promises[:] = inner.promises


def _halted(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    draft.sentences.append("`hlt` with interrupts off (eflags.IF is 0): only an NMI or a reset could wake it")
    draft.promises.append("eflags.IF: 0 at the entry; it stays so until the kernel has an IDT and says sti")
    draft.next = "see who called the code that halts: it is often the end of a panic or exit path"
    wrote = ends.exit_without_device(death, around)
    if wrote is not None:
        write, event = wrote
        draft.cause = "no exit device"
        draft.sentences.append(
            f"Before, `{_text(event, disassemble)}` wrote {write.value:#x} to port {write.port:#x}, to end QEMU by isa-debug-exit, which this "
            "machine does not have"
        )
        draft.next = f"give QEMU the device: -- -device isa-debug-exit,iobase={write.port:#x},iosize=4"
    _in_handler(draft, death, around, disassemble)


def _loop(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    count = len(death.loop)
    draft.cause = "endless loop"
    what = "one instruction that jumps to itself" if count == 1 else f"{count} instructions that come back to the same state"
    draft.sentences.append(f"{what}, with interrupts off")
    draft.sentences.append("Nothing in it can end it")
    draft.next = "see who jumps there: it is often where a kernel stops on purpose"
    _in_handler(draft, death, around, disassemble)


def _zeros(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if death.begun is not None and len(death.path) == 1 and death.path[0].seq == 0:
        draft.found(
            "entry is not code",
            f"The entry itself, {around.named(death.path[0].pc)}, holds zeros",
            next="correct the address in the kernel's PVH note (XEN_ELFNOTE_PHYS32_ENTRY): pvhdbg elf KERNEL shows it, and what lies there",
        )
        return
    if _astray(draft, death, around, disassemble):
        return
    _left(draft, death, around)
    bits = 32 if death.mode is None else death.mode.bits
    draft.sentences.append(f"Zeros are code, too, `{disassemble(bytes(2), 0, bits)}`: it goes on until memory ends")
    draft.next = "see where the jump took its target from; was the code to be loaded or copied there, and was it?"


def _nowhere(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if _astray(draft, death, around, disassemble):
        return
    _left(draft, death, around)
    draft.next = "see where the jump took its target from"
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        draft.sentences.pop()
        _linked(draft)


def _astray(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> bool:
    """The cause of a CPU that runs astray, if it is recognized."""
    pc = death.path[-1].pc if death.path else death.pc
    event = death.path[-1] if death.path else None
    case = Case(death, Fault(0, FaultKind.EXCEPTION, None, None, pc, None, death.state), event, around, disassemble)
    return any(recognize(draft, case) for recognize in _ASTRAY_CAUSES)


def _text(event: Event, disassemble: Disassemble) -> str:
    return disassemble(event.code, event.pc, event.mode.bits)


def _left(draft: Draft, death: Death, around: Surroundings) -> None:
    """Where the last sound instruction jumped to."""
    if len(death.path) >= 2:
        jump, landed = death.path[-2], death.path[-1]
        draft.sentences.append(f"It came there from {around.named(jump.pc)}, to {landed.pc:#x}")
        draft.address = classify(landed.pc, death.state, around)
    elif death.pc is not None:
        draft.sentences.append("How it came there was not observed")
        draft.address = classify(death.pc, death.state, around)
    if draft.address is not None and draft.address.kind is not AddressClass.UNKNOWN:
        draft.sentences.append(f"{draft.address.address:#x} is {draft.address.words}")


_BLIND = "Not all faults are seen here: it asked for it itself, or died of a triple fault"


def _rebooted(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if _watchdog(draft, death, around) or _asked_for(draft, death, around, disassemble):
        return
    draft.sentences.append(
        _BLIND if death.blind else "No fault was seen: it asked for the reset itself (keyboard controller, port 0xcf9 or ACPI)"
    )
    _last_words(draft, around)


def _shutdown(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if death.left is not None:
        _found_dead(draft, death, around, disassemble)
        return
    if _asked_for(draft, death, around, disassemble):
        return
    off = "a power-off or a reboot"
    if death.reason == "guest-shutdown":
        off = "a power-off"
        draft.cause = "power-off"
    draft.sentences.append(_BLIND if death.blind and death.reason != "guest-shutdown" else f"No fault was seen: it asked for {off}")
    _last_words(draft, around)


def _watchdog(draft: Draft, death: Death, around: Surroundings) -> bool:
    """The guest did not reset a watchdog's timer in time."""
    if death.reason != WATCHDOG:
        return False
    at = f"; the CPU was at {around.named(death.pc)}" if death.pc is not None else ""
    _last_words(draft, around)
    draft.sentences.insert(0, f"the watchdog device that this machine has expired: the guest had not reset its timer in time{at}")
    if draft.cause != "panic":
        draft.cause = "watchdog"
        draft.next = "see what the guest was busy with there; or reset the timer more often, or give it more time"
    return True


def _asked_for(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> bool:
    """The end that the last `out` asked for."""
    found = ends.asked(death)
    if found is None:
        return False
    end, write, event = found
    _last_words(draft, around)
    draft.cause = end.what.removeprefix("a ") if draft.cause != "panic" else draft.cause
    draft.sentences.insert(
        0,
        f"it asked for {end.what} by {end.by}: `{_text(event, disassemble)}` at {around.named(event.pc)} wrote {write.value:#x} to port "
        f"{write.port:#x}",
    )
    draft.next = "see what led there: it is often the end of a panic or exit path. Its last words may be on the serial port"
    return True


def _found_dead(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """What the state that is left proves. A page fault is proven by CR2 where the instruction touches that address and it is not mapped."""
    left = death.left
    if left is None:
        return
    recorded = death.kind is DeathKind.LEFT
    if (left.pc & 0xFFFFFFF0) == _RESET_PC and not recorded:
        draft.cause = "state lost"
        draft.sentences.append(
            "Nothing is left of its last state: the CPU stands at the reset vector, as KVM leaves it after a triple fault on some hosts"
        )
        draft.next = "boot it without KVM, which shows the fault: pvhdbg why KERNEL"
        _last_words_too(draft, around)
        return
    if not recorded:
        draft.sentences.append("How it came there was not recorded: a triple fault, or a power-off or reboot that it asked for")
    fault = _left_by(death, left, around)
    inner = Draft(draft.cause)
    if fault is not None and recorded and faults.undeliverable(fault.vector or 0, death.state, around) is None:
        draft.sentences.append(
            f"Its instruction `{disassemble(left.code, left.pc, left.mode.bits)}` takes {faults.name(fault.vector)}, which a handler of "
            "its own may take care of"
        )
        fault = None
    if fault is not None:
        told = replace(death, kind=DeathKind.TRIPLE_FAULT, struck=left)
        _fault(inner, told, fault, around, disassemble)
        draft.sentences.append(f"The state that is left shows {inner.sentences[0]}")
        draft.sentences += inner.sentences[1:]
        draft.cause, draft.address, draft.promises = inner.cause, inner.address, inner.promises
        draft.next = inner.next if "above" not in inner.next else _WATCH_IT
        _left_on_stack(draft, death, around)
        return
    _last_words(draft, around)
    if left.code:
        draft.sentences.append(f"The instruction there is `{disassemble(left.code, left.pc, left.mode.bits)}`")
    why = faults.undeliverable(faults.GP, death.state, around)
    if why and not recorded:
        draft.sentences.append(f"A fault there could not have been handled: {why.words}")
    _left_on_stack(draft, death, around)
    draft.next = _WATCH_IT


def _left_on_stack(draft: Draft, death: Death, around: Surroundings) -> None:
    found = code_addresses(death.state, around, _ON_STACK)
    if found:
        draft.sentences.append(
            f"Addresses of code on its stack, some perhaps of calls that had ended: {', '.join(map(around.named, found))}"
        )


_NO_FAULT = Fault(0, FaultKind.RESET, None, None, None, None, {})


def _left_by(death: Death, left: Event, around: Surroundings) -> Fault | None:
    """The fault that the instruction that the machine stands at must have taken; None where that is not certain."""
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


def _last_words_too(draft: Draft, around: Surroundings) -> None:
    """Its panic, with the next step as it is."""
    after = draft.next
    _last_words(draft, around)
    draft.next = after


def _last_words(draft: Draft, around: Surroundings) -> None:
    draft.next = "read its last words on the serial port"
    panic = panicked(around.serial)
    if panic is not None:
        draft.cause = "panic"
        draft.sentences.append(f"Before, its kernel had panicked: {panic}")


def _panic(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    said = panicked(around.serial)
    if said is None:
        by_device = "it told QEMU so, by its panic device"
        said = (
            by_device
            if death.reason == "guest-panic"
            else "its words say so"
            if death.ended is None and death.path
            else "it called panic()"
        )
    draft.sentences.append(said)
    if death.ended is not None:
        draft.sentences.append(f"Then {_ENDED.get(death.ended, 'the machine ended')}")
    draft.next = "the reason is in its own words; what it was handed is judged by: pvhdbg check"
    if death.handling:
        _in_handler(draft, death, around, disassemble)
        return
    usual = next((one.meaning for one in reversed(telling(around.serial, around)) if one.meaning and "RIP:" not in one.line), "")
    if usual:
        draft.sentences.append(f"The usual cause: {usual}")


_ENDED = {
    DeathKind.SHUTDOWN: "it shut down or rebooted, as its command line asks (panic=)",
    DeathKind.RESET: "it rebooted, as its command line asks (panic=)",
}


def _exited(draft: Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    if death.status is not None:
        draft.sentences.append(f"exit status {death.status}")
    draft.next = f"see {around.vmm}'s own messages, and the guest's last words on the serial port"
    if around.exit_device and (death.status or 0) & 1:
        draft.next = "this is how a guest with isa-debug-exit ends; status = 2 * code + 1"


def _alive(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    draft.sentences.append("no fault that ended it, no endless loop, no halt")
    draft.next = "watch longer (--for), or let it say what it waits for, on the serial port: --append console=ttyS0"
    if death.loop:
        _waits(draft, death, around)
    if death.departure is not None:
        _away(draft, death, around, disassemble)
    panic = panic_frame(death.state, around)
    if panic is not None:
        draft.cause = "panic"
        draft.sentences.append(f"But its kernel has panicked: on its stack lies a return address in panic(), {around.named(panic)}")
        draft.next = "let it say why, on the serial port: --append console=ttyS0"


def _away(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """It runs outside of the kernel's code; what led there may be no accident."""
    inner = Draft(draft.cause)
    if _astray(inner, death, around, disassemble):
        draft.sentences.append(f"But it has left the kernel's code, and was not seen there since: {inner.sentences[0]}")
        draft.sentences += inner.sentences[1:]
        draft.cause, draft.address, draft.next = inner.cause, inner.address, inner.next
        draft.promises += inner.promises


def _waits(draft: Draft, death: Death, around: Surroundings) -> None:
    draft.cause = "in a loop"
    count = len(death.loop)
    size = "one instruction" if count == 1 else f"{count} instructions"
    since = f", and was there at every look for {death.looped:.1f} s" if death.looped else ""
    draft.sentences[:] = [f"it is in a loop of {size} from {around.named(min(death.loop))} on{since}"]
    awaited = [_awaited(one, around) for one in death.awaited[:_AWAITED]]
    if awaited:
        draft.sentences.append(f"What may end it: {'; '.join(awaited)}")
        draft.next = "see which device, flag or counter that is, and whether this machine has it; or watch longer (--for)"


def _awaited(one: Awaited, around: Surroundings) -> str:
    if one.what:
        return f"the clock that `{one.what}` reads"
    value = "" if one.value is None else f"{one.value:#x}"
    if one.port is not None:
        nothing = " as of a port without a device" if one.value == (1 << 8 * one.size) - 1 else ""
        device = f" ({PORTS[one.port]})" if one.port in PORTS else ""
        return f"port {one.port:#x}{device} to change, which reads {value}{nothing}"
    address = one.address or 0
    device = next((f" ({name})" for start, end, name in CLOCKS if start <= address < end), "")
    what = f"{one.size} bytes in memory" if one.size > 1 else "a byte in memory"
    now = f", which now holds {value}" if value else ""
    return f"{what} at {around.named(address)}{device} {'that the loop itself changes' if one.counts else 'to change'}{now}"


WITHOUT_A_FAULT: dict[DeathKind, Callable[[Draft, Death, Surroundings, Disassemble], None]] = {
    DeathKind.TRIPLE_FAULT: _rebooted,
    DeathKind.RESET: _rebooted,
    DeathKind.SHUTDOWN: _shutdown,
    DeathKind.EXITED: _exited,
    DeathKind.HALTED: _halted,
    DeathKind.LOOP: _loop,
    DeathKind.ZEROS: _zeros,
    DeathKind.NOWHERE: _nowhere,
    DeathKind.PANIC: _panic,
    DeathKind.LEFT: _found_dead,
    DeathKind.ALIVE: _alive,
}


# --- all deaths ---------------------------------------------------------------------------------------------------


def _handed(draft: Draft, death: Death, around: Surroundings) -> None:
    """What was wrong with the hand-off is the first suspect where the kernel stopped itself."""
    if draft.cause == "stopped itself" and around.complaints:
        draft.sentences.append(f"What it was handed was not right: {around.complaints[0]}")
        draft.promises.append("start_info: its magic, version and memory map are the loader's promise; kernels check them and stop")
        draft.next = "mend the hand-off: pvhdbg check tells all that is wrong with it"


def _chain(death: Death, around: Surroundings) -> list[str]:
    words: list[str] = []
    prior: Fault | None = None
    for one in death.reported:
        if one.kind is FaultKind.TRIPLE_FAULT:
            words.append("triple fault: the double fault could not be delivered either; the CPU shuts down")
        elif one.kind is FaultKind.RESET:
            words.append("CPU reset")
        else:
            words.append(_link(one, prior, around))
            prior = one
    return words


def _link(one: Fault, prior: Fault | None, around: Surroundings) -> str:
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
