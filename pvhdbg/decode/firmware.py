"""Which firmware made the hand-off. Its traces in the machine decide, never the machine's name.

`-M microvm` uses qboot in Debian 12's QEMU 7.2 and SeaBIOS in later versions; `-bios` may put either into any machine.
"""

from __future__ import annotations

from pvhdbg.model import MemoryView, NotLookedAt, Registers, Segments, Unavailable
from pvhdbg.record import dataclass
from pvhdbg.spec.deviations import PVH_BIN, QBOOT

_OPTION_ROMS = range(0xC0000, 0xF0000)
_ROM_ALIGNMENT = 0x800  # BIOS Boot Specification: a BIOS searches for option ROMs every 2 KiB
_PVH_BIN_SIZE = 1536
PVH_BIN_LINE = 0x1020  # its command line begins so far in front of its start_info: a buffer of 4096 bytes, then the module list
_TOP_OF_FLASH = range(0xFFFF0000, 1 << 32)  # qboot is one 64 KiB image below 4 GiB
_MULTIBOOT_EAX = 0x2BADB002


@dataclass(frozen=True)
class Firmware:
    """The firmware's name, and the evidence for it."""

    name: str
    evidence: str


def identify(registers: Registers, segments: Segments, memory: MemoryView) -> Firmware | None:
    """The firmware that jumped to the entry, or None. Raises NeedMemory, and Unavailable if the evidence was not observed.

    The GDT that the firmware loaded lies in its own image: pvh.bin's in an option ROM that contains "PVH loader", qboot's in
    the top 64 KiB of the flash. Only qboot leaves multiboot's magic number in eax (boot_pvh_from_fw_cfg).
    """
    if segments.gdt is None:
        raise Unavailable("the GDT, which identifies the firmware, was not observed")
    base = segments.gdt.base
    if base in _TOP_OF_FLASH and registers["eax"] == _MULTIBOOT_EAX:
        return Firmware(QBOOT, f"its GDT at {base:#x} is in the top 64 KiB of flash, and eax holds {_MULTIBOOT_EAX:#x}")
    if base in _OPTION_ROMS:
        start = base & ~(_ROM_ALIGNMENT - 1)
        try:
            rom = memory.read(start, _PVH_BIN_SIZE)
        except NotLookedAt:
            raise
        except Unavailable:
            return None
        if rom.startswith(b"\x55\xaa") and b"PVH loader" in rom:
            return Firmware(PVH_BIN, f'its GDT at {base:#x} is in the option ROM "PVH loader" at {start:#x}')
    return None
