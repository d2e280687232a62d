"""Linux' log buffer in a session's machine: by the kernel's symbols, else by the first message in memory."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.linux_log import Message, from_buffer, from_ring, search
from pvhdbg.errors import BadInput, MemoryUnreadable
from pvhdbg.machine.session import Session
from pvhdbg.model import BackingKind, Unavailable
from pvhdbg.targets.recorded import RecordedTarget

_PIECE = 1 << 22  # bytes that are searched at once
_OVERLAP = 1 << 21  # of them, those that the next piece begins with: by default a log buffer is not larger
_SEARCHED = 1 << 26  # bytes of a running machine that are searched: a stub gives some MB a second
_SEARCHED_RECORDING = 1 << 34


def log_messages(session: Session) -> list[Message]:
    """The messages in the buffer; none where the machine has no such buffer, or it was not found."""
    return _by_symbols(session) or ([] if _has_none(session) else _by_search(session))


def _by_symbols(session: Session) -> list[Message]:
    word = 4 if session.image is not None and session.image.elf.bits == 32 else 8
    for symbol in ("prb", "__log_buf"):
        try:
            address = session.placement.address_of(symbol)
        except BadInput:
            continue
        found = from_ring(session.linear, address, word) if symbol == "prb" else from_buffer(session.linear, address)
        if found:
            return found
    return []


def _has_none(session: Session) -> bool:
    """Whether the kernel's symbol table shows that it is not Linux. kallsyms does not show it: it may leave data out."""
    if session.image is None:
        return False
    symbols = session.image.symbols()
    if symbols.origin != ".symtab":
        return False
    return not symbols.values(("prb", "__log_buf"))


def _by_search(session: Session) -> list[Message]:
    piece, end = b"", -1
    for start, size in _pieces(session):
        session.progress(f"searching memory for Linux' log buffer: {start >> 20} MiB")
        kept = piece[len(piece) - (end - start) :] if start < end <= start + len(piece) else b""
        try:
            piece = kept + session.physical(start + len(kept), size - len(kept))
        except (MemoryUnreadable, Unavailable):
            piece, end = b"", -1
            continue
        end = start + size
        found = search(piece)
        if found:
            return found
    return []


def _pieces(session: Session) -> Iterator[tuple[int, int]]:
    """The RAM, piece by piece: the kernel's own first."""
    kernel, placement = session.kernel, session.placement
    for load in kernel.loads if kernel is not None else ():
        yield from _cut(load.start + placement.load_bias, load.end + placement.load_bias)
    left = _SEARCHED_RECORDING if isinstance(session.target, RecordedTarget) else _SEARCHED
    for area in session.boot().snapshot.backing or ():
        if area.kind is BackingKind.RAM and left > 0:
            end = min(area.end, area.start + left)
            left -= end - area.start
            yield from _cut(area.start, end)


def _cut(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        yield start, min(_PIECE, end - start)
        start += _PIECE - _OVERLAP
