"""Where a machine must be stopped on its way into another mode: the places ahead, so that it runs at full speed between them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pvhdbg.decode.cpu_mode import Mode, linear_pc, mode_in
from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Unavailable
from pvhdbg.tracing.engines.next_stops import next_stops

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session

_PAGE = 0x1000
_WITHIN = 400  # instructions of one look ahead, which costs as much as ten stops


def places_ahead(session: Session, slots: int) -> tuple[int, ...] | None:
    """The linear addresses of which the machine passes one before its mode changes, `slots` at most; the current pc may be one.

    None where that is not known: the hidden state of CS is not shown, the exceptions of this mode change it, or there are no slots.
    A handler of an exception or an interrupt is taken to return in the mode that it began in.
    """
    if not session.target.capabilities.monitor or slots < 1:
        return None
    registers, segments = session.registers(), session.segments()
    mode = mode_in({**registers.values, "cs_flags": segments["cs"].flags} if segments["cs"].flags is not None else {})
    pc, base = registers.get("rip"), segments["cs"].base or 0
    if mode is None or pc is None or mode in (Mode.VM86, Mode.COMPATIBILITY):
        return None

    @cache
    def page(address: int) -> bytes:
        try:
            physical = translate(registers, address, session.physical).physical
            return b"" if physical is None else session.physical(physical, _PAGE)
        except (MemoryUnreadable, Unavailable):
            return b""

    def read(address: int, size: int) -> bytes:
        start = address & -_PAGE
        data = page(start)
        if address + size > start + _PAGE and data:
            data += page(start + _PAGE)
        return data[address - start : address - start + size]

    bits = mode.bits
    found = next_stops(pc, bits, read, base=0 if bits == 64 else base, most=slots, ends=slots, within=_WITHIN)
    return tuple(linear_pc(at, base, bits) for at in dict.fromkeys((*found.found, *found.unfinished)))
