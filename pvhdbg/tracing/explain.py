"""Why a boot died: from an observed death to one paragraph, what the ABI promises, and what to try next.

Pure: all observations come in with `Death` and `Surroundings`. Each sentence follows from an observation; where there is none,
the explanation says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pvhdbg.model import GuestEnd
from pvhdbg.spec.vmm_bugs import VmmBug
from pvhdbg.tracing import faults
from pvhdbg.tracing.addresses import ClassifiedAddress, Surroundings
from pvhdbg.tracing.causes.draft import Disassemble, Draft
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.deaths_by_fault import explain_fault, must_have_faulted
from pvhdbg.tracing.deaths_without_fault import WITHOUT_A_FAULT
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.fault_chain import chain


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
        explain_fault(draft, death, death.first, around, disassemble)
    else:
        WITHOUT_A_FAULT[death.kind](draft, death, around, disassemble)
    _handed(draft, death, around)
    verdict = f"{_opening(death, around)}: {'. '.join(draft.sentences)}." if draft.sentences else f"{_opening(death, around)}."
    return Explanation(
        draft.cause, verdict, tuple(chain(death, around)), draft.address, tuple(draft.promises), around.complaints, draft.next,
        ". ".join(draft.sentences) if death.kind is DeathKind.ALIVE and death.loop else "",
    )  # fmt: skip


def on_its_cpu(death: Death, around: Surroundings) -> Death:
    """The death as that of the one CPU of several whose last instruction must have faulted; unchanged where that is not certain."""
    found = []
    for one in death.standing:
        told = replace(death, state=one.state, touched=one.touched, needs=one.needs, cpu=one.cpu)
        fault = must_have_faulted(told, one.at, around)
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
        VMM_BUG, f"{verdict}.", tuple(chain(death, around)), complaints=around.complaints,
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
    """The first words of a verdict: what came to an end, when, and where."""
    if death.left is not None:
        return _left(death, death.left, around)
    words = OPENINGS[death.kind]
    if death.kind is DeathKind.EXITED:
        words = f"The guest ended {around.vmm}"
    elif death.reason is GuestEnd.WATCHDOG:
        words = "A watchdog ended the machine"
    elif death.cpu is not None and death.kind is DeathKind.TRIPLE_FAULT:
        words = f"CPU {death.cpu} shut down with a triple fault"
    words += _since(death, "the beginning of the watch" if around.entry is None else "the entry")
    if death.pc is not None and death.kind not in (DeathKind.SHUTDOWN, DeathKind.EXITED):
        words += f", at {around.named(death.pc)}{_in_mode(death)}"
    return words


def _left(death: Death, left: Event, around: Surroundings) -> str:
    place = f"{around.named(left.pc)}{_in_mode(death)}"
    if death.kind is DeathKind.LEFT:
        cpu = "The machine" if death.cpu is None else f"CPU {death.cpu}"
        return f"{cpu} stands at {place}, and it was not seen whether it runs on"
    if death.blind:
        return f"The guest shut down, and nothing was seen of how; it stands at {place}"
    return f"The machine had shut down before it was looked at; it stands at {place}"


def _in_mode(death: Death) -> str:
    return "" if death.mode is None else f" in {death.mode.words}"


def _since(death: Death, start: str) -> str:
    """How many instructions after `start` it died; empty where that is not known, or where it lives."""
    if death.kind is DeathKind.ALIVE:
        return ""
    if death.begun is not None and death.kind in _ASTRAY and death.path:
        return f" since {death.path[-1].seq:,} instructions after {start}"
    if death.begun is not None:
        return f", {death.begun:,} instructions after {start}"
    if death.roughly and death.cpu is None:
        return f", about {death.roughly:,} instructions after {start}"
    return ""


def _handed(draft: Draft, death: Death, around: Surroundings) -> None:
    """What was wrong with the hand-off is the first suspect where the kernel stopped itself."""
    if draft.cause == "stopped itself" and around.complaints:
        draft.sentences.append(f"What it was handed was not right: {around.complaints[0]}")
        draft.promises.append("start_info: its magic, version and memory map are the loader's promise; kernels check them and stop")
        draft.next = "mend the hand-off: pvhdbg check tells all that is wrong with it"
