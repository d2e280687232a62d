"""Why a boot ended without a fault that was seen: halts, loops, ends that the guest asked for, panics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.model import GuestEnd
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import AddressClass, Surroundings, classify
from pvhdbg.tracing.causes import ends
from pvhdbg.tracing.causes.draft import Case, Disassemble, Draft
from pvhdbg.tracing.death import VECTORS, Death, DeathKind, panicked
from pvhdbg.tracing.deaths_by_fault import explain_fault, explain_linked, find_astray, find_cause, must_have_faulted
from pvhdbg.tracing.event import Event, FaultKind
from pvhdbg.tracing.fault_chain import link
from pvhdbg.tracing.last_words import telling
from pvhdbg.tracing.living_guest import explain_living
from pvhdbg.tracing.stack import code_addresses

_WATCH_IT = "boot it again and watch it from its entry: pvhdbg why KERNEL"
_ON_STACK = 6
_RESET_PC = 0xFFFFFFF0


def _in_handler(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """A kernel that stops in its own handler died of the exception that the handler was called for."""
    if death.lately is not None:
        draft.sentences.append(f"The last exception that was seen before is {link(death.lately, None, around)}")
    if not death.handling:
        return
    first = death.handling[0]
    if first.kind is FaultKind.SOFTWARE_INTERRUPT or (first.kind is FaultKind.INTERRUPT and (first.vector or 0) >= VECTORS):
        return
    inner = Draft(draft.cause)
    find_cause(inner, Case(replace(death, state=first.state or death.state), first, death.struck, around, disassemble))
    where = "" if first.pc is None else f" at {around.named(first.pc)}"
    before = "" if death.struck is None or death.struck.seq < 0 else f", {death.struck.seq:,} instructions after the entry"
    name = faults.name(first.vector) if first.kind is FaultKind.EXCEPTION else f"vector {first.vector:#x}"
    draft.adopt(inner, f"It is in the guest's own handler, which has not returned, of {name}{where}{before}: ")


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
    if find_astray(draft, death, around, disassemble):
        return
    _left(draft, death, around)
    bits = 32 if death.mode is None else death.mode.bits
    draft.sentences.append(f"Zeros are code, too, `{disassemble(bytes(2), 0, bits)}`: it goes on until memory ends")
    draft.next = "see where the jump took its target from; was the code to be loaded or copied there, and was it?"


def _nowhere(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    if find_astray(draft, death, around, disassemble):
        return
    _left(draft, death, around)
    draft.next = "see where the jump took its target from"
    if draft.address is not None and draft.address.kind is AddressClass.LINKED:
        draft.sentences.pop()
        explain_linked(draft)


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
    if death.kind is DeathKind.TRIPLE_FAULT:
        real = death.mode is Mode.REAL
        draft.sentences.append(
            f"The faults that led to it were not seen{f': {around.vmm} shows none of real mode (CR0.PE is 0)' if real else ''}"
        )
        _last_words(draft, around)
        draft.next = "see the last instructions above: the one behind them cannot run with what they changed"
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
    if death.reason is GuestEnd.SHUTDOWN:
        off = "a power-off"
        draft.cause = "power-off"
    draft.sentences.append(
        _BLIND if death.blind and death.reason is not GuestEnd.SHUTDOWN else f"No fault was seen: it asked for {off}"
    )
    _last_words(draft, around)


def _watchdog(draft: Draft, death: Death, around: Surroundings) -> bool:
    """The guest did not reset a watchdog's timer in time."""
    if death.reason is not GuestEnd.WATCHDOG:
        return False
    at = f"; the CPU was at {around.named(death.pc)}" if death.pc is not None else ""
    _last_words(draft, around)
    draft.sentences.insert(0, f"the watchdog device that this machine has expired: the guest had not reset its timer in time{at}")
    if draft.cause != "panic":
        draft.cause = "watchdog"
        draft.next = "see what the guest was busy with there; or reset the timer more often, or give it more time"
    return True


def _asked_for(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> bool:
    """The end that the last `out`, or store to a register of ACPI's, asked for."""
    found = ends.asked(death, around)
    if found is None:
        return False
    _last_words(draft, around)
    draft.cause = found.end.what.removeprefix("a ") if draft.cause != "panic" else draft.cause
    draft.sentences.insert(
        0,
        f"it asked for {found.end.what} by {found.end.by}: `{_text(found.event, disassemble)}` at {around.named(found.event.pc)} wrote "
        f"{found.value:#x} to {found.place}",
    )
    draft.next = "see what led there: it is often the end of a panic or exit path. Its last words may be on the serial port"
    return True


def _found_dead(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """What the state that is left proves. A page fault is proven by CR2 where the instruction touches that address and it is not mapped."""
    left, recorded = death.left, death.kind is DeathKind.LEFT
    if left is None:
        return
    if (left.pc & 0xFFFFFFF0) == _RESET_PC and not recorded:
        _lost_state(draft, around)
        return
    if not recorded:
        draft.sentences.append("How it came there was not recorded: a triple fault, or a power-off or reboot that it asked for")
    fault = must_have_faulted(death, left, around)
    if fault is None:
        _undecided(draft, death, left, around, disassemble)
    elif recorded and faults.undeliverable(fault.vector or 0, death.state, around) is None:
        text = disassemble(left.code, left.pc, left.mode.bits)
        draft.sentences.append(
            f"Its instruction `{text}` takes {faults.name(fault.vector)}, which a handler of its own may take care of"
        )
        _undecided(draft, death, left, around, disassemble)
    else:
        inner = Draft(draft.cause)
        explain_fault(inner, replace(death, kind=DeathKind.TRIPLE_FAULT, struck=left), fault, around, disassemble)
        draft.adopt(inner, "The state that is left shows ")
        draft.next = inner.next if "above" not in inner.next else _WATCH_IT
    on_stack = code_addresses(death.state, around, _ON_STACK)
    if on_stack:
        named = ", ".join(map(around.named, on_stack))
        draft.sentences.append(f"Addresses of code on its stack, some perhaps of calls that had ended: {named}")


def _lost_state(draft: Draft, around: Surroundings) -> None:
    draft.cause = "state lost"
    draft.sentences.append(
        "Nothing is left of its last state: the CPU stands at the reset vector, as KVM leaves it after a triple fault on some hosts"
    )
    _last_words(draft, around)
    draft.next = "boot it without KVM, which shows the fault: pvhdbg why KERNEL"


def _undecided(draft: Draft, death: Death, left: Event, around: Surroundings, disassemble: Disassemble) -> None:
    """What is known of a state that proves no fault."""
    _last_words(draft, around)
    if left.code:
        draft.sentences.append(f"The instruction there is `{disassemble(left.code, left.pc, left.mode.bits)}`")
    why = faults.undeliverable(faults.GP, death.state, around)
    if why and death.kind is not DeathKind.LEFT:
        draft.sentences.append(f"A fault there could not have been handled: {why.words}")
    draft.next = _WATCH_IT


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
            if death.reason is GuestEnd.PANIC
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
    DeathKind.SHUTDOWN: "it shut down or rebooted, which Linux does by panic= or CONFIG_PANIC_TIMEOUT",
    DeathKind.RESET: "it rebooted, which Linux does by panic= or CONFIG_PANIC_TIMEOUT",
}


def _exited(draft: Draft, death: Death, around: Surroundings, _: Disassemble) -> None:
    if death.status is not None:
        draft.sentences.append(f"exit status {death.status}")
    draft.next = f"see {around.vmm}'s own messages, and the guest's last words on the serial port"
    if around.exit_device and (death.status or 0) & 1:
        draft.next = "this is how a guest with isa-debug-exit ends; status = 2 * code + 1"


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
    DeathKind.ALIVE: explain_living,
}
