"""QEMU's multiboot 1 loader, which its -kernel tries before the PVH note. Source: hw/i386/multiboot.c load_multiboot."""

from __future__ import annotations

from pvhdbg.decode.boot_headers import MULTIBOOT1 as MAGIC
from pvhdbg.loaders.loading import Attempt, Crashed, Entered, EntryProtocol, FwCfgItem, Refused, Undefined
from pvhdbg.loaders.qemu_elf import MERGED, Generation, Image, Rom, complete, load_elf
from pvhdbg.record import NamedTuple
from pvhdbg.spec.elf import EM_X86_64

_SOURCE = "hw/i386/multiboot.c load_multiboot"
_SEARCH = 8192 - 48  # a header is 12 words long at most
_VIDEO, _ADDRESSES = 1 << 2, 1 << 16
_INFO, _INFO_SIZE = 0x9500, 88
_MODULE = 16
_NAME = b"qemu"
_PAGE = 4096
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class MultibootHeader(NamedTuple):
    """A multiboot header: file offset, flags, and the five address fields (0 if the file ends before them)."""

    offset: int
    flags: int
    header_addr: int
    load_addr: int
    load_end_addr: int
    bss_end_addr: int
    entry_addr: int


def find(head: bytes) -> MultibootHeader | None:
    """The first header with a correct checksum in the first 8 KiB."""
    magic = MAGIC.to_bytes(4, "little")
    at = -1
    while 0 <= (at := head.find(magic, at + 1)) < _SEARCH:
        if at % 4 or at + 12 > len(head):
            continue
        words = [int.from_bytes(head[at + 4 * index : at + 4 * index + 4], "little") for index in range(8)]
        if not sum(words[:3]) & _U32:
            return MultibootHeader(at, words[1], *words[3:])
    return None


def enter(attempt: Attempt, header: MultibootHeader, generation: Generation = MERGED) -> Entered:
    """Load the file by its multiboot header. Raises Ended if QEMU stops."""
    if header.flags & _VIDEO:
        attempt.remark("multiboot knows VBE. we don't (a warning; the kernel is entered in text mode)", _SOURCE)
    if header.flags & _ADDRESSES:
        attempt.remark("the multiboot header says where to load, and the ELF headers are ignored", _SOURCE)
        load, size, entry = _addresses(attempt, header)
        roms: tuple[Rom, ...] = ()
    else:
        if attempt.kernel.elf.header.e_machine == EM_X86_64:
            raise Refused("Cannot load x86-64 image, give a 32bit one.")
        image = load_elf(attempt, generation, notes=False)
        load, size, entry = image.low & _U32, image.high - image.low & _U32, image.entry & _U32
        _copy(image, load, size)
        roms = image.roms
    if _pages(size) + attempt.boot.initrd_size + _PAGE > _U32:
        raise Undefined(f"the size of kernel and module, {size + attempt.boot.initrd_size:#x}, wraps in QEMU's 32 bits")
    _fill(attempt, load, size, entry)
    complete(attempt, roms)
    return EntryProtocol.MULTIBOOT1, entry


def _addresses(attempt: Attempt, header: MultibootHeader) -> tuple[int, int, int]:
    """Load address, size in memory and entry of a header with address fields."""
    if header.offset + 32 > len(attempt.kernel.head):
        raise Undefined("the file ends within the multiboot header: the content of QEMU's memory after it decides")
    file_size = attempt.kernel.container.size
    before = header.header_addr - header.load_addr
    if before < 0:
        raise Refused("invalid load_addr address")
    if before > header.offset:
        raise Refused("invalid header_addr address")
    offset = header.offset - before
    if header.load_end_addr:
        if header.load_end_addr < header.load_addr:
            raise Refused("invalid load_end_addr address")
        loaded = header.load_end_addr - header.load_addr
    else:
        loaded = file_size - offset
    if loaded > _U32 - header.load_addr:
        raise Refused("kernel does not fit in address space")
    size = loaded
    if header.bss_end_addr:
        if header.bss_end_addr < header.load_addr + loaded:
            raise Refused("invalid bss_end_addr address")
        size = header.bss_end_addr - header.load_addr
    if offset + loaded > file_size:
        raise Refused("fread() failed")
    return header.load_addr, size, header.entry_addr


def _copy(image: Image, load: int, size: int) -> None:
    """rom_copy(): the pieces go into one buffer, which must end at the expected address."""
    at = length = 0
    for rom in image.roms:
        if rom.end < load:
            continue
        if rom.start > load + size or rom.start < load:
            break
        at, length = rom.start - load, _fitting(rom.start - load, rom.data, size)
        if rom.size > rom.data:
            at += length
            length = _fitting(at, rom.size - rom.data, size)
    if at + length != size:
        raise Refused("Error while fetching elf kernel from rom")


def _fitting(at: int, length: int, size: int) -> int:
    if at + length <= size:
        return length
    if at:
        raise Crashed("QEMU is killed by SIGSEGV: it copies a segment past the end of its buffer")
    return 0


def _fill(attempt: Attempt, load: int, size: int, entry: int) -> None:
    attempt.fw_cfg += [
        FwCfgItem("KERNEL_ENTRY", entry, 4),
        FwCfgItem("KERNEL_ADDR", load, 4),
        FwCfgItem("KERNEL_SIZE", _buffer(attempt, size), 4),
        FwCfgItem("KERNEL_DATA", None, _buffer(attempt, size)),
        FwCfgItem("INITRD_ADDR", _INFO, 4),
        FwCfgItem("INITRD_SIZE", _INFO_SIZE, 4),
        FwCfgItem("INITRD_DATA", None, _INFO_SIZE),
    ]


def _buffer(attempt: Attempt, size: int) -> int | None:
    """Bytes of kernel, command lines, module list and module; None if the paths, which are part of it, are not known."""
    boot = attempt.boot
    if boot.kernel_path is None or (boot.initrd_size and boot.initrd_path is None):
        return None
    words = len(boot.kernel_path) + 1 + len(boot.command_line) + 1 + len(_NAME) + 1
    if boot.initrd_size and boot.initrd_path is not None:
        words += len(boot.initrd_path) + 1 + _MODULE
    total = _pages(_pages(size) + words)
    return _pages(total + boot.initrd_size) & _U32


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
