"""QEMU's loader of Linux bzImages. -kernel tries it first, and uses it for every file that no other loader accepts.

Source: hw/i386/x86-common.c x86_load_linux; SETUP_SEG and the firmware's part: pc-bios/optionrom/linuxboot_dma.c, qboot linuxboot.c.
"""

from __future__ import annotations

from pvhdbg.loaders import qemu_fw_cfg
from pvhdbg.loaders.loading import Attempt, Entered, EntryProtocol, Refused
from pvhdbg.loaders.qemu_fw_cfg import number
from pvhdbg.spec import linux_boot
from pvhdbg.spec.linux_boot import SetupHeader

_SOURCE = "hw/i386/x86-common.c x86_load_linux"
_HIGH = 1  # loadflags: the kernel goes above 1 MiB
_ENTRY = 0x200  # of the setup code, after its first sector
_ABOVE_4G = 1 << 1  # xloadflags
_OLD_INITRD_MAX = 0x37FFFFFF


def setup_of(head: bytes) -> tuple[int, SetupHeader] | None:
    """Protocol version and header if the file has HdrS at 0x202; the missing part of a truncated header reads as zeros."""
    padded = head[: linux_boot.AT + SetupHeader.sizeof()].ljust(linux_boot.AT + SetupHeader.sizeof(), b"\0")
    header = SetupHeader.decode(padded, linux_boot.AT)
    return (header.version, header) if header.header == linux_boot.MAGIC else None


def enter(attempt: Attempt, setup: tuple[int, SetupHeader]) -> Entered:
    """Load a kernel with a setup header. Raises Ended if QEMU stops."""
    version, header = setup
    attempt.remark("a Linux setup header is searched for before everything else", _SOURCE)
    attempt.remark(
        "SeaBIOS enters the setup code in real mode; qboot enters at 0x100000 by the 32-bit protocol", "qboot linuxboot.c"
    )
    return _enter(attempt, version, header)


def enter_ancient(attempt: Attempt) -> Entered:
    """Load a file of unknown format as a zImage from before boot protocol 2.00, as QEMU does without a message."""
    attempt.remark("a file of unknown format is taken for a Linux from before boot protocol 2.00, without a message", _SOURCE)
    head = attempt.kernel.head[: linux_boot.AT + SetupHeader.sizeof()].ljust(linux_boot.AT + SetupHeader.sizeof(), b"\0")
    return _enter(attempt, 0, SetupHeader.decode(head, linux_boot.AT))


def _enter(attempt: Attempt, version: int, header: SetupHeader) -> Entered:
    boot = attempt.boot
    room = len(boot.command_line) + 16 & ~15
    if version < 0x200 or not header.loadflags & _HIGH:
        real, command_line, protected = 0x90000, 0x9A000 - room, 0x10000
    elif version < 0x202:
        real, command_line, protected = 0x90000, 0x9A000 - room, 0x100000
    else:
        real, command_line, protected = 0x10000, 0x20000, 0x100000
    initrd = qemu_fw_cfg.initrd(attempt, _initrd_max(attempt, version, header))
    size = attempt.kernel.container.size
    setup = ((header.setup_sects or linux_boot.DEFAULT_SETUP_SECTORS) + 1) * linux_boot.SECTOR
    if setup > size:
        raise Refused("qemu: invalid kernel header")
    attempt.fw_cfg += [
        number("CMDLINE_ADDR", command_line),
        *qemu_fw_cfg.command_line(boot),
        *initrd,
        number("KERNEL_ADDR", protected),
        number("KERNEL_SIZE", size - setup),
        number("SETUP_ADDR", real),
        number("SETUP_SIZE", setup),
    ]
    return EntryProtocol.LINUX16, real + _ENTRY


def _initrd_max(attempt: Attempt, version: int, header: SetupHeader) -> int:
    if attempt.boot.initrd_size and version < 0x200:
        raise Refused("qemu: linux kernel too old to load a ram disk")
    if version >= linux_boot.XLOADFLAGS_SINCE and header.xloadflags & _ABOVE_4G:
        return 0xFFFFFFFF
    return header.initrd_addr_max if version >= 0x203 else _OLD_INITRD_MAX
