"""Why a boot died: from an observed death to one paragraph, what the ABI promises, and what to try next.

Pure: all observations come in with `Death` and `Surroundings`. Each sentence follows from an observation; where there is none,
the explanation says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pvhdbg.decode.cpu_mode import flag
from pvhdbg.spec.pc_ports import CLOCKS, PORTS
from pvhdbg.spec.vmm_bugs import VmmBug
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, ClassifiedAddress, Surroundings, classify
from pvhdbg.tracing.death import Awaited, Death, DeathKind, panicked
from pvhdbg.tracing.event import Event, Fault, FaultKind
from pvhdbg.tracing.opcodes import Effect, effect_of
from pvhdbg.tracing.stack import code_addresses, panic_frame

_STACK_REACH = 0x100  # bytes below and above the stack pointer that count as the stack
_EFER_MSR = 0xC0000080
_FIRMWARE_TIMER = 8  # IRQ 0 on the PIC as a PC's firmware sets it up
_PAGING = (Effect.WRITE_CR0, Effect.WRITE_CR3, Effect.WRITE_CR4)
_WATCH_IT = "boot it again and watch it from its entry: pvhdbg why KERNEL"
_ON_STACK = 6
_AWAITED = 3  # things that a loop waits for that are told
_EDGE = 2  # instructions after a switch of paging within which the switch is to blame

Disassemble = Callable[[bytes, int, int], str]


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


@dataclass
class _Draft:
    cause: str
    sentences: list[str] = field(default_factory=list)
    promises: list[str] = field(default_factory=list)
    next: str = ""
    address: ClassifiedAddress | None = None


def explain(death: Death, around: Surroundings, disassemble: Disassemble = lambda code, _pc, _bits: code.hex(" ")) -> Explanation:
    """Explain a death from what was seen of it."""
    if death.vmm_bug is not None:
        return _vmm_bug(death, death.vmm_bug, around)
    draft = _Draft(death.kind.value)
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
    DeathKind.EXITED: "The guest ended QEMU",
    DeathKind.HALTED: "The CPU halted for good",
    DeathKind.LOOP: "The CPU is in an endless loop",
    DeathKind.ZEROS: "The CPU runs through memory that was never written",
    DeathKind.NOWHERE: "The CPU executes where no memory is",
    DeathKind.PANIC: "The kernel panicked",
    DeathKind.ALIVE: "It did not die while it was watched",
}
_ASTRAY = (DeathKind.LOOP, DeathKind.ZEROS, DeathKind.NOWHERE)  # these deaths go on: their beginning counts


def _opening(death: Death, around: Surroundings) -> str:
    if death.left is not None:
        mode = f" in {death.mode.words}" if death.mode is not None else ""
        return f"The machine had shut down before it was looked at; it stands at {around.named(death.left.pc)}{mode}"
    words = OPENINGS[death.kind]
    since = "the beginning of the watch" if around.entry is None else "the entry"
    if death.begun is not None and death.kind in _ASTRAY and death.path:
        words += f" since {death.path[-1].seq:,} instructions after {since}"
    elif death.begun is not None and death.kind is not DeathKind.ALIVE:
        words += f", {death.begun:,} instructions after {since}"
    if death.pc is not None and death.kind not in (DeathKind.SHUTDOWN, DeathKind.EXITED):
        words += f", at {around.named(death.pc)}"
        words += "" if death.mode is None else f" in {death.mode.words}"
    return words


# --- faults -------------------------------------------------------------------------------------------------------


def _fault(draft: _Draft, death: Death, fault: Fault, around: Surroundings, disassemble: Disassemble) -> None:
    event = death.struck or (death.path[-1] if death.path and death.path[-1].pc == fault.pc else None)
    _cause(draft, death, fault, event, around, disassemble)
    why = faults.undeliverable(fault.vector or 0, death.state, around)
    if why:
        draft.sentences.append(f"The fault could not be handled: {why}")
        if faults.untouched_idt(death.state, around):
            draft.promises.append("the IDT: unspecified at the entry; until the kernel's own lidt, every fault ends the machine")


def _cause(draft: _Draft, death: Death, fault: Fault, event: Event | None, around: Surroundings, disassemble: Disassemble) -> None:
    """What the instruction did that the CPU refused."""
    draft.cause = faults.name(fault.vector).split()[0]
    text = "" if event is None or not event.code else disassemble(event.code, event.pc, event.mode.bits)
    effect = Effect.OTHER if event is None else effect_of(event.code, event.mode.bits)
    if fault.kind is FaultKind.INTERRUPT:
        _interrupt(draft, fault)
    elif fault.kind is FaultKind.SOFTWARE_INTERRUPT:
        draft.cause = "int"
        draft.sentences.append(f"the guest called vector {fault.vector} itself{f', by `{text}`' if text else ''}")
        draft.next = "load an IDT with a gate for it before"
    elif fault.vector == faults.PF:
        _page_fault(draft, death, fault, around, text)
    elif fault.vector == faults.UD:
        _invalid_opcode(draft, event, text)
    elif fault.vector == faults.GP and effect in (Effect.WRMSR, Effect.RDMSR):
        _msr(draft, death, effect)
    else:
        draft.sentences.append(f"{faults.name(fault.vector)}{f' at `{text}`' if text else ''}")
        if fault.vector in faults.WITH_SELECTOR and fault.error:
            draft.sentences.append(faults.selector(fault.error))
            _firmware_gdt(draft, death, around)
        draft.next = "look at the operands of the instruction in the registers above"


def _page_fault(draft: _Draft, death: Death, fault: Fault, around: Surroundings, text: str) -> None:
    if fault.cr2 is not None:
        draft.address = classify(fault.cr2, death.state, around)
    draft.sentences.append(f"{f'`{text}`: ' if text and not faults.is_fetch(fault) else ''}{faults.page_fault(fault)}")
    if faults.is_fetch(fault):
        if _long_mode_refused(death):
            _no_long_mode(draft)
            return
        if _switched_paging(death):
            draft.cause = "unmapped code"
            draft.sentences.append("Paging was switched on just before, with page tables that do not map the code that is running")
            draft.promises.append("paging: off at the entry; the first page tables are the kernel's, and must map where it runs")
            draft.next = "map the code one to one, at its physical address, before CR0.PG is set"
            return
        draft.cause = "wild jump"
        draft.next = "see where the last jump, call or return above took its target from"
    elif _is_stack(death, fault.cr2):
        draft.cause = "wild stack"
        stack = death.state.get("rsp", 0)
        draft.sentences.append(f"That is the stack: the stack pointer is {stack:#x}")
        draft.promises.append("esp: unspecified at the entry, and no stack is promised; the kernel has to load one of its own")
        draft.next = (
            "load the stack pointer with the end of memory that is the kernel's own, and mapped, before the first push or call"
        )
    else:
        draft.cause = "bad pointer"
        draft.next = "see which register held the address, and who wrote it: pvhdbg trace --what state"
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        _linked(draft)


def _interrupt(draft: _Draft, fault: Fault) -> None:
    draft.cause = "interrupt"
    timer = ": the timer, by the vectors that a PC's firmware uses" if fault.vector == _FIRMWARE_TIMER else ""
    draft.sentences.append(f"a hardware interrupt came, vector {fault.vector:#x}{timer}, with interrupts on (eflags.IF)")
    draft.promises.append("eflags.IF: 0 at the entry; interrupt controllers are as the firmware left them, and no IDT is promised")
    draft.next = "load an IDT, and mask or reprogram the interrupt controllers, before sti"


def _invalid_opcode(draft: _Draft, event: Event | None, text: str) -> None:
    code = b"" if event is None else event.code
    if effect_of(code, 64) is Effect.UD2:
        draft.cause = "stopped itself"
        draft.sentences.append("`ud2`: the kernel stopped itself there (Linux: BUG()), because something was not as it needs it")
        draft.next = "see what the function above checks; what the loader handed over is judged by: pvhdbg check"
        return
    draft.sentences.append(f"the CPU does not know the instruction{f' `{text}`' if text else ''}")
    draft.next = "choose a CPU model that has it (--cpu max), or see whether this is code"


def _msr(draft: _Draft, death: Death, effect: Effect) -> None:
    number = death.state.get("rcx", 0) & 0xFFFFFFFF
    value = (death.state.get("rdx", 0) & 0xFFFFFFFF) << 32 | death.state.get("rax", 0) & 0xFFFFFFFF
    kind = draft.cause = effect.value
    if number == _EFER_MSR:
        draft.sentences.append(f"{kind}: the CPU takes no {value:#x} in EFER: one of the features is not there (long mode? NX?)")
        draft.next = "choose a CPU model that has them (--cpu max), and ask CPUID before"
        return
    value_words = f" does not take {value:#x}" if effect is Effect.WRMSR else " does not exist on this CPU"
    draft.sentences.append(
        f"{kind}: MSR {number:#x}{value_words}{', or does not exist on this CPU' if effect is Effect.WRMSR else ''} (#GP)"
    )
    draft.next = "ask CPUID for the feature before its MSR is used, or choose a CPU model that has it (--cpu max)"


def _firmware_gdt(draft: _Draft, death: Death, around: Surroundings) -> None:
    parts = ("gdt_base", "gdt_limit")
    if all(death.state.get(part) is not None and death.state.get(part) == around.start.get(part) for part in parts):
        draft.sentences.append("The GDT is still the one that was loaded at the entry: the loader's")
        draft.promises.append(
            "the GDT: unspecified at the entry; only the hidden state of CS, DS, ES and SS is promised, load your own"
        )


def _no_long_mode(draft: _Draft) -> None:
    draft.cause = "no long mode"
    draft.sentences.append(
        "Long mode had been asked for (wrmsr to EFER with LME), but EFER.LME stayed 0: this CPU has no long mode, "
        "and the tables that were made for it are read as PAE tables, which map nothing here"
    )
    draft.next = "give the machine a 64-bit CPU (--cpu qemu64 or max); a kernel would ask CPUID 0x80000001, EDX bit 29, before"


def _linked(draft: _Draft) -> None:
    draft.cause = "virtual address too early"
    if draft.address is not None:
        draft.sentences.append(f"{draft.address.address:#x} is {draft.address.words}")
    draft.promises.append("paging: off at the entry; until the kernel's own page tables are on, every address is a physical one")
    draft.next = "use physical addresses (link-time address minus the offset of its PT_LOAD) until paging is on"


# --- deaths without a fault ---------------------------------------------------------------------------------------


def _in_handler(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """A kernel that stops in its own handler died of the exception that the handler was called for."""
    if death.lately is not None:
        draft.sentences.append(f"The last exception that was seen before is {_link(death.lately, None, around)}")
    if not death.handling:
        return
    first = death.handling[0]
    if first.kind is not FaultKind.EXCEPTION:
        return
    inner = _Draft(draft.cause)
    _cause(inner, replace(death, state=first.state or death.state, path=()), first, death.struck, around, disassemble)
    where = "" if first.pc is None else f" at {around.named(first.pc)}"
    before = "" if death.struck is None else f", {death.struck.seq:,} instructions after the entry"
    name = faults.name(first.vector)
    draft.sentences.append(
        f"It is in the guest's own handler, which has not returned, of {name}{where}{before}: {inner.sentences[0]}"
    )
    draft.sentences += inner.sentences[1:]
    draft.cause, draft.address, draft.next = inner.cause, inner.address, inner.next
    draft.promises[:] = inner.promises


def _halted(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    draft.sentences.append("`hlt` with interrupts off (eflags.IF is 0): only an NMI or a reset could wake it")
    draft.promises.append("eflags.IF: 0 at the entry; it stays so until the kernel has an IDT and says sti")
    draft.next = "see who called the code that halts: it is often the end of a panic or exit path"
    _in_handler(draft, death, around, disassemble)


def _loop(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    count = len(death.loop)
    draft.cause = "endless loop"
    what = "one instruction that jumps to itself" if count == 1 else f"{count} instructions that come back to the same state"
    draft.sentences.append(f"{what}, with interrupts off")
    draft.sentences.append("Nothing in it can end it")
    draft.next = "see who jumps there: it is often where a kernel stops on purpose"
    _in_handler(draft, death, around, disassemble)


def _zeros(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    _left(draft, death, around)
    bits = 32 if death.mode is None else death.mode.bits
    draft.sentences.append(f"Zeros are code, too, `{disassemble(bytes(2), 0, bits)}`: it goes on until memory ends")
    draft.next = "see where the jump took its target from; was the code to be loaded or copied there, and was it?"


def _nowhere(draft: _Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    _left(draft, death, around)
    draft.next = "see where the jump took its target from"
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        draft.sentences.pop()
        _linked(draft)


def _left(draft: _Draft, death: Death, around: Surroundings) -> None:
    """Where the last sound instruction jumped to."""
    if len(death.path) >= 2:
        jump, landed = death.path[-2], death.path[-1]
        draft.sentences.append(f"It came there from {around.named(jump.pc)}, to {landed.pc:#x}")
        draft.address = classify(landed.pc, death.state, around)
    elif death.pc is not None:
        draft.sentences.append("How it came there was not observed")
        draft.address = classify(death.pc, death.state, around)
    if draft.address is not None:
        draft.sentences.append(f"{draft.address.address:#x} is {draft.address.words}")


_BLIND = "Not all faults are seen here: it asked for it itself, or died of a triple fault"


def _rebooted(draft: _Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    draft.sentences.append(
        _BLIND if death.blind else "No fault was seen: it asked for the reset itself (keyboard controller, port 0xcf9 or ACPI)"
    )
    _last_words(draft, around)


def _shutdown(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if death.left is not None:
        _found_dead(draft, death, around, disassemble)
        return
    off = "a power-off" if death.reason == "guest-shutdown" else "a power-off or a reboot"
    draft.sentences.append(_BLIND if death.blind and death.reason != "guest-shutdown" else f"No fault was seen: it asked for {off}")
    _last_words(draft, around)


def _found_dead(draft: _Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """What the state that is left proves. A page fault is proven by CR2 where the instruction touches that address and it is not mapped."""
    left = death.left
    if left is None:
        return
    draft.sentences.append("How it came there was not recorded: a triple fault, or a power-off or reboot that it asked for")
    fault = _left_by(death, left, around)
    inner = _Draft(draft.cause)
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
    if why:
        draft.sentences.append(f"A fault there could not have been handled: {why}")
    _left_on_stack(draft, death, around)
    draft.next = _WATCH_IT


def _left_on_stack(draft: _Draft, death: Death, around: Surroundings) -> None:
    found = code_addresses(death.state, around, _ON_STACK)
    if found:
        draft.sentences.append(
            f"Addresses of code on its stack, some perhaps of calls that had ended: {', '.join(map(around.named, found))}"
        )


def _left_by(death: Death, left: Event, around: Surroundings) -> Fault | None:
    """The fault that the instruction that the machine stands at must have taken; None where that is not certain."""
    if effect_of(left.code, left.mode.bits) is Effect.UD2:
        return Fault(0, FaultKind.EXCEPTION, faults.UD, None, left.pc, None, death.state)
    cr2 = death.state.get("cr2")
    if cr2 is None:
        return None
    fetch = not left.code and cr2 == left.pc
    write = next((one.write for one in death.touched if one.address <= cr2 < one.address + one.size), None)
    if (not fetch and write is None) or classify(cr2, death.state, around).kind not in (
        AddressClass.NOT_MAPPED,
        AddressClass.LINKED,
    ):
        return None
    return Fault(0, FaultKind.EXCEPTION, faults.PF, 16 if fetch else 2 * bool(write), left.pc, cr2, death.state)


def _last_words(draft: _Draft, around: Surroundings) -> None:
    draft.next = "read its last words on the serial port"
    panic = panicked(around.serial)
    if panic is not None:
        draft.cause = "panic"
        draft.sentences.append(f"Before, its kernel had panicked: {panic}")


def _panic(draft: _Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    told = "it told QEMU so, by its panic device" if death.reason == "guest-panic" else "its words on the serial port say so"
    draft.sentences.append(panicked(around.serial) or told)
    draft.next = "the reason is in its own words; what it was handed is judged by: pvhdbg check"


def _exited(draft: _Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    if death.status is not None:
        draft.sentences.append(f"exit status {death.status}")
    draft.next = "this is how a guest with isa-debug-exit ends; status = 2 * code + 1"


def _alive(draft: _Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    draft.sentences.append("no fault that ended it, no endless loop, no halt")
    draft.next = "watch longer (--for), or let it say what it waits for, on the serial port: --append console=ttyS0"
    if death.loop:
        _waits(draft, death, around)
    panic = panic_frame(death.state, around)
    if panic is not None:
        draft.cause = "panic"
        draft.sentences.append(f"But its kernel has panicked: on its stack lies a return address in panic(), {around.named(panic)}")
        draft.next = "let it say why, on the serial port: --append console=ttyS0"


def _waits(draft: _Draft, death: Death, around: Surroundings) -> None:
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


WITHOUT_A_FAULT: dict[DeathKind, Callable[[_Draft, Death, Surroundings, Disassemble], None]] = {
    DeathKind.TRIPLE_FAULT: _rebooted,
    DeathKind.RESET: _rebooted,
    DeathKind.SHUTDOWN: _shutdown,
    DeathKind.EXITED: _exited,
    DeathKind.HALTED: _halted,
    DeathKind.LOOP: _loop,
    DeathKind.ZEROS: _zeros,
    DeathKind.NOWHERE: _nowhere,
    DeathKind.PANIC: _panic,
    DeathKind.ALIVE: _alive,
}


# --- all deaths ---------------------------------------------------------------------------------------------------


def _handed(draft: _Draft, death: Death, around: Surroundings) -> None:
    """What was wrong with the hand-off is the first suspect where the kernel stopped itself."""
    if draft.cause == "stopped itself" and around.complaints:
        draft.sentences.append(f"What it was handed was not right: {around.complaints[0]}")
        draft.promises.append("start_info: its magic, version and memory map are the loader's promise; kernels check them and stop")
        draft.next = "mend the hand-off: pvhdbg check tells all that is wrong with it"


def _chain(death: Death, around: Surroundings) -> list[str]:
    words = []
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
        why = "" if prior is None or prior.vector is None else faults.undeliverable(prior.vector, one.state, around)
        return f"{faults.name(one.vector)}{where}: the fault before could not be delivered{f': {why}' if why else ''}"
    about = faults.selector(one.error or 0, None if prior is None else prior.vector) if one.vector in faults.WITH_SELECTOR else ""
    return f"{faults.name(one.vector)}{where}{f': {about}' if about else ''}"


def _is_stack(death: Death, address: int | None) -> bool:
    stack = death.state.get("rsp")
    return address is not None and stack is not None and abs(address - stack) <= _STACK_REACH


def _switched_paging(death: Death) -> bool:
    return any(effect_of(event.code, event.mode.bits) in _PAGING for event in death.path[-_EDGE:])


def _long_mode_refused(death: Death) -> bool:
    """EFER was written with LME, and does not hold it. The value that was written is known only where states were seen."""
    if flag(death.state, "efer", "LME") or not flag(death.state, "cr4", "PAE"):
        return False
    for event in death.system:
        if effect_of(event.code, event.mode.bits) is Effect.WRMSR and event.delta is not None:
            before = event.delta.state()
            written = {"efer": before.get("rax", 0)}
            if before.get("rcx", 0) & 0xFFFFFFFF == _EFER_MSR and flag(written, "efer", "LME"):
                return True
    return False
