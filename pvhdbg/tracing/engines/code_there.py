"""The code that a CPU stands at: its next instructions, and the memory that one of them touches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from pvhdbg.decode.cpu_mode import Mode, mode_in, pc_in
from pvhdbg.disassembly import available, disassemble, features, reach
from pvhdbg.tracing.death import StoppedCpu, Touched
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.opcodes import stored

AHEAD = 32  # bytes behind the pc that are shown
_SHOWN = 6  # instructions


def touched(event: Event, state: Mapping[str, int]) -> tuple[Touched, ...]:
    """What an instruction writes, then what it reads, at linear addresses, by the registers before it; () where it is not known."""
    touches = reach(event.code, event.pc, event.mode.bits, state.get)
    return tuple(
        Touched(access.offset + (state.get(f"{access.segment}_base", 0) if access.segment else 0), access.size, write)
        for write, accesses in ((True, touches.writes), (False, touches.reads))
        for access in accesses
    )


def stopped_cpu(cpu: int, state: dict[str, int], code_at: Callable[[int], bytes]) -> StoppedCpu:
    """Where a CPU stands by its registers; `code_at` gives the bytes of the instruction at a linear address."""
    pc, mode = pc_in(state) or 0, mode_in(state) or Mode.PROTECTED
    at = Event(0, pc, mode, code_at(pc), cpu=cpu)
    return StoppedCpu(cpu, state, at, touched(at, state), features(at.code, mode.bits))


def loads(path: Iterable[Event]) -> tuple[tuple[Event, Touched], ...]:
    """What the instructions of a path read, where their registers were seen."""
    return tuple(
        (event, one) for event in path if event.delta is not None for one in touched(event, event.delta.state()) if not one.write
    )


def stores(path: Iterable[Event]) -> tuple[tuple[Event, Touched], ...]:
    """What the instructions of a path write, likewise, or where the instruction itself says it."""
    found = []
    for event in path:
        state = {} if event.delta is None else event.delta.state()
        value = stored(event.code, event.mode.bits, state)
        found += [(event, replace(one, value=value)) for one in touched(event, state) if one.write]
    return tuple(found)


def instructions(code: bytes, pc: int, mode: Mode) -> tuple[Event, ...]:
    """The instructions in `code`, which lies at `pc`; () without a disassembler."""
    found = disassemble(code, pc, mode.bits, _SHOWN) if available() else ()
    return tuple(Event(index, one.address, mode, one.data) for index, one in enumerate(found))
