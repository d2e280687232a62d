"""A Linux that panicked of an Oops: the exception that it died of, by its own words and by what lies at that place."""

from __future__ import annotations

import re
from dataclasses import replace

from pvhdbg.decode.cpu_mode import Mode, mode_in
from pvhdbg.disassembly import features
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.calls import Call
from pvhdbg.tracing.death import Death, DeathKind, panicked
from pvhdbg.tracing.encoding import LONGEST
from pvhdbg.tracing.engines.code_there import touched
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.oops import Oops, OopsPlace, first_oops
from pvhdbg.tracing.unwinding import By

# Linux' panics that an Oops ends in (kernel/panic.c, kernel/exit.c, arch/x86/kernel/dumpstack.c). After others it was survived.
_OF_AN_OOPS = re.compile(
    r"not syncing: (?:Fatal exception|Attempted to kill (?:init! exitcode=0x0000000[0-9b]|the idle)|Oops|.*stack overflow)"
)


def oopsed(death: Death, around: Surroundings) -> tuple[Death, tuple[Call, ...]]:
    """The death with the exception that the kernel's handler was called for, and the calls that led there by the kernel's words.

    Unchanged, and no calls, where the kernel did not panic of an Oops, or where its place has no symbol.
    """
    panic = panicked(around.serial) if death.kind is DeathKind.PANIC and not death.handling else None
    oops = first_oops(around.serial) if panic is not None and _OF_AN_OOPS.search(panic) else None
    pc = None if oops is None else _address(oops.place, around)
    if oops is None or pc is None:
        return death, ()
    fault = oops.fault(pc, death.state)
    mode = mode_in(fault.state) or Mode.LONG
    event = Event(-1, pc, mode, around.bytes_at(pc, LONGEST, death.state))
    return replace(
        death, state=fault.state, handling=(fault,), lately=None, struck=event, touched=touched(event, fault.state), needs=features(event.code, mode.bits), path=()
    ), _calls(oops, pc, around)  # fmt: skip


def _calls(oops: Oops, pc: int, around: Surroundings) -> tuple[Call, ...]:
    found = [Call(pc, _name(oops.place), By.PC, returns=False)]
    for one in oops.calls:
        address = _address(one, around)
        if address is not None:
            found.append(Call(address, _name(one), By.WORDS))
    return tuple(found)


def _name(place: OopsPlace) -> str:
    return f"{place.symbol}+{place.offset:#x}" if place.offset else place.symbol


def _address(place: OopsPlace, around: Surroundings) -> int | None:
    start = around.symbol(place.symbol)
    return None if start is None else start + place.offset
