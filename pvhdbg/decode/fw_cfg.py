"""QEMU's firmware configuration device, read through the monitor's port commands (QEMU docs/specs/fw_cfg.rst).

Reading it changes the device's selector. Read it only while the guest is stopped, and not while its firmware reads the
device.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType

SIGNATURE = 0x00
# The items for the firmware (include/standard-headers/linux/qemu_fw_cfg.h), without the prefix FW_CFG_.
NUMBERS = MappingProxyType(
    {
        "KERNEL_ENTRY": 0x10, "KERNEL_ADDR": 0x07, "KERNEL_SIZE": 0x08, "CMDLINE_ADDR": 0x13, "CMDLINE_SIZE": 0x14,
        "INITRD_ADDR": 0x0A, "INITRD_SIZE": 0x0B, "SETUP_ADDR": 0x16, "SETUP_SIZE": 0x17,
    }
)  # fmt: skip
BYTES = MappingProxyType({"KERNEL_DATA": 0x11, "CMDLINE_DATA": 0x15, "INITRD_DATA": 0x12, "SETUP_DATA": 0x18})
_SELECTOR_PORT = 0x510
_DATA_PORT = 0x511
_BYTE = re.compile(r"portb\[0x0*511\] = 0x([0-9a-fA-F]{1,2})\b")


def read_item(monitor: Callable[[str], str], key: int, size: int) -> bytes | None:
    """`size` bytes of item `key`; None if no fw_cfg device answers on ports 0x510/0x511.

    HMP's `/h` is 16 bits wide; one `i` reads one byte.
    """
    monitor(f"o /h {_SELECTOR_PORT:#x} {key:#x}")
    data = bytearray()
    for _ in range(size):
        match = _BYTE.search(monitor(f"i /b {_DATA_PORT:#x}"))
        if match is None:
            return None
        data.append(int(match[1], 16))
    return bytes(data)


def kernel_entry(monitor: Callable[[str], str]) -> int | None:
    """FW_CFG_KERNEL_ENTRY: the address at which the firmware will enter the kernel; None without the device or the item.

    QEMU sets it for a multiboot load too: it is an address, and does not prove PVH. A 0 is an entry if QEMU left a kernel but no
    address of a set-up area: QEMU sets that address for a kernel that it boots by the Linux protocol.
    """
    if not is_there(monitor):
        return None
    entry = number(monitor, "KERNEL_ENTRY")
    if entry or entry is None:
        return entry
    return 0 if number(monitor, "KERNEL_SIZE") and not number(monitor, "SETUP_ADDR") else None


def is_there(monitor: Callable[[str], str]) -> bool:
    """Whether a fw_cfg device answers."""
    return read_item(monitor, SIGNATURE, 4) == b"QEMU"


def number(monitor: Callable[[str], str], name: str) -> int | None:
    """The 32-bit item of that name. An item that was never set reads as 0, like one that is 0."""
    data = read_item(monitor, NUMBERS[name], 4)
    return None if data is None else int.from_bytes(data, "little")
