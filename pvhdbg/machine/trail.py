"""The last code of each CPU by the flight recorder: for a death behind the instructions that were followed one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.disassembly import available, disassemble
from pvhdbg.errors import MemoryUnreadable
from pvhdbg.tracing.calls import LastFunctions
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.recorded_parts import Executed
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.symbol_text import Name

_PATH = 8  # instructions
_FUNCTIONS = 12
_NAMED = (1 << 8, 1 << 12)  # blocks that are named to find these; in most recordings the first number suffices
_LOOKED_AT = 64  # blocks whose instructions are decoded at most


def last_functions(recording: Recording, name: Name) -> list[LastFunctions]:
    """Those of each CPU that ran since the entry."""
    found = []
    for cpu in range(recording.cpus):
        for most in _NAMED:
            blocks = recording.last(cpu, most)
            latest = _functions((one for one in reversed(blocks) if one.number >= 0), name)
            functions = tuple(islice((key for key, _ in groupby(latest)), _FUNCTIONS))[::-1]
            if len(functions) == _FUNCTIONS or len(blocks) < most:
                break
        if functions:
            found.append(LastFunctions(cpu, functions, recording.kept(cpu)))
    return found


def last_instructions(
    recording: Recording, cpu: int, mode: Mode, read: Callable[[int, int], bytes], pc: int | None = None
) -> tuple[Event, ...]:
    """The last instructions of a CPU, by its last blocks and their code, else what lies there now; up to `pc`, where it died, in the last one.

    `read` reads physical memory. The numbers are sums over blocks: a few millionths too high.
    """
    if not available():
        return ()
    events: list[Event] = []
    for index, executed in enumerate(reversed(recording.last(cpu, _LOOKED_AT))):
        block = executed.block
        if executed.number < 0:
            break
        try:
            code = recording.code(block) or (b"" if block.physical is None else read(block.physical, block.size))
        except MemoryUnreadable:
            break
        if not code:
            break
        found = list(disassemble(code, block.linear, mode.bits))
        if index == 0 and pc is not None and block.linear <= pc < block.linear + block.size:
            found = [one for one in found if one.address <= pc]
        row = [Event(executed.number + at, one.address, mode, one.data, cpu=cpu) for at, one in enumerate(found)]
        events = row + events
        if len(events) >= _PATH:
            break
    return tuple(events[-_PATH:])


def _functions(blocks: Iterable[Executed], name: Name) -> Iterator[str]:
    for one in blocks:
        found = name(one.block.linear)
        yield hex(one.block.linear) if found is None else found.partition("+")[0]
