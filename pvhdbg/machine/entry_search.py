"""The entry: where it is, by what that is known, whether the machine is there, and the run to it.

* The breakpoint is a hardware breakpoint, and is removed on every exit path.
* fw_cfg is read only while no firmware can be in the middle of reading it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pvhdbg.decode.cpu_mode import observed_mode, paging_on, protected, virtualised
from pvhdbg.errors import EntryNotReached, GuestDied, MemoryUnreadable, TargetError
from pvhdbg.model import EntryPoint, FoundBy, Kernel, NeedMemory, Registers, Snapshot, Unavailable
from pvhdbg.record import dataclass
from pvhdbg.targets.run import Progress, reset_machine, run_until
from pvhdbg.targets.target import OWN_REBOOTS, RESET_RIP, Target

if TYPE_CHECKING:
    # Imported while a VMM does its part (`machine.subject`), where it costs no time.
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.machine.not_entered import Cause

_FIRMWARE = (range(0xC0000, 0x100000), range(0xFFC00000, 1 << 32))


@dataclass(frozen=True)
class Plan:
    """The user's request. `entry` is an address (with its `symbol`), `kernel` what is known of the file, `image` that file.

    `booted`: this file was handed to the VMM, so memory must hold it. `halts`: the machine stops at the entry by itself.
    """

    spec: str = "v1"  # the name of the revision to judge by
    entry: int | None = None
    symbol: str | None = None
    kernel: Kernel | None = None
    here: bool = False
    reset: bool = False
    timeout: float = 30.0
    whole: bool = False  # also read the tables and code that the machine uses, in addition to the hand-off
    image: KernelImage | None = None
    booted: bool = False
    halts: bool = False


def reach(target: Target, plan: Plan, progress: Progress, meanwhile: Callable[[], None]) -> EntryPoint:
    """Run the machine to the entry of the plan. Raises EntryNotReached, GuestDied and the target's own errors."""
    if not target.capabilities.control:
        raise TargetError(f"{target.name} cannot be run", "use it as a snapshot")
    if plan.reset:
        _reset(target)
    registers = target.read_registers()
    pc = registers["rip"]
    if plan.here:
        return EntryPoint(pc, FoundBy.HERE, plan.symbol if pc == _wanted(plan) else None)
    goal, told = _goal(target, plan, registers)
    if goal.address == pc and (goal.found_by is FoundBy.FIRST_STOP or _flat_mode(registers)):
        return goal
    if plan.entry is None:
        _refuse_past(target, registers, plan.kernel)
    # A multiboot header hides the note from QEMU: it enters the kernel at fw_cfg's address, so we stop there too.
    stops = {one for one in (goal.address, told) if one is not None}
    try:
        stopped = run_until(
            target,
            stops,
            plan.timeout,
            reboots=OWN_REBOOTS if plan.reset else 0,
            progress=progress,
            meanwhile=meanwhile,
            halts=plan.halts and plan.kernel is not None and stops == {plan.kernel.entry},
        )
    except (EntryNotReached, GuestDied) as error:
        raise _explained(error, target, whole_boot=pc == RESET_RIP) from error
    return goal if stopped == goal.address else EntryPoint(stopped, FoundBy.FW_CFG)


def _wanted(plan: Plan) -> int | None:
    """The entry that the user or the kernel's note names."""
    noted = plan.kernel.entry if plan.kernel else None
    return plan.entry if plan.entry is not None else noted


def _goal(target: Target, plan: Plan, registers: Registers) -> tuple[EntryPoint, int | None]:
    """The entry to run to, at which the machine may be already; and the address in fw_cfg, which the VMM may enter instead.

    Raises EntryNotReached where no address can be learnt.
    """
    pc, wanted = registers["rip"], _wanted(plan)
    told = _told_by_fw_cfg(target, registers) if wanted is None or wanted == plan.entry or pc != wanted else None
    if wanted is not None:
        only_the_users = plan.entry is not None
        return EntryPoint(wanted, _found_by(plan, told), plan.symbol), None if only_the_users else told
    if _at_pvh_entry(target, registers) and told in (None, pc):
        return EntryPoint(pc, FoundBy.FIRST_STOP), told
    if told is None:
        raise _not_learnt(target, registers, plan)
    return EntryPoint(told, FoundBy.FW_CFG), told


def _found_by(plan: Plan, told: int | None) -> FoundBy:
    """The source of the wanted address. Where the user names the address that the VMM has too, the VMM is the source."""
    noted = plan.kernel.entry if plan.kernel else None
    if plan.entry is None or (plan.entry == noted and told in (None, noted)):
        return FoundBy.NOTE
    return FoundBy.FW_CFG if plan.entry == told else FoundBy.OPTION


def _why_not(target: Target) -> Cause | None:
    from pvhdbg.machine.not_entered import cause

    return cause(target)


def _not_learnt(target: Target, registers: Registers, plan: Plan) -> EntryNotReached:
    why = None if firmware_runs(registers) else _why_not(target)
    if why is not None:
        return EntryNotReached(f"the machine will not reach a PVH entry: {why.what} ({where(registers)})", why.todo)
    return EntryNotReached(f"the entry's address is unknown ({where(registers)})", _how_to_learn(target, plan))


def stands_at(target: Target, plan: Plan, known: EntryPoint | None = None) -> EntryPoint:
    """Where the machine is, without running it: at its entry (the noted one, a `known` one, or one that looks like it)
    or, as `here`, somewhere else."""
    registers = target.read_registers()
    pc = registers["rip"]
    if _flat_mode(registers):
        noted = plan.kernel.entry if plan.kernel else None
        if pc == noted:
            return EntryPoint(pc, FoundBy.NOTE, plan.symbol)
        if known is not None:
            return known if known.address == pc else EntryPoint(pc, FoundBy.HERE)
        if noted is None and _at_pvh_entry(target, registers) and _told_by_fw_cfg(target, registers) in (None, pc):
            return EntryPoint(pc, FoundBy.FIRST_STOP)
    return EntryPoint(pc, FoundBy.HERE)


def find_entry(target: Target, plan: Plan) -> EntryPoint | None:
    """The machine's future or past entry, as far as its current state shows it; None if it does not."""
    if plan.kernel is not None and plan.kernel.entry is not None:
        return EntryPoint(plan.kernel.entry, FoundBy.NOTE, plan.symbol)
    here = stands_at(target, plan)
    if here.is_entry:
        return here
    told = _told_by_fw_cfg(target, target.read_registers())
    return None if told is None else EntryPoint(told, FoundBy.FW_CFG)


def _reset(target: Target) -> None:
    if not target.capabilities.monitor:
        raise TargetError(f"{target.name} has no monitor, which a reset needs", "restart the machine by hand, and attach again")
    _refuse_what_a_reset_ends(target)
    reset_machine(target)


def _refuse_what_a_reset_ends(target: Target) -> None:
    """Raises TargetError for a QEMU that exits on reset by its command line (-no-reboot). With -no-shutdown it only stops."""
    from pvhdbg.vmm.options import option_names

    command = target.peer_command()
    names = option_names(command)
    ends = "no-reboot" in names or any(word.startswith("reboot=shutdown") for word in command)
    if ends and "no-shutdown" not in names and not any("shutdown=pause" in word for word in command):
        raise TargetError(
            f"{target.name} runs with -no-reboot: a reset would end it",
            "start it without that, or decode its current state with --here",
        )


def _flat_mode(registers: Registers) -> bool:
    """Protected mode without paging, as far as is known: without cr0 in the stub's registers, this is assumed."""
    return protected(registers) is not False and not paging_on(registers)


def recorded_entry(target: Target, plan: Plan) -> EntryPoint:
    """The entry of a machine that cannot run, if it is there. Else raises EntryNotReached, unless `plan` accepts any state."""
    registers = target.read_registers()
    pc, noted = registers["rip"], plan.kernel.entry if plan.kernel else None
    if plan.here:
        return EntryPoint(pc, FoundBy.HERE, plan.symbol)
    if noted is not None and pc == noted and _flat_mode(registers):
        return EntryPoint(pc, FoundBy.NOTE, plan.symbol)
    if noted is None and _at_pvh_entry(target, registers):
        return EntryPoint(pc, FoundBy.FIRST_STOP)
    where_to = f"the entry {noted:#x}" if noted is not None else "a PVH entry"
    raise EntryNotReached(
        f"{target.name} was not captured at {where_to} ({where(registers)})",
        "decode its current state with --here, or capture it at the entry",
    )


def _at_pvh_entry(target: Target, registers: Registers) -> bool:
    if not _flat_mode(registers) or virtualised(registers):
        return False
    ebx = registers.get("ebx")
    if not ebx:
        return False
    from pvhdbg.decode.protocol import is_pvh

    try:
        snapshot = Snapshot(registers).memory.with_piece(ebx, target.read_memory(ebx, 4))
        return is_pvh(registers, snapshot)
    except (MemoryUnreadable, NeedMemory, Unavailable):
        return False


def _told_by_fw_cfg(target: Target, registers: Registers) -> int | None:
    if not target.capabilities.monitor or firmware_runs(registers):
        return None
    from pvhdbg.decode import fw_cfg

    return fw_cfg.kernel_entry(target.monitor)


def firmware_runs(registers: Registers) -> bool:
    """Whether the machine is inside firmware, which may be in the middle of reading fw_cfg: our reads would disturb it."""
    pc = registers["rip"]
    return pc != RESET_RIP and not paging_on(registers) and any(pc in area for area in _FIRMWARE)


def _how_to_learn(target: Target, plan: Plan) -> str:
    if plan.kernel is not None:
        return "its file has no usable PHYS32_ENTRY note (pvhdbg elf says why): give the address with --entry"
    if target.capabilities.monitor and not plan.reset:
        return "name the kernel with --kernel, or start over with --reset"
    return "name the kernel with --kernel, or the address with --entry"


def _refuse_past(target: Target, registers: Registers, kernel: Kernel | None) -> None:
    pc = registers["rip"]
    if virtualised(registers):
        raise EntryNotReached(
            f"a hypervisor runs, so that the kernel of this machine is past its entry ({where(registers)})",
            "for the entry of the hypervisor's guest: --nested",
        )
    inside = kernel is not None and any(load.start <= pc < load.end for load in kernel.loads)
    if paging_on(registers) or (inside and _flat_mode(registers)):
        why = _why_not(target)
        if why is not None:
            raise EntryNotReached(f"this machine does not reach a PVH entry: {why.what} ({where(registers)})", why.todo)
        raise EntryNotReached(
            f"the guest is already past its entry ({where(registers)})",
            "boot it again to its entry with --reset, or decode its current state with --here",
        )


def where(registers: Registers) -> str:
    """Where a CPU is, in words: "pc 0xffffffff81000000, long mode, 4-level paging". CS is ignored."""
    return f"pc {registers['rip']:#x}, {observed_mode(registers).words}"


def _explained(error: TargetError, target: Target, whole_boot: bool) -> TargetError:
    """The same error with the CPU's place added, and whether it looks past the entry; not after a `whole_boot`, which passed none."""
    try:
        registers = target.read_registers()
    except TargetError:
        return type(error)(error.what, error.todo or "start it again, and look at its serial output")
    why = (
        None
        if isinstance(error, GuestDied) or (firmware_runs(registers) and registers["rip"] < _FIRMWARE[1].start)
        else _why_not(target)
    )
    if why is not None:
        return type(error)(f"{error.what}: {why.what} ({where(registers)})", why.todo)
    todo = error.todo or "check that this is the kernel that was loaded, look at its serial output, or increase --timeout"
    if isinstance(error, EntryNotReached) and paging_on(registers) and not whole_boot:
        todo = "the guest is already past its entry: boot it again with --reset, or decode its current state with --here"
    return type(error)(f"{error.what} ({where(registers)})", todo)
