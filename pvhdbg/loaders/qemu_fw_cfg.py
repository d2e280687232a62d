"""The fw_cfg items that all loaders of QEMU fill (docs/specs/fw_cfg.rst; include/standard-headers/linux/qemu_fw_cfg.h)."""

from __future__ import annotations

from pvhdbg.loaders.loading import Attempt, BootParameters, FwCfgItem, Refused

_BELOW_4G = 0x80000000  # with at most so much RAM, every machine type has all of it below 4 GiB
_ACPI_DATA = {"pc": 0x28000, "q35": 0x28000, "microvm": 0}  # bytes at the top of RAM that are reserved above the initrd


def number(name: str, value: int | None) -> FwCfgItem:
    """A 32-bit item."""
    return FwCfgItem(name, None if value is None else value & 0xFFFFFFFF, 4)


def command_line(boot: BootParameters) -> list[FwCfgItem]:
    """CMDLINE_SIZE and CMDLINE_DATA, its NUL included. The machine type microvm appends a word for each virtio-mmio device."""
    if boot.machine == "microvm":
        return [number("CMDLINE_SIZE", None), FwCfgItem("CMDLINE_DATA", None)]
    data = boot.command_line + b"\0"
    return [number("CMDLINE_SIZE", len(data)), FwCfgItem("CMDLINE_DATA", data, len(data))]


def initrd(attempt: Attempt, highest: int | None = None) -> list[FwCfgItem]:
    """INITRD_*: at the top of RAM below 4 GiB, and not above `highest`; empty without an initrd. Raises Refused."""
    boot = attempt.boot
    if not boot.initrd_size:
        return []
    return [
        number("INITRD_ADDR", _initrd_address(boot, highest)),
        number("INITRD_SIZE", boot.initrd_size),
        FwCfgItem("INITRD_DATA", None, boot.initrd_size),
    ]


def _initrd_address(boot: BootParameters, highest: int | None) -> int | None:
    if boot.memory is None or boot.memory > _BELOW_4G or boot.machine not in _ACPI_DATA:
        return None
    top = boot.memory - _ACPI_DATA[boot.machine] - 1
    top = top if highest is None else min(top, highest)
    if boot.initrd_size >= top:
        raise Refused(f"qemu: initrd is too large, cannot support.(max: {top}, need {boot.initrd_size})")
    return top - boot.initrd_size & ~0xFFF
