"""Second CPUs: how one was started, and what woke it (Intel SDM volume 3A, 9.4.4 and 11.6.1)."""

from __future__ import annotations

from itertools import pairwise

from pvhdbg.decode.cpu_mode import Mode, interrupts_on
from pvhdbg.tracing.causes.draft import Case, Draft
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.opcodes import Effect, effect_of

_PAGE = 0x1000
_START_UP = 6  # the delivery mode of a start-up IPI, bits 10:8 of the interrupt command register


def woken(draft: Draft, case: Case) -> bool:
    """A CPU that had halted for good, and went on behind its `hlt`."""
    path = case.death.path
    if not case.death.cpu or len(path) < 2 or interrupts_on(case.death.state) is not False:
        return False
    halt = next((one for one, after in pairwise(path) if _passed(one.code, one.mode, one.pc, after.pc)), None)
    if halt is None:
        return False
    ipi = case.around.last_ipi()
    stood = f"CPU {case.death.cpu} had halted for good, by `hlt` with interrupts off at {case.around.named(halt.pc)}, and went on behind it"
    again = "let what is behind `hlt` jump back to it"
    if ipi is None or ipi >> 8 & 7 != _START_UP:
        return draft.found("woken from hlt", f"{stood}: an NMI or a start-up IPI woke it", next=again)
    return draft.found(
        "second start-up IPI",
        f"{stood}: the last IPI that CPU 0 sent is a start-up IPI, vector {ipi & 0xFF:#x}, and in QEMU it wakes a CPU that had been started "
        "before; one of hardware ignores it",
        next=f"{again}; send a second start-up IPI only to a CPU that did not begin after the first",
    )


def _passed(code: bytes, mode: Mode, pc: int, following: int) -> bool:
    return effect_of(code, mode.bits) is Effect.HLT and following == pc + 1


def started(draft: Draft, death: Death) -> None:
    """Describe a CPU that died in real mode, close behind the page where a start-up IPI let it begin."""
    base = death.state.get("cs_base", 0)
    if not death.cpu or death.mode is not Mode.REAL or base % _PAGE or not 0 < base < 0x100000:
        return
    draft.sentences.append(
        f"This CPU was started by another one (INIT, then a start-up IPI with vector {base >> 12:#x}): it began in real mode at {base:#x} and "
        f"came to {death.state.get('rip', 0):#x} bytes behind it"
    )
    before = next((one for one, after in pairwise(death.path) if after.pc == base <= one.pc < base + _PAGE), None)
    if before is not None:
        draft.cause = "started twice"
        draft.next = (
            f"send INIT and the start-up IPI once to each CPU, and wait until it began; or let the code at {base:#x} begin anew"
        )
        draft.sentences.append(f"It was started a second time: it had come to {before.pc:#x}, and began at {base:#x} again")
    draft.promises.append(
        "a second CPU: the loader starts none. A start-up IPI begins it in real mode, with no stack and no table of the kernel's"
    )
