"""I/O ports and memory-mapped clocks of a PC that guests wait for, by what they are.

Sources: Intel 8254, 8259A and 8042 data sheets; National Semiconductor PC16550D; QEMU hw/i386 (pc.c, microvm.c), hw/timer/hpet.c;
Intel SDM volume 3A, 11.4.1 (local APIC).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_SERIAL = {0x3F8: "COM1", 0x2F8: "COM2"}
_REGISTERS = {0: "data", 2: "interrupt identification", 5: "line status", 6: "modem status"}

PORTS: Mapping[int, str] = MappingProxyType(
    {
        **{base + at: f"{name}'s {what}" for base, name in _SERIAL.items() for at, what in _REGISTERS.items()},
        **{0x40 + at: f"the PIT's counter {at}" for at in range(3)},
        0x20: "the first PIC",
        0xA0: "the second PIC",
        0x60: "the keyboard controller's data",
        0x61: "the PIT's gate and output",
        0x64: "the keyboard controller's status",
        0x71: "the CMOS clock",
        0x1F7: "the first IDE channel's status",
        0x608: "the ACPI timer",
        0xB008: "the ACPI timer",
    }
)
# Where clocks are in memory: from, to, name.
CLOCKS = ((0xFEE00000, 0xFEE01000, "the local APIC"), (0xFED00000, 0xFED00400, "the HPET"))


class AskedEnd(NamedTuple):
    """A write to a port or to a physical address that ends the machine: `value` in the bits of `mask`, what it asks for, and by what."""

    place: int
    mask: int
    value: int
    what: str
    by: str


# Sources: Intel 8042 data sheet (command 0xFE); 82371AB (PIIX3/4) and ICH9 data sheets (reset control, 0xCF9); ACPI 6.4, 4.8.3.2
# (PM1 control, SLP_EN); QEMU hw/acpi/piix4.c, hw/isa/lpc_ich9.c, hw/i386/microvm.c for the ports.
RESET_PORTS = (
    AskedEnd(0x64, 0xFF, 0xFE, "a reset", "the keyboard controller"),
    AskedEnd(0xCF9, 0x04, 0x04, "a reset", "the chipset's reset control"),
    AskedEnd(0x92, 0x01, 0x01, "a reset", "the fast reset of port 0x92"),
    AskedEnd(0x604, 0x2000, 0x2000, "a power-off", "ACPI (PM1 control, SLP_EN)"),
    AskedEnd(0xB004, 0x2000, 0x2000, "a power-off", "ACPI (PM1 control, SLP_EN)"),
)
# Registers in memory of QEMU's microvm, which its FADT names (hw/i386/microvm.c; hw/acpi/generic_event_device.c; ACPI 6.4, 4.8.3.6 and
# 4.8.3.7), and the name of their region in `info mtree`.
GED = "acpi-ged-regs"
RESET_REGISTERS = (
    AskedEnd(0xFEA00202, 0xFF, 0x42, "a reset", "ACPI's reset register"),
    AskedEnd(0xFEA00200, 0x3C, 0x34, "a power-off", "ACPI's sleep control register"),
)
EXIT_PORT = 0xF4  # where isa-debug-exit usually is
