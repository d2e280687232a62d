"""Write a changed hand-off into a machine that is stopped at its entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pvhdbg.errors import TargetError
from pvhdbg.stress.handover import (
    Allocator,
    HandoverLayout,
    NotTried,
    Place,
    handover,
    laid_out,
    original,
    pattern,
    ram,
    used,
    without,
)
from pvhdbg.stress.mutation import ChangedHandover
from pvhdbg.stress.shared_memory import SharedMemory
from pvhdbg.stress.trampoline import SPACE, TABLE, code, gdt
from pvhdbg.targets.target import StopKind, Target

_FORGOTTEN = 0xA5A5A5A5
_CHUNK = 1 << 20  # bytes that are filled at a time
_GENERAL = ("rax", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
_SOON = 10.0  # seconds: for a few dozen instructions, or for one period of the timer (55 ms)


@dataclass(frozen=True)
class ChangeableMachine:
    """A machine at its entry, and its RAM."""

    target: Target
    memory: SharedMemory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of guest-physical memory. Raises TargetError."""
        if self._shared(address, size):
            return self.memory.read(address, size)
        return self.target.read_memory(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write guest-physical memory. Raises TargetError."""
        if self._shared(address, len(data)):
            self.memory.write(address, data)
        else:
            self.target.write_memory(address, data)

    def _shared(self, address: int, size: int) -> bool:
        # Between 640 KiB and 1 MiB a PC shows devices and copies of ROM, not its RAM.
        return address + size <= self.memory.size and not (address < 0x100000 and address + size > 0xA0000)


def apply(draft: ChangedHandover, machine: ChangeableMachine) -> None:
    """Change the machine. It is at its entry afterwards. Raises NotTried, TargetError."""
    boot, wish = draft.boot, draft.trampoline
    entry = boot.snapshot.entry.address
    if entry is None:
        raise NotTried("the entry's address is not known")
    before, areas = used(boot), ram(handover(boot).memory_map or ())
    allocator = Allocator(areas, (*before, *original(boot)), parts=5 + 2 * len(draft.info.modules))
    layout = laid_out(boot, draft.info, draft.place, allocator)
    space, table = allocator.take(SPACE, Place.STAY, SPACE), allocator.take(TABLE, Place.STAY, TABLE)
    data = [(one.address, one.data or machine.read(one.source, one.size)) for one in layout.writes]
    if draft.fill is not None:
        _fill(machine, draft.fill, areas, (*before, *layout.kept))
    elif draft.place is not Place.STAY:
        _fill(machine, _FORGOTTEN, original(boot), (*before, *layout.kept))
    for address, content in data:
        machine.write(address, content)
    registers = machine.target.read_registers()
    if wish.needed:
        cleared = machine.read(space, SPACE)
        _run_trampoline(draft, machine, space, table, entry)
        machine.target.write_memory(space, cleared)
        if draft.forget_gdt:
            machine.target.write_memory(table, pattern(TABLE, _FORGOTTEN))
    _write_registers(draft, machine.target, layout, dict(registers.values), bool(wish.needed))


def _run_trampoline(draft: ChangedHandover, machine: ChangeableMachine, space: int, table: int, entry: int) -> None:
    wish, target = draft.trampoline, machine.target
    cs = draft.boot.segments["cs"].selector or 0
    if wish.selectors is not None:
        target.write_memory(table, gdt(wish.selectors))
    target.write_memory(space, code(wish, space, table, entry, cs))
    target.set_breakpoint(entry)
    try:
        target.write_register("rip", space)
        target.resume()
        stop = target.wait(_SOON)
    finally:
        target.clear_breakpoint(entry)
    if stop.kind is not StopKind.BREAKPOINT or target.read_registers()["rip"] != entry:
        raise TargetError(
            "the machine did not come back to its entry from the code that changes it", "this is a defect of pvhdbg: report it"
        )
    if wish.interrupt and not _pending(target):
        raise NotTried("this machine has no timer behind an interrupt controller of the PC's kind")


def _pending(target: Target) -> bool:
    """Whether the PIC has IRQ 0 pending: its line in `info pic` is "pic0: irr=01 imr=…" (hw/intc/i8259_common.c)."""
    line = next((one for one in target.monitor("info pic").splitlines() if one.startswith("pic0:")), "")
    fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
    try:
        return bool(int(fields["irr"], 16) & 1) and not int(fields["imr"], 16) & 1
    except (KeyError, ValueError):
        return False


def _write_registers(draft: ChangedHandover, target: Target, layout: HandoverLayout, before: dict[str, int], ran: bool) -> None:
    wanted: dict[str, int] = {}
    if ran:
        wanted = {name: before[name] for name in _GENERAL if name in before}
    wanted |= draft.registers
    if ran or layout.start_info != before["rbx"]:
        wanted["rbx"] = layout.start_info
    for name, value in wanted.items():
        target.write_register(name, value)


def _fill(machine: ChangeableMachine, word: int, areas: Iterable[range], kept: Iterable[range]) -> None:
    """Fill the parts of `areas` that overlap none of `kept`. Raises TargetError where one cannot be written, so that no boot counts
    with a part of it.
    """
    for area in without(areas, kept):
        for start in range(area.start, area.stop, _CHUNK):
            machine.write(start, pattern(min(_CHUNK, area.stop - start), word))
