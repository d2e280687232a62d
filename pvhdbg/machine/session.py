"""A machine under a debugger, from stop to stop: its state for the prompt, GDB and the commands.

Code that runs the machine calls `resumed()`. State is read on demand, and kept until the machine runs or its memory is
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from pvhdbg.decode.cpu_mode import OUTSIDE, virtualised
from pvhdbg.decode.paging import translate
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput, MemoryUnreadable, TargetError
from pvhdbg.machine.capture import decoded, observe_machine
from pvhdbg.machine.entry_search import Plan, find_entry, stands_at
from pvhdbg.machine.loaded_kernel import Confirm
from pvhdbg.model import EntryPoint, FoundBy, Kernel, Registers, Segments, Snapshot, Unavailable
from pvhdbg.record import dataclass, field, replace
from pvhdbg.targets.target import RESET_RIP, Leave, Target, steppable

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.kernel.location import KernelLocation, Marks
    from pvhdbg.kernel.symbols import Symbols
    from pvhdbg.machine.lease import Lessor
    from pvhdbg.machine.placement import Placement
    from pvhdbg.machine.travel import Traveller
    from pvhdbg.targets.recorded import RecordedTarget

_AT_THE_ENTRY = SafeText("shown as it was at the entry: the machine has run since")


@dataclass
class Settings:
    """The settings of `set spec` and `set strict`: the revision to judge by, and whether advice and deviations count."""

    spec: str = "v1"
    strict: bool = False


@dataclass
class _Stop:
    """What was read of the machine since it last stopped, in the order of use."""

    registers: Registers | None = None
    segments: Segments | None = None
    boot: BootState | None = None
    placement: Placement | None = None
    doubts: tuple[SafeText, ...] = ()


@dataclass
class Session:
    """One machine. `target` may be a recorded one; `evaluate` is the front end's own evaluator of address expressions."""

    target: Target
    image: KernelImage | None = None
    settings: Settings = field(default_factory=Settings)
    leave: Leave = Leave.STOPPED  # how the machine is left at the end
    warnings: list[SafeText] = field(default_factory=list)
    progress: Callable[[str], None] = lambda _: None
    evaluate: Callable[[str], int] | None = None
    naming: str = "name the kernel: --kernel ELF"  # how the user of this front end names the kernel file
    confirm: Confirm = field(default_factory=Confirm)
    lessor: Lessor | None = None  # how the front end leases its machine; None: `target` is used directly
    traveller: Traveller | None = None  # how the front end replaces its machine by another of the same boot, where it started QEMU
    starting: str = "start the kernel here, with: pvhdbg repl KERNEL"  # how the user of this front end gets such a machine
    number: int | None = None  # of the next instruction in the boot by the deterministic clock; None: not known

    def __post_init__(self) -> None:
        self._now = _Stop()
        self.moves = 0  # how often the machine has run, or another one took its place
        self._before: Registers | None = None
        self._shown: Registers | None = None  # of the last stop that the user saw, of the one before it, and `moves` there
        self._shown_before: Registers | None = None
        self._shown_at = 0
        self._hand_off: BootState | None = None
        self._hand_off_doubts: tuple[SafeText, ...] = ()
        self._entry: EntryPoint | None = None
        self._layout: BootState | None = None  # a state with the machine's memory layout, of any stop
        self._named = self.image  # by the user
        self._symbols: Symbols | None = None
        self._marks: Marks | None = None
        self.kernel_location: KernelLocation | None = None  # where the kernel was found last

    # --- the stop -------------------------------------------------------------------------------------------------

    def resumed(self) -> None:
        """The machine has run, or is about to: the current state becomes the previous stop."""
        if self._now.registers is not None:
            self._before = self._now.registers
        self._now, self.number = _Stop(), None
        self.moves += 1

    def stopped(self) -> None:
        """It stopped again. Reads registers only, so that the next stop can be compared with this one."""
        self.registers()

    def shown(self) -> None:
        """The user sees this stop: the next one is compared with it, whatever stops a command makes on its way."""
        if self._shown is None or self._shown_at != self.moves:
            self._shown_before, self._shown, self._shown_at = self._shown, self.registers(), self.moves

    def changed(self) -> None:
        """The machine was written to without the session: memory that was read is no longer valid."""
        self._now, self.number = _Stop(), None

    def replace_target(self, target: Target) -> None:
        """Switch to another machine (the same one booted again): nothing of the old one is kept."""
        self.target = target
        self.forget()

    def travelled(self, target: Target, number: int | None) -> None:
        """Switch to another machine at another place of the same boot: its hand-off is the same."""
        self._before = self._now.registers or self._before
        self.target, self.number, self._now = target, number, _Stop()
        self.kernel_location = None
        self.moves += 1

    def forget(self) -> None:
        """The machine was reset: the last stop and the hand-off are no longer valid."""
        self.number = None
        self.moves += 1
        self._shown = self._shown_before = None
        self._now, self._before, self._hand_off, self._entry, self._layout = _Stop(), None, None, None, None
        self.kernel_location = None

    def registers(self) -> Registers:
        """The registers as they are now."""
        found = self.target.read_registers()
        if self._now.registers is None or self._now.registers.values != found.values:
            self._now = _Stop(found)
        return found

    def segments(self) -> Segments:
        """The current hidden segment state; nothing else is read."""
        self.registers()
        if self._now.boot is not None:
            return self._now.boot.segments
        if self._now.segments is None:
            self._now.segments = self._ask_segments()
        return self._now.segments

    def _ask_segments(self) -> Segments:
        if not self.target.capabilities.monitor:
            return self.boot().segments
        from pvhdbg.decode import qemu_monitor

        return qemu_monitor.cpu_state(self.target.monitor("info registers")).segments

    def cpu(self) -> tuple[Registers, Segments]:
        """The registers and segments by which the mode is known: those that were followed from the entry, where the stub shows none."""
        registers = self.registers()
        stub = steppable(self.target) if registers.get("cr0") is None else None
        control = None if stub is None else stub.followed()
        return (registers, self.segments()) if control is None else (control.beside(registers), control.segments())

    @property
    def before(self) -> Registers | None:
        """The registers at the last stop that was shown, or where the front end does not say which those are, that was read."""
        if self._shown is None:
            return self._before
        return self._shown_before if self._shown_at == self.moves else self._shown

    def boot(self) -> BootState:
        """The machine's current state, decoded; at its entry that is the hand-off."""
        registers = self.registers()
        known = self._now.boot
        if known is None or known.revision.name != self.settings.spec:
            known = self._decode()
            self._now.boot, self._now.doubts = known, self._doubts(known)
            self._layout = known
            self._open_found()
            if known.snapshot.entry.is_entry:
                self._at_entry(known)
            elif registers.get("rip") == RESET_RIP:
                self._hand_off = None
        return known

    def _decode(self) -> BootState:
        if (recorded := self._recorded()) is not None:
            return decoded(recorded, recorded.snapshot, self.settings.spec)
        plan = self.plan()
        entry = stands_at(self.target, plan, self._entry)
        return decoded(self.target, observe_machine(self.target, plan, entry, self.confirm, timestamp()), self.settings.spec)

    def hand_off(self, here: bool = False) -> BootState:
        """The hand-off at the entry, if this session captured it; else, or with `here`, the current state."""
        boot = self.boot()
        if here or boot.snapshot.entry.is_entry or self._hand_off is None:
            return boot
        if self._hand_off.revision.name != self.settings.spec:
            kept = self._hand_off.snapshot  # memory has changed since: what was not read then stays unknown
            self._hand_off = decoded(_recording().RecordedTarget(kept, "the entry"), kept, self.settings.spec)
        return self._hand_off

    @property
    def known_entry(self) -> EntryPoint | None:
        """The entry at which this session captured the machine, if it did."""
        return self._entry

    @contextmanager
    def judging_by(self, spec: str | None) -> Iterator[None]:
        """Another revision for a while; None changes nothing. Raises BadInput."""
        before = self.settings
        if spec is not None:
            self.set_spec(spec)
        try:
            yield
        finally:
            self.settings = before

    def adopt(self, boot: BootState) -> None:
        """Use a capture of the machine's current state."""
        self._now, self._layout = _Stop(boot.registers, boot=boot), boot
        self._open_found()
        if boot.snapshot.entry.is_entry:
            self._at_entry(boot)
            self.number = 0

    def arrived(self, boot: BootState) -> None:
        """Use a capture of the entry that this session has run to."""
        self.adopt(boot)
        self._before = self._shown = self._shown_before = None  # a state before the boot cannot be compared
        self._now.doubts = self._hand_off_doubts = self._doubts(boot)

    def _at_entry(self, boot: BootState) -> None:
        self._hand_off, self._hand_off_doubts, self._entry = boot, self._now.doubts, boot.snapshot.entry

    def _recorded(self) -> RecordedTarget | None:
        """The target, where it is only read."""
        if self.target.capabilities.control:
            return None
        return self.target if isinstance(self.target, _recording().RecordedTarget) else None

    def _doubts(self, boot: BootState) -> tuple[SafeText, ...]:
        if self._recorded() is not None:
            return ()
        return tuple(doubts(self.target, self.image, boot, self.image.path if self.image is not None else ""))

    def doubts(self, boot: BootState) -> tuple[SafeText, ...]:
        """Warnings about how `boot` was obtained, for the head of a report."""
        if boot is self._now.boot:
            return (*self.warnings, *self._now.doubts)
        return (*self.warnings, *self._hand_off_doubts, _AT_THE_ENTRY)

    def use_image(self, image: KernelImage | None) -> None:
        """Another kernel file, or none: what was decoded with the old one is decoded again."""
        self._take(image)
        self._named, self._now = image, _Stop(self._now.registers)

    @property
    def named(self) -> KernelImage | None:
        """The kernel that the user named; `image` may be one that was found to be loaded."""
        return self._named

    def _take(self, image: KernelImage | None) -> None:
        self.image, self._symbols = image, None
        self._marks = self.kernel_location = None

    def _open_found(self) -> None:
        """Use the file that the monitor named, if memory holds it, as if the user had named it."""
        if self.image is None and (found := self.confirm.image()) is not None:
            self._take(found)

    # --- the kernel -----------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Kernel | None:
        """What is known of the kernel's file; None while there is none."""
        return self.image.kernel() if self.image is not None else None

    @property
    def file(self) -> KernelFile | None:
        """The kernel file for the rules: the one that was named, or the one that was found to be loaded."""
        return self.image.file().without_data() if self.image is not None else self.confirm.file

    @property
    def symbols(self) -> Symbols | None:
        """Its symbols; None without a file, or when it has none."""
        if self._symbols is None and self.image is not None:
            self._symbols = self.image.symbols()
        return self._symbols or None

    @property
    def marks(self) -> Marks | None:
        """Its location by its bytes in memory; None without a file."""
        if self._marks is None and self.image is not None:
            from pvhdbg.kernel.location import Marks

            self._marks = Marks(self.image.data, self.image.elf)
        return self._marks

    def symbols_like(self, prefix: str, most: int) -> list[str]:
        """The first symbols in order that begin with `prefix`."""
        return self.symbols.first(prefix, most) if self.symbols is not None else []

    def plan(self) -> Plan:
        """The plan for reaching the entry, as far as the session knows it."""
        return Plan(self.settings.spec, kernel=self.kernel, image=self.image, symbol=self._entry_symbol())

    def _entry_symbol(self) -> str | None:
        kernel = self.kernel
        symbols = self.symbols if kernel is not None and kernel.entry is not None else None
        return symbols.label(kernel.entry) if symbols is not None and kernel is not None and kernel.entry is not None else None

    @property
    def placement(self) -> Placement:
        """The kernel's placement at this stop: its load bias and KASLR offset, and which of its addresses are valid."""
        from pvhdbg.machine.placement import find

        self.registers()
        if self._now.placement is None:
            self._now.placement = find(self)
        return self._now.placement

    def find_entry(self) -> EntryPoint | None:
        """The machine's entry, as far as its current state shows it; None if it does not."""
        if self._entry is not None:
            return self._entry
        if self._recorded() is not None:
            return None  # it was not captured at an entry
        return find_entry(self.target, self.plan())

    # --- memory and addresses -------------------------------------------------------------------------------------

    def physical(self, address: int, size: int) -> bytes:
        """Guest-physical memory, without paging. Raises MemoryUnreadable, also where the machine has none."""
        try:
            known = self._now.boot or self._layout
            there = known is not None and known.readable(address, size)
            if known is None or (not there and known is not self._now.boot):
                there = self.boot().readable(address, size)  # it may have memory there by now
        except Unavailable:
            there = True  # the layout is not known: the stub decides
        if not there:
            raise MemoryUnreadable(address, size, "the machine has no RAM or ROM there")
        return self.target.read_memory(address, size)

    def linear(self, address: int, size: int) -> bytes:
        """Memory at a linear address, through the machine's own page tables. Raises MemoryUnreadable."""
        registers, data = self.registers(), b""
        if registers.get("cr0") is None and self.target.capabilities.control:
            return self.target.read_memory(address, size)  # such a stub translates by itself
        while len(data) < size:
            at = address + len(data)
            walk = translate(registers, at, self.physical)
            if walk.physical is None:
                raise MemoryUnreadable(at, size - len(data), f"the page tables do not map it: {walk.problem}")
            step = min(size - len(data), walk.page_size - walk.physical % walk.page_size)
            data += self.physical(walk.physical, step)
        return data

    def address(self, text: str, *, physical: bool = False) -> int:
        """The linear (or physical) address that `text` means: numbers, $registers, symbols with + and -. Raises BadInput."""
        from pvhdbg.machine.expression import evaluate

        return evaluate(self, text, physical=physical)

    def name_of(self, address: int) -> SafeText | None:
        """`symbol+0x12` for a linear address in the current state, escaped for display, or None."""
        found = self.placement.name_of(address)
        return None if found is None else safe(found)

    # --- permissions and settings ---------------------------------------------------------------------------------

    def needs_control(self, command: str) -> None:
        """Raises TargetError where the machine cannot be run."""
        if not self.target.capabilities.control:
            raise TargetError(
                f"{command} needs a machine, and {self.target.name} is a recording", "boot it again: pvhdbg run KERNEL"
            )

    def set_spec(self, name: str) -> None:
        """Judge by another revision from here on. Raises BadInput."""
        from pvhdbg.spec.revisions import REVISIONS

        if name not in REVISIONS:
            raise BadInput(f"{name!r} is not a revision", f"choose one of {', '.join(REVISIONS)}")
        self.settings = replace(self.settings, spec=name)


def _recording() -> ModuleType:
    """Imported for recordings only: it needs JSON."""
    from pvhdbg.targets import recorded

    return recorded


def timestamp() -> str:
    """The current time for a capture: ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


ENDS = "a VMM with such a stub (Firecracker, Cloud Hypervisor) ends when the debugger leaves, whatever --leave says"


def doubts(target: Target, image: KernelImage | None, boot: BootState, named: str) -> list[SafeText]:
    """Warnings about the kernel file for a report; `named` is the path as the user wrote it."""
    found = []
    hidden = boot.snapshot.memory.hidden_by is not None
    if image is not None and not hidden and not _is_there(target, image, boot):
        found.append(f"{named} differs from the guest's memory: another kernel, or a changed one, was loaded")
    if boot.snapshot.entry.is_entry and boot.registers.get("cr0") is None:
        found.append("cr0 was not observed: protected mode with paging off is assumed; rules that depend on it are undecided")
        if not target.capabilities.monitor and target.capabilities.control:
            found.append(ENDS)
    if hidden:
        found.append(
            f"{OUTSIDE}: the hypervisor may force bits, and the guest's memory was not read (attach before this entry with --nested); "
            "affected rules are undecided"
        )
    elif virtualised(boot.registers):
        found.append("EFER.SVME is set: either a hypervisor runs here, or its guest, whose memory is elsewhere")
    if image is None and (boot.snapshot.kernel is None or boot.snapshot.kernel.source == "info roms"):
        found.append("the kernel file was not seen: rules that need it are undecided; name it with --kernel")
    return list(map(safe, found))


def _entered_outside(snapshot: Snapshot) -> bool:
    """Whether fw_cfg's entry is at none of the kernel's addresses, and memory differs from the file."""
    entry, loads = snapshot.entry, snapshot.kernel.loads if snapshot.kernel is not None else ()
    if entry.found_by is not FoundBy.FW_CFG or entry.address is None or snapshot.image is None:
        return False
    return bool(snapshot.image.differences) and not any(load.start <= entry.address < load.end for load in loads)


def _is_there(target: Target, image: KernelImage, boot: BootState) -> bool:
    """Whether the machine has that kernel: at its entry byte for byte; later by its code, wherever it was moved."""
    if boot.snapshot.image is not None:
        return not (boot.snapshot.image.another or _entered_outside(boot.snapshot))
    if image.is_loaded(target.read_memory):
        return True
    if boot.snapshot.entry.is_entry:
        return False
    session = Session(target, image)
    session.adopt(boot)
    return session.placement.found is True
