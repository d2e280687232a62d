"""The machine in words, for all formats: VMM, kernel, entry, protocol, and the meaning of a segment."""

from __future__ import annotations

from pvhdbg.decode.boot_state import BootState, Unread
from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.decode.text import printable
from pvhdbg.decode.vmcb import SOURCE as VMCB
from pvhdbg.model import FoundBy, ImageComparison, Segment
from pvhdbg.report.sizes import human
from pvhdbg.spec.x86 import SYSTEM_TYPES, TYPE_CODE, TYPE_READABLE, TYPE_WRITABLE


def rows(boot: BootState) -> list[tuple[str, str]]:
    """The head of a report as pairs of a title and one line of safe text."""
    return [("VMM", _vmm(boot)), ("kernel", _kernel(boot)), ("entry", _entry(boot)), ("protocol", _protocol(boot))]


def _vmm(boot: BootState) -> str:
    vmm = boot.snapshot.vmm
    if boot.snapshot.sources.get("registers") == VMCB:
        words = " ".join(part for part in (vmm.name or "not named", vmm.version) if part)
        return f"{printable(words)}; guest of a hypervisor, by its VMCB"
    if vmm.name is None and vmm.accelerator is None:
        return (
            f"not observed ({'no monitor answers' if boot.snapshot.memory.hidden_by is None else 'a hypervisor that runs in QEMU'})"
        )
    words = " ".join(part for part in (vmm.name or "not named", vmm.version) if part)
    accelerator = f", {printable(vmm.accelerator)}" if vmm.accelerator else ""
    firmware = boot.firmware.name if boot.firmware else "not recognised"
    return f"{printable(words)}{accelerator}; firmware: {firmware}"


def _kernel(boot: BootState) -> str:
    kernel = boot.snapshot.kernel
    if kernel is None:
        return "not seen (name it with --kernel)"
    parts: list[str] = (
        [printable(kernel.path or "no path")] if kernel.source != "probe log" else ["the guest probe, by its own report"]
    )
    if kernel.source == "info roms":
        parts.append("known from the monitor only")
    if kernel.build_id:
        parts.append(f"build-id {printable(kernel.build_id[:16])}")
    if kernel.loads:
        parts.append(f"at {min(load.start for load in kernel.loads):#x} - {max(load.end for load in kernel.loads):#x}")
    image = boot.snapshot.image
    if image is not None:
        parts.append(_compared(image))
    return ", ".join(parts)


def _compared(image: ImageComparison) -> str:
    """How much of the file was compared with memory at the entry, and what came of it."""
    of = human(image.compared) if image.compared == image.size else f"{human(image.compared)} of {human(image.size)}"
    if not image.size:
        return "which has nothing to load"
    if not image.compared:
        return "not compared with memory: none of it could be read"
    if image.another:
        return f"{of} compared with memory: another kernel is there"
    return f"{of} compared with memory: {'DIFFERENT' if image.differences else 'the same'}"


def _entry(boot: BootState) -> str:
    entry = boot.snapshot.entry
    if entry.found_by is FoundBy.NOT_REACHED:
        return "not reached"
    where = "unknown" if entry.address is None else f"{entry.address:#x}"
    symbol = f" <{printable(entry.symbol)}>" if entry.symbol else ""
    return f"{where}{symbol}, found by {printable(entry.found_by)}; {observed_mode(boot.registers, boot.segments).words}"


def _protocol(boot: BootState) -> str:
    if boot.snapshot.entry.found_by is FoundBy.NOT_REACHED:
        return "not observed"
    if boot.other_protocol is not None:
        return f"{boot.other_protocol.title}, not PVH"
    if not isinstance(boot.start_info_part, Unread):
        return f"PVH boot ABI, start_info version {boot.start_info.raw.version} at {boot.start_info.address:#x}"
    if not isinstance(boot.draft_a_part, Unread):
        return f"PVH boot ABI, Draft A of 2015, {boot.draft_a.width}-bit structure at {boot.draft_a.address:#x}"
    return f"judged as PVH; {printable(boot.start_info_part.reason)}"


def segment_meaning(segment: Segment) -> str:
    """The content of the descriptor cache in words: "32-bit code, read/execute", "TSS32-busy", "not present"."""
    if segment.flags is None:
        return "not observed"
    if not segment.present:
        return "not present"
    if not segment.s:
        return SYSTEM_TYPES.get(segment.type, f"system type {segment.type:#x}")
    width = "64-bit" if segment.long else "32-bit" if segment.db else "16-bit"
    if segment.type & TYPE_CODE:
        return f"{width} code, {'read/execute' if segment.type & TYPE_READABLE else 'execute-only'}"
    return f"{width} data, {'read/write' if segment.type & TYPE_WRITABLE else 'read-only'}"
