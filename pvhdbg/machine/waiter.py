"""A machine at its entry, watched from there on: to a place, a mode or words, or to its death, which is explained.

Tests (`booted`) and the command line wait by this; `frontends/why_actions` shows all that there is to a death.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

from pvhdbg.decode.boot_state import BootState, Text, Unread
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.kernel.image import KernelImage
from pvhdbg.model import Unavailable
from pvhdbg.spec.start_info import StartInfoV1
from pvhdbg.targets.target import Target
from pvhdbg.tracing.death import Death
from pvhdbg.tracing.engines.wait import Goal, Wait
from pvhdbg.tracing.event import Mode
from pvhdbg.tracing.explain import Explanation, explain
from pvhdbg.tracing.milestones import SYMBOLS, Finder, Milestone
from pvhdbg.tracing.mode_words import MODES
from pvhdbg.tracing.places import Surroundings, View
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess
from pvhdbg.vmm.qmp import Qmp

_SERIAL = 100  # lines of the serial port that are looked at
_EXIT = 1.0  # seconds that a QEMU whose connection closed gets to end


class Names:
    """Names for linear addresses, at both of their views; none where the kernel has no symbol, or is not at hand."""

    def __init__(self, image: KernelImage | None) -> None:
        self._image = image
        self._symbols = None if image is None else image.symbols()
        self._known: dict[int, str | None] = {}
        loads = () if image is None else image.elf.loads
        self._loads = tuple((load.p_paddr, load.p_paddr + load.p_memsz) for load in loads)

    def __call__(self, address: int) -> str | None:
        """ "symbol" or "symbol+0x10"."""
        if address not in self._known:
            if len(self._known) > 1 << 16:
                self._known.clear()
            self._known[address] = self._name(address)
        return self._known[address]

    def _name(self, address: int) -> str | None:
        if self._symbols is None:
            return None
        physical = self._symbols.to_physical(address)
        if not any(start <= physical < end for start, end in self._loads):
            return None
        near = self._symbols.nearest(physical)
        return None if near is None else f"{near[0]}+{near[1]:#x}" if near[1] else near[0]

    def kept(self, addresses: Iterable[int]) -> Callable[[int], str | None]:
        """The names of some addresses, which stay at hand when the kernel is closed."""
        return {address: self(address) for address in addresses}.get

    def addresses(self, symbol: str) -> list[int]:
        """A symbol at both of its addresses, virtual and physical. Raises BadInput for one that is not there."""
        if self._symbols is None:
            raise BadInput(f"there is no kernel to look {symbol} up in", "add --kernel ELF, or give the address as a number")
        return sorted({self._symbols.virtual_address(symbol), self._symbols.physical_address(symbol)})

    def found(self, symbols: tuple[str, ...]) -> dict[int, str]:
        """Those of the symbols that the kernel has, by address."""
        if self._symbols is None:
            return {}
        known = self._symbols.values(symbols)
        return {address: name for name, value in known.items() for address in (value, self._symbols.to_physical(value))}

    def code(self, address: int) -> bytes:
        """The file's bytes at a linear address, at either view: up to the longest instruction."""
        for load in () if self._image is None else self._image.elf.loads:
            for base in (load.p_vaddr, load.p_paddr):
                if base <= address < base + load.p_filesz:
                    at = load.p_offset + address - base
                    return bytes(self._image.data[at : at + 15]) if self._image is not None else b""
        return b""


@dataclass(frozen=True)
class End:
    """Why a wait ended without its goal: what was seen, what it means, and where the CPU was last."""

    death: Death
    why: Explanation
    place: str

    @property
    def died(self) -> bool:
        """Whether the guest is dead; else the time was up, and `words` say where it was."""
        return self.death.kind != "alive"

    @property
    def words(self) -> str:
        """All of it in one line: the cause, the place, the mode, and each fault."""
        if not self.died:
            return f"it was at {self.place}" if self.place else "where it was cannot be asked any more"
        faults = f" Faults: {'; '.join(self.why.chain)}." if self.why.chain else ""
        last = f" It was last seen at {self.place}." if self.death.kind in ("shutdown", "exited") and self.place else ""
        return f"{self.why.verdict}{faults}{last}"


class Vigil:
    """The watch over one machine. `until` may be called again and again: what was followed is not followed twice.

    `count` is how many instructions are to be counted from the entry on; 0 for as many as cost no time that is noticed.
    """

    def __init__(self, target: Target, boot: BootState, image: KernelImage | None, qemu: QemuProcess | None = None,
                 progress: Callable[[str], None] = lambda _: None, count: int = 0) -> None:  # fmt: skip
        self.names = Names(image)
        self._target = target
        self._boot = boot
        self._image = image
        self._qemu = qemu
        self._qmp: Qmp | None = None
        registers = boot.snapshot.registers
        own_log = qemu is not None and option_names(qemu.command) & {"d", "D"}
        self.wait = Wait(
            target,
            surroundings(boot, image, target.read_memory, self.names, judged=False),  # the rest is asked for when it is dead
            code=self.names.code,
            status=lambda: None if qemu is None else qemu.wait(_EXIT),
            serial=self._serial,
            ended=lambda: "" if self._qmp is None else self._qmp.why_ended(),
            finder=Finder(self.names.found(SYMBOLS), {name: registers[name] for name in registers}),
            count=count,
            blind=bool(own_log) or boot.snapshot.vmm.accelerator == "kvm" or not target.capabilities.monitor,
            progress=progress,
        )

    @property
    def milestones(self) -> tuple[Milestone, ...]:
        """The steps of the boot that were seen while its first instructions were followed."""
        return tuple(self.wait.milestones)

    def goal(self, text: str) -> Goal:
        """What a user means by a symbol, 0xADDRESS, or a mode's name. Raises BadInput, and TargetError where no mode is shown."""
        if text in MODES:
            if not self._target.capabilities.monitor:
                raise TargetError(f"{self._target.name} does not show the CPU's mode", "wait for a symbol or an address")
            return Goal(modes=MODES[text])
        return Goal(addresses_of(text, self.names))

    def until(self, goal: Goal, seconds: float) -> End | None:
        """None when the goal was reached, else why not. The machine stands still afterwards. Raises TargetError."""
        with ExitStack() as stack:
            if self._qemu is not None:
                try:
                    self._qmp = stack.enter_context(self._qemu.qmp())
                except TargetError:
                    self._qmp = None  # somebody else speaks with it: its events are missed
            death = self.wait.until(goal, seconds)
        self._qmp = None
        if death is None:
            return None
        return End(death, explain(death, self._around(tuple(self._serial())), instruction), self._place(death))

    def _around(self, serial: tuple[str, ...] = ()) -> Surroundings:
        return surroundings(self._boot, self._image, self._target.read_memory, self.names, serial)

    def _serial(self) -> Sequence[str]:
        return () if self._qemu is None else self._qemu.serial_tail(_SERIAL)

    def here(self) -> str:
        """Where the CPU stands, by symbol and mode."""
        return self._words(self.wait.here())

    def _place(self, death: Death) -> str:
        return self._words(self.wait.last if death.pc is None else (death.pc, death.mode))

    def _words(self, seen: tuple[int, Mode | None] | None) -> str:
        if seen is None:
            return ""
        pc, mode = seen
        name = self.names(pc)
        return f"{pc:#x}{f' ({name})' if name else ''}{f' in {mode.value} mode' if mode else ''}"


def addresses_of(text: str, names: Names, option: str = "--until") -> tuple[int, ...]:
    """0xADDRESS, or a symbol at both of its addresses. Raises BadInput."""
    try:
        address = int(text, 16) if text.lower().startswith("0x") else None
    except ValueError:
        address = None
    if address is None:
        return tuple(names.addresses(text))
    if not 0 <= address < 1 << 64:
        raise BadInput(f"{option} {text} is not an address", "give a number below 2^64")
    return (address,)


@lru_cache(maxsize=1 << 12)
def instruction(code: bytes, pc: int, bits: int) -> str:
    """The instruction as text; the bytes of what is none, and where there is no disassembler."""
    from pvhdbg.disassembly import available, disassemble

    return next((one.text for one in disassemble(code, pc, bits, 1)), code.hex(" ")) if available() else code.hex(" ")


def surroundings(
    boot: BootState, image: KernelImage | None, read: Callable[[int, int], bytes], names: Names, serial: tuple[str, ...] = (),
    judged: bool = True,
) -> Surroundings:  # fmt: skip
    """What a death on this machine is judged by. `read` gives physical memory; `judged` asks the rules about the hand-off."""
    snapshot = boot.snapshot
    if image is not None:
        views = tuple(View(load.p_vaddr, load.p_paddr, load.p_memsz) for load in image.elf.loads)
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
        start=start,
        serial=serial,
    )


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


def _complaints(boot: BootState) -> tuple[str, ...]:
    """What the rules find wrong with the hand-off, in words; what is a recorded deviation is not repeated here."""
    from pvhdbg.rules.catalogue import judge
    from pvhdbg.rules.declare import Outcome, Severity

    failed = [verdict for verdict in judge(boot) if verdict.outcome is Outcome.FAIL]
    failed.sort(key=lambda verdict: verdict.severity is not Severity.MUST)
    return tuple(
        f"{one.at} is {one.found}, expected {one.expected} ({verdict.rule.id})"
        for verdict in failed
        for one in verdict.violations[:2]
    )[:8]
