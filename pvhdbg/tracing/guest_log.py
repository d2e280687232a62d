"""The lines of Linux' log buffer at a death, by the kernel's symbols. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pvhdbg.decode.linux_log import Message, from_buffer, from_ring
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.spec.linux_symbols import LOG_BUFFER, LOG_RING
from pvhdbg.tracing.addresses import Surroundings

_PAGE = 0x1000


def messages(state: Mapping[str, int], around: Surroundings) -> list[Message]:
    """The messages of a kernel that has the symbol `prb` or `__log_buf`; none where it has neither, or they cannot be read."""

    def read(address: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            at = address + len(data)
            length = min(_PAGE - at % _PAGE, size - len(data))
            physical = around.linked(at)
            if physical == at:
                found = around.physical(at, state)
                if found is None:
                    raise MemoryUnreadable(at, length)
                physical = found
            data += around.read(physical, length)
        return data

    ring = around.symbol(LOG_RING)
    if ring is not None:
        return from_ring(read, ring, around.word)
    buffer = around.symbol(LOG_BUFFER)
    return [] if buffer is None else from_buffer(read, buffer)
