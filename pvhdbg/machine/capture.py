"""The capture: run to the entry, observe the machine there, and read what the decoder requests.

Rules that keep it correct:

* start_info is read at the stop, before anything else may run: newer guests use its first words as their stack within six
  instructions.
* Unreadable memory becomes a hole with its reason; the decoder then says UNKNOWN or FAIL, never PASS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pvhdbg.decode.cpu_mode import OUTSIDE, virtualised
from pvhdbg.errors import BadInput, MemoryUnreadable, TargetError
from pvhdbg.machine.entry_search import Plan, reach
from pvhdbg.model import (
    Backing,
    BackingKind,
    EntryPoint,
    ImageComparison,
    Kernel,
    LoadRange,
    Memory,
    NeedMemory,
    Registers,
    Segments,
    Snapshot,
    Vmm,
)
from pvhdbg.record import dataclass, field, replace
from pvhdbg.targets.run import Progress
from pvhdbg.targets.target import Target, steppable

if TYPE_CHECKING:
    # Imported while a VMM does its part (`machine.subject`), where it costs no time.
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.qemu_monitor import LoadedKernel
    from pvhdbg.kernel.image import KernelImage

_READS = 8192  # requests of the decoder in one capture: more means that it never finishes
_READ_BOUND = 16 << 20  # bytes


@dataclass(frozen=True)
class Observations:
    """The answers of the monitor; None for a missing one."""

    vmm: Vmm = field(default_factory=Vmm)
    segments: Segments = field(default_factory=Segments)
    a20: bool | None = None
    loaded: LoadedKernel | None = None
    mtree: str = ""


Compare = Callable[["KernelImage"], "ImageComparison | None"]
ConfirmKernel = Callable[[Target, "LoadedKernel", Compare], "tuple[Kernel, ImageComparison | None] | None"]


def capture(
    target: Target,
    plan: Plan,
    *,
    progress: Progress = lambda _: None,
    confirm: ConfirmKernel = lambda _target, _loaded, _compare: None,
    meanwhile: Callable[[], None] = lambda: None,
    timestamp: str | None = None,
) -> BootState:
    """Run `target` to its PVH entry and decode its state.

    `confirm` turns the kernel that `info roms` names into a Kernel, and compares it, if its file is readable and is what the
    guest's memory holds. `meanwhile` is called while the guest runs to its entry, for work that does not need it.

    Raises EntryNotReached, GuestDied and the target's own errors.
    """
    entry = reach(target, plan, progress, meanwhile)
    stub = steppable(target)
    if stub is not None and entry.is_entry:
        stub.follow_control()
    progress("reading the machine")
    boot = decoded(target, observe_machine(target, plan, entry, confirm, timestamp), plan.spec)
    return with_tables(target, boot) if plan.whole else boot


def observe_machine(
    target: Target, plan: Plan, entry: EntryPoint, confirm: ConfirmKernel = lambda _t, _l, _c: None, timestamp: str | None = None
) -> Snapshot:
    """The machine's current state: registers, hidden state, memory layout, VMM, and whether memory holds the kernel's file."""
    from pvhdbg.decode import qemu_monitor

    registers = target.read_registers()
    if entry.is_entry and virtualised(registers):
        cpu = qemu_monitor.cpu_state(target.monitor("info registers")) if target.capabilities.monitor else None
        return _seen_from_outside(target, plan, entry, registers, None if cpu is None else cpu.segments, timestamp)
    seen = _monitor(target)
    backing = qemu_monitor.physical_ranges(seen.mtree) if seen.mtree else ()

    def compare(image: KernelImage) -> ImageComparison | None:
        return compared(target, image, backing or None, plan.booted) if entry.by_vmm else None

    kernel = plan.kernel
    likeness = compare(plan.image) if plan.image is not None else None
    if kernel is None and seen.loaded is not None:
        kernel, likeness = confirm(target, seen.loaded, compare) or (_ranges(seen.loaded), None)
    sources = {"registers": target.via, "memory": target.via}
    if target.capabilities.monitor:
        sources |= {"segments": "monitor", "backing": "monitor", "vmm": "monitor"}
    return Snapshot(
        registers=registers,
        segments=seen.segments,
        a20=seen.a20,
        backing=backing or None,
        vmm=seen.vmm,
        kernel=kernel,
        image=likeness,
        entry=entry,
        sources=sources,
        captured=timestamp,
    )


def _seen_from_outside(
    target: Target, plan: Plan, entry: EntryPoint, registers: Registers, segments: Segments | None, timestamp: str | None
) -> Snapshot:
    """The entry of a hypervisor's guest: the CPU is that guest's, but the memory, RAM and VMM that the target shows are the
    hypervisor's own machine."""
    sources = {"registers": target.via, **({} if segments is None else {"segments": "monitor"})}
    return Snapshot(
        registers=registers,
        segments=segments or Segments(),
        memory=Memory.hidden(OUTSIDE),
        kernel=plan.kernel,
        entry=entry,
        sources=sources,
        captured=timestamp,
    )


def _ranges(loaded: LoadedKernel) -> Kernel:
    """A kernel as far as `info roms` shows it."""
    return Kernel(path=loaded.path, loads=tuple(LoadRange(one.start, one.size) for one in loaded.loads), source="info roms")


def compared(target: Target, image: KernelImage, backing: tuple[Backing, ...] | None, booted: bool = False) -> ImageComparison:
    """Compare the kernel's file with guest memory, where the machine has RAM. Unreadable ranges are left out."""
    from pvhdbg.decode.loaded_image import Sample, compare, samples, within

    # Nothing could load a file that a user named into ROM: the bytes there do not show whose they are.
    left_out = (BackingKind.IO,) if booted else (BackingKind.IO, BackingKind.ROM)
    areas = None if backing is None else [(area.start, area.end) for area in backing if area.kind not in left_out]
    read: dict[Sample, bytes] = {}
    for sample in within(samples(image.elf), areas):
        try:
            read[sample] = target.read_memory(sample.address, sample.size)
        except MemoryUnreadable:
            continue
    return compare(image.elf, image.data, read, booted)


def _monitor(target: Target) -> Observations:
    if not target.capabilities.monitor:
        return Observations()
    from pvhdbg.decode import qemu_monitor

    state = qemu_monitor.cpu_state(target.monitor("info registers"))
    version = qemu_monitor.version(target.monitor("info version"))
    return Observations(
        Vmm("QEMU" if version else None, version, qemu_monitor.accelerator(target.monitor("info kvm"))),
        state.segments,
        state.a20,
        qemu_monitor.loaded_kernel(target.monitor("info roms")),
        target.monitor("info mtree -f"),
    )


def decoded(target: Target, snapshot: Snapshot, spec: str) -> BootState:
    """Decode `snapshot` by the revision named `spec`, and read from `target` until the decoder needs nothing more."""
    from pvhdbg.decode.boot_state import decode
    from pvhdbg.spec.revisions import REVISIONS

    revision = REVISIONS.get(spec)
    if revision is None:
        raise BadInput(f"{spec!r} is not a revision", f"choose one of {', '.join(REVISIONS)}")
    budget = _READ_BOUND
    for _ in range(_READS):
        state = decode(snapshot, revision)
        if not isinstance(state, NeedMemory):
            return state
        budget -= state.size
        if budget < 0:
            memory = snapshot.memory.with_hole(state.address, state.size, "the hand-off exceeds the limit of bytes to read")
        else:
            memory = _with(snapshot.memory, target, state)
        snapshot = replace(snapshot, memory=memory)
    raise TargetError("the hand-off could not be read within bounds", "report this with the output of `pvhdbg snapshot save`")


def with_tables(target: Target, boot: BootState) -> BootState:
    """The same with the additional parts of a snapshot: GDT, IDT, first code pages, page tables."""
    from pvhdbg.decode.snapshot_extent import needed

    for _ in range(_READS):
        need = needed(boot)
        if need is None:
            return boot
        memory = _with(boot.snapshot.memory, target, need)
        boot = replace(boot, snapshot=replace(boot.snapshot, memory=memory))
    raise TargetError("the tables in use could not be read within bounds", "report this with the output of `pvhdbg regs`")


def with_command(boot: BootState, command: tuple[str, ...]) -> BootState:
    """The same with the arguments of its VMM."""
    snapshot = boot.snapshot
    return replace(boot, snapshot=replace(snapshot, vmm=replace(snapshot.vmm, command=command)))


def _with(memory: Memory, target: Target, need: NeedMemory) -> Memory:
    try:
        return memory.with_piece(need.address, target.read_memory(need.address, need.size))
    except MemoryUnreadable as hole:
        return memory.with_hole(need.address, need.size, hole.why, looked=hole.looked)
