"""Ends that a guest asks for: a reset, a power-off, the exit of QEMU. The last `out` shows which."""

from __future__ import annotations

from pvhdbg.spec.pc_ports import EXIT_PORT, RESET_PORTS, AskedEnd
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.opcodes import PortWrite, port_write

_ENDS = (DeathKind.SHUTDOWN, DeathKind.RESET, DeathKind.EXITED)


def asked(death: Death) -> tuple[AskedEnd, PortWrite, Event] | None:
    """The write to a port that ended the machine: what it asks for, the write, and the instruction. None where none was seen."""
    if death.kind not in _ENDS:
        return None
    for event, write in _writes(death):
        found = next((one for one in RESET_PORTS if one.port == write.port and write.value & one.mask == one.value), None)
        if found is not None:
            return found, write, event
    return None


def exit_without_device(death: Death, around: Surroundings) -> tuple[PortWrite, Event] | None:
    """A write to the port of isa-debug-exit, on a machine that has no such device."""
    if around.exit_device is not False:
        return None
    return next(((write, event) for event, write in _writes(death) if write.port == EXIT_PORT), None)


def _writes(death: Death) -> list[tuple[Event, PortWrite]]:
    """The writes to ports among the last instructions, the last one first."""
    found = []
    for event in reversed(death.path):
        state = event.delta.state() if event.delta is not None else death.state if event is death.path[-1] else {}
        write = port_write(event.code, state)
        if write is not None:
            found.append((event, write))
    return found
