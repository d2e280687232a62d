"""What a guest is doing that does not die: it waits in a loop, runs outside of its code, or has panicked."""

from __future__ import annotations

from pvhdbg.spec.pc_ports import CLOCKS, PORTS
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.causes.draft import Disassemble, Draft
from pvhdbg.tracing.death import Awaited, Death
from pvhdbg.tracing.deaths_by_fault import find_astray
from pvhdbg.tracing.stack import panic_frame

_AWAITED = 3  # things that a loop waits for that are told


def explain_living(draft: Draft, death: Death, around: Surroundings, disassemble: Disassemble) -> None:
    """What a guest that did not die while it was watched is doing."""
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
    if find_astray(inner, death, around, disassemble):
        draft.adopt(inner, "But it has left the kernel's code, and was not seen there since: ")


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
