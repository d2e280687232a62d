"""The context for explaining a death on a machine: its hand-off, its kernel, its memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pvhdbg.decode.boot_state import BootState, Text, Unread
from pvhdbg.decode.payload import SNIFF
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import PvhdbgError, TargetError
from pvhdbg.kernel.image import KernelImage
from pvhdbg.machine.names import Names
from pvhdbg.machine.placement import Placement
from pvhdbg.model import Unavailable
from pvhdbg.spec.elf import PF_X
from pvhdbg.spec.start_info import StartInfoV1
from pvhdbg.targets.target import Target
from pvhdbg.tracing.addresses import Surroundings, View


def surroundings(
    boot: BootState, image: KernelImage | None, read: Callable[[int, int], bytes], names: Names, serial: tuple[SafeText, ...] = (),
    judged: bool = True, target: Target | None = None, command: Sequence[str] = (),
) -> Surroundings:  # fmt: skip
    """The context for explaining a death on this machine. `read` gives physical memory; `judged`: apply the rules to it.

    `target` answers questions about the CPU, `command` is QEMU's where it was started here.
    """
    snapshot = boot.snapshot
    if image is not None:
        views = tuple(View(load.p_vaddr, load.p_paddr, load.p_memsz, bool(load.p_flags & PF_X)) for load in image.elf.loads)
    else:
        views = tuple(View(load.start, load.start, load.size) for load in (snapshot.kernel.loads if snapshot.kernel else ()))
    start = {name: snapshot.registers[name] for name in snapshot.registers}
    for name, table in (("gdt", snapshot.segments.gdt), ("idt", snapshot.segments.idt)):
        if table is not None:
            start |= {f"{name}_base": table.base, f"{name}_limit": table.limit}
    return Surroundings(
        read=read,
        name=names,
        entry=snapshot.entry.address if snapshot.entry.is_entry else None,
        views=views,
        backing=snapshot.backing,
        handed=tuple(_handed(boot)),
        complaints=_complaints(boot) if judged and snapshot.entry.is_entry else (),
        start=start if snapshot.entry.is_entry else {},  # elsewhere the guest may have changed any of it
        serial=serial,
        file=names.file,
        patches_itself=names.is_linux,
        data_at=names.data_at,
        feature=lambda name: None if target is None else _feature(target, name),
        symbol=names.linked,
        frame_rule=names.frame_rule,
        line=names.line,
        word=8 if image is None else image.elf.bits // 8,
        command_line=_command_line(boot),
        initrd=_initrd(boot),
        vmm=snapshot.vmm.name or "the VMM",
        last_ipi=lambda: None if target is None else _last_ipi(target),
        exit_device=any("isa-debug-exit" in word for word in command) if command else None,
    )


def moved(around: Surroundings, placement: Placement) -> Surroundings:
    """The same for a kernel that KASLR or its loader moved: names, file and symbols by where it is now."""
    load, link = placement.load_bias, placement.virtual_bias
    if not load and not link:
        return around
    rule, line = around.frame_rule, around.line
    unmoved, file, symbol, data_at = around.name, around.file, around.symbol, around.data_at

    def name(address: int) -> str | None:
        """By the page tables; where they were not observed, by the kernel's own addresses."""
        found = placement.name_of(address)
        if found is None and any(0 <= address - one.virtual - link < one.size for one in around.views):
            return unmoved(address - link & _WRAP)
        return found

    def data(address: int) -> str | None:
        physical = placement.physical(address)
        return None if physical is None else data_at(physical - load)

    def linked(wanted: str) -> int | None:
        value = symbol(wanted)
        return None if value is None else value + link & _WRAP

    return replace(
        around,
        name=name,
        views=tuple(replace(one, virtual=one.virtual + link & _WRAP, physical=one.physical + load) for one in around.views),
        file=lambda physical, size: file(physical - load, size),
        symbol=linked,
        frame_rule=lambda address: rule(address - link & _WRAP),
        line=lambda address: line(address - link & _WRAP),
        data_at=data,
    )


_WRAP = (1 << 64) - 1
_CPU = "/machine/unattached/device[0]"  # QEMU's path of the boot CPU, on pc, q35 and microvm


def _feature(target: Target, name: str) -> bool | None:
    """Whether QEMU's CPU has a feature of CPUID; None where QEMU does not tell."""
    if not target.capabilities.monitor or not name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        return None
    try:
        answer = target.monitor(f"qom-get {_CPU} {name}").strip()
    except TargetError:
        return None
    return {"true": True, "false": False}.get(answer)


_WORD = 8
_CLEARED = 1 << 16  # bytes of memory that was not cleared, of each PT_LOAD


def not_cleared(boot: BootState, image: KernelImage | None, read: Callable[[int, int], bytes]) -> tuple[tuple[int, bytes], ...]:
    """Memory behind the bytes of PT_LOADs that must be zero and is not, at the entry: from the first such byte on."""
    comparison = boot.snapshot.image
    if comparison is None or image is None or not boot.snapshot.entry.is_entry:
        return ()
    found = []
    for one in comparison.differences:
        load = next((load for load in image.elf.loads if load.p_paddr <= one.address < load.p_paddr + load.p_memsz), None)
        if not one.zeros or load is None:
            continue
        start = max(one.address & -_WORD, load.p_paddr + load.p_filesz)  # the word that the first byte is in
        try:
            found.append((start, read(start, min(load.p_paddr + load.p_memsz - start, _CLEARED))))
        except PvhdbgError:
            continue
    return tuple(found)


_ICR = re.compile(r"^ICR\s+0x([0-9a-f]{8})", re.MULTILINE)


def _last_ipi(target: Target) -> int | None:
    """What QEMU's local APIC shows of CPU 0's last IPI (target/i386/cpu-apic.c)."""
    try:
        found = _ICR.search(target.monitor("info lapic 0")) if target.capabilities.monitor else None
    except TargetError:
        return None
    return None if found is None else int(found[1], 16)


def _handed(boot: BootState) -> Iterable[tuple[str, int, int]]:
    """The parts of the hand-off: name, address, size."""
    try:
        info = boot.start_info
    except Unavailable:
        return
    yield "start_info", info.address, info.raw.sizeof()
    if isinstance(info.command_line, Text):
        yield "the command line", info.command_line.address, len(info.command_line.data) + 1
    if isinstance(info.raw, StartInfoV1) and info.raw.memmap_entries and not isinstance(info.memory_map, Unread):
        yield "the memory map", info.raw.memmap_paddr, 24 * len(info.memory_map or ())
    for index, module in enumerate(() if isinstance(info.modules, Unread) else info.modules):
        yield f"module {index}", module.entry.paddr, module.entry.size
        yield "the module list", module.address, module.entry.sizeof()


def _command_line(boot: BootState) -> str | None:
    try:
        found = boot.start_info.command_line
    except Unavailable:
        return None
    return found.data.decode("latin-1") if isinstance(found, Text) else "" if found is None else None


def _initrd(boot: BootState) -> bytes | None:
    """The first bytes of the first module, as they were at the entry: guests use that memory again. b"" where there is no module.

    None where they were not read.
    """
    if not boot.snapshot.entry.is_entry:
        return None
    try:
        modules = boot.start_info.modules
        if isinstance(modules, Unread):
            return None
        first = modules[0].entry if modules else None
        return b"" if first is None else boot.snapshot.memory.read(first.paddr, min(first.size, SNIFF))
    except Unavailable:
        return None


def _complaints(boot: BootState) -> tuple[str, ...]:
    """The violations in the hand-off, as sentences; recorded deviations are left out."""
    from pvhdbg.rules.catalogue import judge
    from pvhdbg.rules.declare import Outcome, Severity

    failed = [verdict for verdict in judge(boot) if verdict.outcome is Outcome.FAIL]
    failed.sort(key=lambda verdict: verdict.severity is not Severity.MUST)
    return tuple(
        f"{one.at} is {one.found}, expected {one.expected} ({verdict.rule.id})"
        for verdict in failed
        for one in verdict.violations[:2]
    )[:8]
