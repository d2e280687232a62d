"""The entry of a hypervisor's guest, seen from the machine that the hypervisor runs on: by its VMCB, at the hypervisor's `vmrun`.

The machine runs until a hypervisor is in 64-bit code with EFER.SVME set; `vmrun` is found by its bytes in the code around it. At each
`vmrun` rax holds the address of the guest's VMCB. The guest is at its entry when the VMCB's rip is.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from pvhdbg.decode import nested_memory, qemu_monitor, vmcb
from pvhdbg.decode.cpu_mode import long_mode_active, paging_on, protected, virtualised
from pvhdbg.decode.page_map import page_map
from pvhdbg.decode.paging import scheme_of, translate
from pvhdbg.decode.protocol import is_pvh
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import EntryNotReached, GuestDied, MemoryUnreadable, TargetError
from pvhdbg.machine.capture import compared
from pvhdbg.machine.entry_search import Plan, where
from pvhdbg.model import Backing, EntryPoint, FoundBy, Memory, NeedMemory, Registers, Segments, Snapshot, Unavailable, Vmm
from pvhdbg.spec.svm import NESTED_PAGING, Vmcb
from pvhdbg.targets.recorded import RecordedTarget
from pvhdbg.targets.run import Progress, RunEnd, breakpoints_at, run
from pvhdbg.targets.target import Leave, Stop, StopKind, Target

_LOOK = 0.05  # seconds between two looks for a hypervisor
_AROUND = 2 << 20  # bytes of code on each side of the pc: all of Xen's text
_MOST = 16  # places that may be a vmrun: constants can have its bytes
_TODO = "use it without --nested, or boot the machine again and attach to it before the hypervisor enters its guest"
WORDS = SafeText("this is the guest of a hypervisor, by its VMCB: cr0.TS, cr4.MCE and EFER.SVME may be the hypervisor's own")


class NestedTarget(RecordedTarget):
    """A hypervisor's guest at its entry, which is only read; `close` leaves the machine that the hypervisor runs on."""

    via = vmcb.SOURCE

    def __init__(self, machine: Target, registers: Registers, tables: Registers) -> None:
        """`tables` are the control registers by which the hypervisor walks the nested page tables."""
        super().__init__(Snapshot(registers), f"the guest of the hypervisor at {machine.name}", "guest seen from outside")
        self._machine = machine
        self._tables = tables

    def read_memory(self, address: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            at = address + len(found)
            walk = translate(self._tables, at, self._machine.read_memory)
            if walk.physical is None:
                raise MemoryUnreadable(address, size, f"the nested page tables map nothing at {at:#x}: {walk.problem}")
            piece = min(size - len(found), walk.page_size - at % walk.page_size)
            found += self._machine.read_memory(walk.physical, piece)
        return found

    def backing(self) -> tuple[Backing, ...]:
        """What the guest has at its physical addresses."""
        monitor = self._machine.capabilities.monitor
        machine = qemu_monitor.physical_ranges(self._machine.monitor("info mtree -f")) if monitor else ()
        tables = page_map(self._tables, self._machine.read_memory, nested_memory.MOST_TABLES, contiguous=True)
        return nested_memory.backing(tables, machine)

    def alive(self) -> bool:
        return self._machine.alive()

    def close(self, leave: Leave) -> bool:
        return self._machine.close(leave)


@dataclass(frozen=True)
class _Code:
    """Where a hypervisor has its `vmrun`, and whether its code names Xen."""

    vmruns: tuple[int, ...]
    xen: bool


def captured(machine: Target, plan: Plan, vmm: Vmm, progress: Progress, timestamp: str) -> tuple[NestedTarget, Snapshot]:
    """Run the machine until its hypervisor enters a guest at that guest's entry. `vmm` is the hypervisor as the user named it.

    Raises EntryNotReached, GuestDied and the target's own errors.
    """
    deadline = time.monotonic() + plan.timeout
    code = _hypervisor(machine, deadline, plan, progress)
    progress("waiting for the hypervisor to enter its guest")
    with breakpoints_at(machine, code.vmruns):
        pc = machine.read_registers()["rip"]
        while pc not in code.vmruns or (entry := _entry(guest := _guest(machine), plan)) is None:
            pc = _run_on(machine, deadline, plan, "the hypervisor did not enter a guest at its entry")
    cpu = qemu_monitor.cpu_state(machine.monitor("info registers")).segments if machine.capabilities.monitor else Segments()
    seen = Vmm(vmm.name or ("Xen" if code.xen else None), vmm.version)
    tables = "nested page tables"
    sources = {"registers": vmcb.SOURCE, "segments": vmcb.SOURCE, "memory": tables, "backing": tables}
    backing = guest.backing()
    image = compared(guest, plan.image, backing) if plan.image is not None and entry.by_vmm else None
    snapshot = Snapshot(
        registers=guest.read_registers(),
        segments=vmcb.segments(_vmcb(machine), cpu),
        backing=backing,
        vmm=seen,
        kernel=plan.kernel,
        image=image,
        entry=entry,
        sources={**sources, "vmm": "its code" if vmm.name is None else "--vmm"} if seen.name else sources,
        captured=timestamp,
    )
    guest.snapshot = snapshot
    return guest, snapshot


# --- the hypervisor -----------------------------------------------------------------------------------------------


def _hypervisor(machine: Target, deadline: float, plan: Plan, progress: Progress) -> _Code:
    """Run the machine until a hypervisor is in its own code, and find its `vmrun`."""
    progress("waiting for a hypervisor")
    looked: set[int] = set()
    while True:
        registers = machine.read_registers()
        if virtualised(registers) and paging_on(registers) and long_mode_active(registers):
            window = registers["rip"] // _AROUND
            if window not in looked:
                looked.add(window)
                code = _around(machine, registers)
                if code.vmruns:
                    return code
        if time.monotonic() > deadline:
            raise EntryNotReached(
                f"no hypervisor with a vmrun was seen within {plan.timeout:g} s ({where(registers)})", _NO_HYPERVISOR
            )
        _pause(machine, deadline)


_NO_HYPERVISOR = "boot one that uses AMD's SVM, on a machine with -cpu EPYC; Intel's VMX is not supported"


def _pause(machine: Target, deadline: float) -> None:
    """Let the machine run for a moment. Raises GuestDied where it ends."""
    ran = run(machine, max(min(_LOOK, deadline - time.monotonic()), 0.001))
    _refuse_end(ran.stop)


def _refuse_end(stop: Stop) -> None:
    if stop.kind in (StopKind.SHUTDOWN, StopKind.EXITED):
        raise GuestDied(
            f"the machine ended before its hypervisor entered a guest: {stop.text or stop.kind.value}", "see its serial output"
        )


def _around(machine: Target, registers: Registers) -> _Code:
    """What is in the code around the pc, page by page of the hypervisor's own tables."""
    pc = registers["rip"]
    found: list[int] = []
    xen = set()
    at, end = max(pc - _AROUND, 0) & ~0xFFF, pc + _AROUND
    data, begin = b"", at
    while at < end:
        walk = translate(registers, at, machine.read_memory)
        size = (walk.page_size - at % walk.page_size) if walk.physical is not None else 0x1000
        piece = b""
        if walk.physical is not None:
            with suppress(MemoryUnreadable):
                piece = machine.read_memory(walk.physical, min(size, end - at))
        if not piece:
            data, begin = b"", at + size
        else:
            begin, data = (begin, data + piece) if data else (at, piece)
            found += [one for one in vmcb.vmruns(data, begin) if one not in found]
            xen |= vmcb.parts_of_xens_name(data)
            data, begin = data[-2:], begin + len(data) - 2
        at += size
    return _Code(tuple(found[:_MOST]), vmcb.names_xen(xen))


def _run_on(machine: Target, deadline: float, plan: Plan, late: str) -> int:
    """Run to the next stop, and return its pc."""
    left = deadline - time.monotonic()
    ran = run(machine, max(left, 0.001)) if left > 0 else None
    if ran is None or ran.end is RunEnd.TIME:
        raise EntryNotReached(f"{late} within {plan.timeout:g} s", _TODO)
    _refuse_end(ran.stop)
    return machine.read_registers()["rip"]


# --- its guest ----------------------------------------------------------------------------------------------------


def _vmcb(machine: Target) -> Vmcb:
    address = machine.read_registers()["rax"]
    return Vmcb.decode(machine.read_memory(address, Vmcb.sizeof()))


def _guest(machine: Target) -> NestedTarget:
    """The guest that the hypervisor is about to enter. Raises TargetError for one without nested paging."""
    cpu, found = machine.read_registers(), _vmcb(machine)
    if not found.nested & NESTED_PAGING:
        raise TargetError(
            "the hypervisor runs its guest without nested paging", "its memory cannot be read from outside: switch that on"
        )
    if scheme_of(cpu) is None:
        raise TargetError("the hypervisor enters its guest with paging off", "this is not supported")
    return NestedTarget(machine, vmcb.registers(found, cpu), cpu.replace(cr3=found.ncr3))


def _entry(guest: NestedTarget, plan: Plan) -> EntryPoint | None:
    """Where the guest is, if it is at its entry: at the address that was named, at its kernel's note, or before a start_info."""
    registers = guest.read_registers()
    pc = registers["rip"]
    noted = plan.kernel.entry if plan.kernel else None
    if plan.entry is not None:
        return EntryPoint(pc, FoundBy.NOTE if pc == noted else FoundBy.OPTION, plan.symbol) if pc == plan.entry else None
    if paging_on(registers) or not protected(registers):
        return None
    if noted is not None:
        return EntryPoint(pc, FoundBy.NOTE, plan.symbol) if pc == noted else None
    with suppress(MemoryUnreadable, NeedMemory, Unavailable):
        ebx = registers["ebx"]
        if is_pvh(registers, Memory().with_piece(ebx, guest.read_memory(ebx, 4))):
            return EntryPoint(pc, FoundBy.FIRST_STOP)
    return None
