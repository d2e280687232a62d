"""Return addresses on the stack by name, without debug information.

A word that looks like a return address may be left over from a call that has returned. For a function that never returns, such as
panic(), that cannot be: a return address in it means that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from pvhdbg.decode.cpu_mode import long_mode_active
from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.model import Registers, Unavailable
from pvhdbg.spec.linux_symbols import PANICS
from pvhdbg.tracing.addresses import Surroundings

_DEPTH = 0x1000  # bytes above the stack pointer; Linux' stacks have 8 or 16 KiB
_CHUNK = 0x100  # bytes that are read at once; more where many are wanted


def panic_frame(state: Mapping[str, int], around: Surroundings) -> int | None:
    """The first return address on the stack that lies in Linux' panic(); None where there is none, or it cannot be read."""
    if "rsp" not in state:
        return None
    for _, word in words(state, around):
        name, plus, _ = (around.name(word) or "").partition("+")
        if plus and name in PANICS:
            return word
    return None


def code_addresses(state: Mapping[str, int], around: Surroundings, most: int) -> list[int]:
    """Up to `most` words on the stack that lie inside of a named function: return addresses, or what is left over from calls that ended."""
    if "rsp" not in state:
        return []
    return list(islice((word for _, word in words(state, around) if "+" in (around.name(word) or "")), most))


def words(state: Mapping[str, int], around: Surroundings, depth: int = _DEPTH) -> Iterator[tuple[int, int]]:
    """The words from the stack pointer on, `depth` bytes of them: linear address, value. Ends where memory cannot be read."""
    return _words(state, around, depth, lambda at: translate(Registers(state), at, around.read).physical)


def physical_words(state: Mapping[str, int], around: Surroundings, depth: int = _DEPTH) -> Iterator[tuple[int, int]]:
    """The same of a stack pointer that is a physical address."""
    return _words(state, around, depth, lambda at: at)


def _words(
    state: Mapping[str, int], around: Surroundings, depth: int, physical_of: Callable[[int], int | None]
) -> Iterator[tuple[int, int]]:
    size = 8 if long_mode_active(state) else 4
    at, chunk = state["rsp"] & -size, _CHUNK if depth <= _DEPTH else _DEPTH
    end = at + depth
    while at < end:
        length = min(chunk - at % chunk, end - at)
        try:
            physical = physical_of(at)
            data = b"" if physical is None else around.read(physical, length)
        except (MemoryUnreadable, Unavailable):
            return
        for offset in range(0, len(data) - size + 1, size):
            yield at + offset, int.from_bytes(data[offset : offset + size], "little")
        if not data:
            return
        at += length
