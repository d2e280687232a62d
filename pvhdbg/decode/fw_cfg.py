"""QEMU's firmware configuration device, read through the monitor's port commands (QEMU docs/specs/fw_cfg.rst).

Reading it moves the device's selector, so it is done only while the guest is stopped and not inside firmware that is
reading the device itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

KERNEL_ENTRY = 0x10
SIGNATURE = 0x00
_SELECTOR_PORT = 0x510
_DATA_PORT = 0x511
_BYTE = re.compile(r"portb\[0x0*511\] = 0x([0-9a-fA-F]{1,2})\b")


def read_item(monitor: Callable[[str], str], key: int, size: int) -> bytes | None:
    """`size` bytes of item `key`; None when the answers are not those of a fw_cfg device on ports 0x510/0x511.

    HMP's `/h` is 16 bits; one `i` reads one byte.
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
    """FW_CFG_KERNEL_ENTRY: where QEMU will have its kernel entered; None without such a device or such an item.

    It is set for a multiboot load too: an address, not a proof of PVH.
    """
    if read_item(monitor, SIGNATURE, 4) != b"QEMU":
        return None
    data = read_item(monitor, KERNEL_ENTRY, 4)
    return int.from_bytes(data, "little") or None if data is not None else None
