"""The steps of a boot, found in the stream of events without knowledge of the kernel: each once, when it first happens.

Engines that see states show the changes of a system instruction. Where an engine sees addresses only, code and mode decide:
then it is known that a table was loaded, but not its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import NOTHING, SafeText
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.spec.x86 import CR0, CR4, EFER
from pvhdbg.tracing.event import Batch, Event
from pvhdbg.tracing.opcodes import Effect, effect_of

# In the order of most boots, each with its meaning.
TITLES: Mapping[str, str] = {
    "entry": "the first instruction",
    "lgdt": "a GDT of the guest's own",
    "segments": "data segments reloaded",
    "cr4.pae": "64-bit page table entries",
    "cr3": "page tables",
    "efer.lme": "long mode asked for",
    "cr0.pg": "paging on",
    "efer.lma": "long mode on (compatibility)",
    "far jump": "CS reloaded",
    "64-bit": "the first 64-bit instruction",
    "higher half": "the first instruction at its virtual address",
    "idt": "an IDT of the guest's own",
}
_MAIN, _LATE = "start_kernel", frozenset({"rest_init"})  # rest_init runs millions of instructions after start_kernel

_BITS = (
    ("cr4", CR4["PAE"], "cr4.pae"),
    ("efer", EFER["LME"], "efer.lme"),
    ("cr0", CR0["PG"], "cr0.pg"),
    ("efer", EFER["LMA"], "efer.lma"),
)
_FAR_JUMPS = (Effect.FAR_JUMP, Effect.FAR_RETURN, Effect.IRET)
_BY_CODE = {
    Effect.LGDT: "lgdt",
    Effect.LIDT: "idt",
    Effect.LOAD_DS: "segments",
    **dict.fromkeys(_FAR_JUMPS, "far jump"),
}
_HIGHER_HALF = 1 << 63
HIGHER_HALF_32 = 0xC0000000


@dataclass(frozen=True)
class Milestone:
    """`name` is a key of TITLES, a symbol, or serial:REGEX; `seq` counts the instructions before it, from the beginning of the trace.

    A line on the serial port has no address: `pc` is None, `detail` is the line, and between `seq` and `until` instructions had
    begun when it was complete.
    """

    name: str
    seq: int
    pc: int | None
    detail: SafeText = NOTHING
    mode: Mode | None = None  # of the instruction; None where it was not kept
    until: int | None = None
    counted: bool = True  # False: `seq` is where the counting ended, before the milestone

    @property
    def title(self) -> str:
        if self.pc is None:
            return "the guest wrote it"
        return TITLES.get(self.name, "")


class Finder:
    """Feed it batches in order. `watched` names symbols by linear address; `start` is the register state at the beginning."""

    def __init__(self, watched: Mapping[int, str] | None = None, start: Mapping[str, int] | None = None) -> None:
        self._watched = dict(watched or {})
        self._found: set[str] = {name for register, bit, name in _BITS if (start or {}).get(register, 0) >> bit & 1}
        self._system: dict[bytes, str] = {}  # code of milestones so far
        self._known: set[bytes] = set()

    @property
    def settled(self) -> bool:
        """Whether only symbols are left: all milestones with a title were found, or Linux is in its own main function."""
        return _MAIN in self._found or (self._found >= TITLES.keys() and _MAIN not in self._watched.values())

    @property
    def complete(self) -> bool:
        """Whether the remaining milestones need no instruction count."""
        return self.settled and _LATE.issuperset(self._watched.values())

    @property
    def left(self) -> Mapping[int, str]:
        """The symbols that may still be reached, by address. Linux reaches its own in their order, and each once."""
        over = max((index for index, name in enumerate(MILESTONES) if name in self._found), default=-1)
        return {address: name for address, name in self._watched.items() if name not in MILESTONES[: over + 1]}

    def feed(self, batch: Batch) -> list[Milestone]:
        """The milestones in a batch, in order."""
        if not len(batch):
            return []
        found: list[Milestone] = []
        if "entry" not in self._found:
            self._add(found, "entry", batch.event(0))
        for index in sorted({*batch.system, *self._by_code(batch), *self._by_address(batch)}):
            self._look(found, batch.event(index))
        return found

    def _add(self, found: list[Milestone], name: str, event: Event, detail: SafeText = NOTHING) -> None:
        if name not in self._found:
            self._found.add(name)
            found.append(Milestone(name, event.seq, event.pc, detail, event.mode))

    def _look(self, found: list[Milestone], event: Event) -> None:
        changes = event.changes or {}
        effect = effect_of(event.code, event.mode.bits)
        if effect is Effect.LGDT or "gdt_base" in changes:
            self._add(found, "lgdt", event, _table(changes, "gdt"))
        if effect is Effect.LOAD_DS or "ds_flags" in changes:
            self._add(found, "segments", event, _selector(changes, "ds"))
        if "cr3" in changes:
            self._add(found, "cr3", event, SafeText(f"cr3 {changes['cr3']:#x}"))
        for register, bit, name in _BITS:
            if changes.get(register, 0) >> bit & 1:
                self._add(found, name, event, SafeText(f"{register} {changes[register]:#x}"))
        if event.mode is Mode.COMPATIBILITY and event.changes is None:
            self._add(found, "efer.lma", event)
        if effect in _FAR_JUMPS or "cs" in changes:
            self._add(found, "far jump", event, _selector(changes, "cs"))
        if event.mode is Mode.LONG:
            self._add(found, "64-bit", event)
        if _is_high(event):
            self._add(found, "higher half", event)
        if effect is Effect.LIDT or "idt_base" in changes or "idt_limit" in changes:
            self._add(found, "idt", event, _table(changes, "idt"))
        symbol = self._watched.get(event.pc)
        if symbol is not None:
            self._watched = {address: name for address, name in self._watched.items() if name != symbol}
            self._add(found, symbol, event)

    def _by_code(self, batch: Batch) -> Iterable[int]:
        """The indexes of instructions whose code is that of a milestone not found yet."""
        new = set(batch.codes) - self._known
        if new:
            self._known |= new
            for code, mode in zip(batch.codes, batch.modes, strict=True):
                if code in new:
                    new.discard(code)
                    name = _BY_CODE.get(effect_of(code, mode.bits))
                    if name:
                        self._system[code] = name
        wanted = {code for code, name in self._system.items() if name not in self._found}
        return [index for index, code in enumerate(batch.codes) if code in wanted] if wanted else ()

    def _by_address(self, batch: Batch) -> Iterable[int]:
        if "64-bit" not in self._found and Mode.LONG in batch.modes:
            yield batch.modes.index(Mode.LONG)
        if "efer.lma" not in self._found and Mode.COMPATIBILITY in batch.modes:
            yield batch.modes.index(Mode.COMPATIBILITY)
        if "higher half" not in self._found and max(batch.pcs) >= HIGHER_HALF_32:
            yield from [next((index for index in range(len(batch)) if _is_high(batch.event(index))), 0)]
        for address in self._watched.keys() & set(batch.pcs) if self._watched else ():
            yield batch.pcs.index(address)


def _is_high(event: Event) -> bool:
    """32-bit kernels have their higher half at 3 GiB, once paging is on; below, such an address is a mistake, or hardware."""
    return (
        event.pc >= _HIGHER_HALF if event.mode is Mode.LONG else event.mode in (Mode.PAGED, Mode.PAE) and event.pc >= HIGHER_HALF_32
    )


def _table(changes: Mapping[str, int], name: str) -> SafeText:
    return SafeText(
        ", ".join(f"{part} {changes[f'{name}_{part}']:#x}" for part in ("base", "limit") if f"{name}_{part}" in changes)
    )


def _selector(changes: Mapping[str, int], name: str) -> SafeText:
    return SafeText(f"{name} {changes[name]:#x}") if name in changes else NOTHING
