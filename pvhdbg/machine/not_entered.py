"""Why a machine does not reach a PVH entry: its firmware and QEMU's fw_cfg show how it boots instead."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.errors import MemoryUnreadable, TargetError
from pvhdbg.targets.target import Target

# The GUID at the end of OVMF's table below its reset vector (OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm).
_OVMF_AT, _OVMF = 0xFFFFFFD0, bytes.fromhex("de82b596b21ff745baeaa366c55a082d")


class Cause(NamedTuple):
    """What the machine does instead, and the next step, each in one sentence."""

    what: str
    todo: str


def cause(target: Target) -> Cause | None:
    """Why the machine is not entered by PVH; None where nothing shows it. Never raises."""
    try:
        if target.read_memory(_OVMF_AT, len(_OVMF)) == _OVMF:
            return Cause(
                "its firmware is OVMF (UEFI), which does not boot kernels by PVH",
                "start QEMU with its own firmware: without -bios and pflash",
            )
    except (MemoryUnreadable, TargetError):
        pass
    try:
        return _by_fw_cfg(target) if target.capabilities.monitor else None
    except TargetError:
        return None


def _by_fw_cfg(target: Target) -> Cause | None:
    from pvhdbg.decode import fw_cfg

    if not fw_cfg.is_there(target.monitor) or fw_cfg.number(target.monitor, "KERNEL_ENTRY"):
        return None
    setup, size = (fw_cfg.number(target.monitor, name) for name in ("SETUP_ADDR", "KERNEL_SIZE"))
    if not size:
        return Cause("QEMU was given no kernel", "start it with -kernel and an ELF that has a PHYS32_ENTRY note")
    if not setup:
        return None
    begins = fw_cfg.read_item(target.monitor, fw_cfg.BYTES["SETUP_DATA"], 4)
    if begins == b"\x7fELF":
        return Cause(
            "this machine type of QEMU has no PVH (pc-i440fx-3.1, pc-q35-3.1 and older): it takes the ELF for a Linux older than boot protocol 2.00",
            "choose a newer machine type, such as pc, q35 or microvm",
        )
    return Cause(
        f"QEMU was given a bzImage, which it boots by the Linux boot protocol: its fw_cfg has the set-up code for {setup:#x} (SETUP_ADDR)",
        "for PVH start it with the ELF inside: pvhdbg extract VMLINUZ -o vmlinux, or pvhdbg check VMLINUZ, which does that",
    )
