"""Ends that a guest asks for: a reset, a power-off, the exit of QEMU. The last `out`, or store to a register of ACPI's, shows which."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.model import BackingKind
from pvhdbg.spec.pc_ports import EXIT_PORT, GED, RESET_PORTS, RESET_REGISTERS, AskedEnd
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.event import Event
from pvhdbg.tracing.opcodes import PortWrite, port_write

_ENDS = (DeathKind.SHUTDOWN, DeathKind.RESET, DeathKind.EXITED)


class Asked(NamedTuple):
    """The instruction that asked for the end, what it wrote, and where in words."""

    end: AskedEnd
    event: Event
    value: int
    place: str


def asked(death: Death, around: Surroundings) -> Asked | None:
    """The write that ended the machine; None where none was seen."""
    if death.kind not in _ENDS:
        return None
    for event, write in _writes(death):
        found = _end(RESET_PORTS, write.port, write.value)
        if found is not None:
            return Asked(found, event, write.value, f"port {write.port:#x}")
    for event, one in reversed(death.stores):
        physical = around.physical(one.address, death.state)
        device = None if physical is None else around.backed(physical)
        found = None if physical is None or one.value is None else _end(RESET_REGISTERS, physical, one.value)
        if found is not None and device is not None and device.kind is BackingKind.IO and device.name == GED:
            return Asked(found, event, one.value or 0, f"{physical:#x}")
    return None


def _end(known: tuple[AskedEnd, ...], place: int, value: int) -> AskedEnd | None:
    return next((one for one in known if one.place == place and value & one.mask == one.value), None)


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
