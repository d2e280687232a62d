"""QEMU's -kernel in the RFC v2 of 2018 ("pvh: Boot uncompressed kernel using direct boot ABI"), which no release ships.

It tries PVH before multiboot, and reads the note as `size_t` in both ELF classes. It has only the notes in memory, so that
a read past them is undefined. It passes no initrd, but a module entry in KERNEL_DATA that describes the hotplug memory.
"""

from __future__ import annotations

from pvhdbg.loaders import qemu_linux, qemu_multiboot
from pvhdbg.loaders.loading import Attempt, Entered, FwCfgItem, Loader
from pvhdbg.loaders.qemu import enter_elf
from pvhdbg.loaders.qemu_elf import Generation
from pvhdbg.record import replace
from pvhdbg.spec.start_info import ModuleEntry

_MAIL = "[RFC v2 4/4] hw/i386/pc.c "
_THEN = Generation(_MAIL + "load_elfboot", mapped=False, width32=8, overlap="rom check and register reset failed", clears=False)


def _enter(attempt: Attempt) -> Entered:
    setup = qemu_linux.setup_of(attempt.kernel.head)
    if setup is not None:
        return qemu_linux.enter(attempt, setup)
    header = qemu_multiboot.find(attempt.kernel.head)
    if attempt.kernel.head[:4] == b"\x7fELF":
        if header is not None:
            attempt.remark("the PVH note is tried before the multiboot header", _MAIL + "load_linux")
        return _enter_elf(attempt)
    return qemu_linux.enter_ancient(attempt) if header is None else qemu_multiboot.enter(attempt, header)


def _enter_elf(attempt: Attempt) -> Entered:
    initrd = attempt.boot.initrd_size
    attempt.boot = replace(attempt.boot, initrd_size=0)
    result = enter_elf(attempt, _THEN)
    hotplug = attempt.boot.device_memory
    module = None if hotplug is None else ModuleEntry(*hotplug, 0, 0).encode()
    attempt.fw_cfg.append(FwCfgItem("KERNEL_DATA", module, ModuleEntry.sizeof()))
    attempt.remark("KERNEL_DATA is a hvm_modlist_entry that describes device_memory, not a module", _MAIL + "load_linux")
    if initrd:
        attempt.remark("the initrd is not passed to the guest", _MAIL + "load_linux")
    return result


QEMU_RFC = Loader("qemu-rfc", "QEMU, RFC v2 of 2018", "[RFC v2 4/4] pvh: Boot uncompressed kernel using direct boot ABI", _enter)
