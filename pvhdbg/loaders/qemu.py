"""QEMU's -kernel as merged (4.0 on): a Linux setup header first, then multiboot, then the PVH note.

Source: hw/i386/x86.c, from 9.1 on x86-common.c (x86_load_linux, load_elfboot, read_pvh_start_addr), and multiboot.c;
messages as in 7.2, 10.0 and 11.1. `QEMU_BEFORE` is the loader without the check that 10.0.13 added. Machine types up to
pc-i440fx-3.1 ignore PVH. Items of fw_cfg: docs/specs/fw_cfg.rst.
"""

from __future__ import annotations

from functools import partial

from pvhdbg.decode.container import HEAD_SIZE
from pvhdbg.loaders import qemu_fw_cfg, qemu_linux, qemu_multiboot
from pvhdbg.loaders.loading import Attempt, Entered, EntryProtocol, FwCfgItem, Loader, Refused
from pvhdbg.loaders.qemu_elf import DEFENDED, FIND, MERGED, OPS, Generation, Image, complete, load_elf
from pvhdbg.loaders.qemu_elf import FAILED as FAILED
from pvhdbg.loaders.qemu_fw_cfg import number

_UNSUPPORTED_FLAGS = 0x00010004
_LOAD_LINUX = "hw/i386/x86-common.c x86_load_linux"
NO_NOTE = "Error loading uncompressed kernel without PVH ELF Note"


def _enter(generation: Generation, attempt: Attempt) -> Entered:
    setup = qemu_linux.setup_of(attempt.kernel.head)
    if setup is not None:
        return qemu_linux.enter(attempt, setup)
    header = qemu_multiboot.find(attempt.kernel.head)
    if header is not None:
        if attempt.kernel.entry_notes:
            attempt.remark("the multiboot header is tried first, and hides the PVH note", _LOAD_LINUX)
        return qemu_multiboot.enter(attempt, header, generation)
    if attempt.kernel.head[:4] != b"\x7fELF":
        return qemu_linux.enter_ancient(attempt)
    return enter_elf(attempt, generation)


def enter_elf(attempt: Attempt, generation: Generation) -> Entered:
    """Load an ELF for PVH and fill fw_cfg. Raises Ended if QEMU stops."""
    flags = attempt.kernel.elf.header.e_flags
    if flags & _UNSUPPORTED_FLAGS:
        attempt.remark("e_flags is read as multiboot's flags", generation.elfboot)
        raise Refused(f"elfboot unsupported flags = {flags:x}")
    attempt.remark_padding("by p_align", FIND)
    image = load_elf(attempt, generation)
    if not image.note:
        attempt.remark_sections(OPS)
        raise Refused(NO_NOTE)
    entry = image.note & 0xFFFFFFFF
    _remark_note(attempt, entry, generation)
    attempt.fw_cfg += [*_items(attempt, image, entry), *qemu_fw_cfg.initrd(attempt)]
    complete(attempt, image.roms, generation)
    return EntryProtocol.PVH, entry


def _remark_note(attempt: Attempt, entry: int, generation: Generation) -> None:
    attempt.remark_entry(entry, generation.elfboot)
    if not attempt.kernel.entry_notes:
        attempt.remark("neither owner nor size of a note of type 18 is checked", FIND)
    elif len(attempt.kernel.numbered_18) > 1:
        attempt.remark("of several notes in a segment the first is used, of several segments the last", OPS)
    if attempt.kernel.elf.bits == 32 and generation in (MERGED, DEFENDED):
        attempt.remark(
            "QEMU 4.0 to 5.2 reads the p_align of an ELF32 as 64 bits, and may look in the wrong place",
            "include/hw/elf_ops.h load_elf",
        )


def _items(attempt: Attempt, image: Image, entry: int) -> list[FwCfgItem]:
    return [
        number("KERNEL_ENTRY", entry),
        number("KERNEL_ADDR", image.low),
        number("KERNEL_SIZE", image.high - image.low),
        *qemu_fw_cfg.command_line(attempt.boot),
        number("SETUP_SIZE", HEAD_SIZE),
        FwCfgItem("SETUP_DATA", attempt.kernel.head if len(attempt.kernel.head) == HEAD_SIZE else None, HEAD_SIZE),
    ]


QEMU_BEFORE = Loader(
    "qemu-before-10.0.13", "QEMU before 10.0.13", "hw/i386/x86.c and x86-common.c, 4.0 to 10.0.2", partial(_enter, MERGED)
)
QEMU = Loader("qemu", "QEMU", "hw/i386/x86-common.c, 10.0.13 and 11.1", partial(_enter, DEFENDED), QEMU_BEFORE)
