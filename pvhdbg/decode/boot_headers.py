"""The headers of other boot protocols in a kernel file: multiboot, Linux' setup header, PE.

Sources: Multiboot Specification 0.6.96 (3.1) and 2.0 (3.1), Linux Documentation/arch/x86/boot.rst, Microsoft's PE format.
"""

from __future__ import annotations

from pvhdbg.decode.notes import Buffer
from pvhdbg.record import NamedTuple
from pvhdbg.spec import linux_boot
from pvhdbg.spec.linux_boot import SetupHeader

MULTIBOOT1, MULTIBOOT2 = 0x1BADB002, 0xE85250D6
_SEARCH = {1: 8192, 2: 32768}  # bytes of the file that may hold the header
_STEP = {1: 4, 2: 8}
_E_LFANEW = 0x3C
_EFI_SUBSYSTEMS = range(10, 14)
_SUBSYSTEM = 92  # from the PE signature on, in PE32 and PE32+ alike


class Multiboot(NamedTuple):
    """A multiboot header: `version` 1 or 2, its file offset, and its flags (version 1) or architecture (version 2)."""

    version: int
    offset: int
    flags: int


def multiboot(data: Buffer, version: int = 1) -> Multiboot | None:
    """The first header of that version with a correct checksum, or None."""
    magic, words = (MULTIBOOT1, 3) if version == 1 else (MULTIBOOT2, 4)
    head = bytes(data[: _SEARCH[version]])
    wanted = magic.to_bytes(4, "little")
    at = -1
    while (at := head.find(wanted, at + 1)) >= 0:
        if at % _STEP[version] or at + 4 * words > len(head):
            continue
        values = [int.from_bytes(head[at + 4 * index : at + 4 * index + 4], "little") for index in range(words)]
        if sum(values) & 0xFFFFFFFF == 0:
            return Multiboot(version, at, values[1])
    return None


def linux_setup(data: Buffer) -> SetupHeader | None:
    """The setup header of a bzImage, or None."""
    if len(data) < linux_boot.AT + SetupHeader.sizeof():
        return None
    header = SetupHeader.decode(data, linux_boot.AT)
    return header if header.header == linux_boot.MAGIC else None


def payload_range(header: SetupHeader) -> tuple[int, int]:
    """File offset and length of a bzImage's compressed kernel, from boot protocol 2.08 on."""
    sectors = header.setup_sects or linux_boot.DEFAULT_SETUP_SECTORS
    return (sectors + 1) * linux_boot.SECTOR + header.payload_offset, header.payload_length


def is_efi(data: Buffer) -> bool:
    """Whether the file is also a PE image for EFI (a Linux with an EFI stub, or an EFI application)."""
    if bytes(data[:2]) != b"MZ" or len(data) < _E_LFANEW + 4:
        return False
    at = int.from_bytes(bytes(data[_E_LFANEW : _E_LFANEW + 4]), "little")
    subsystem = int.from_bytes(bytes(data[at + _SUBSYSTEM : at + _SUBSYSTEM + 2]), "little")
    return bytes(data[at : at + 4]) == b"PE\0\0" and subsystem in _EFI_SUBSYSTEMS
