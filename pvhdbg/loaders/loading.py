"""The answer of a simulated loader: where and how it would enter the kernel, or how it refuses, with the reasons.

A value that depends on the run (command line, initrd, RAM) is computed from `BootParameters`, and is None if `BootParameters` does not say.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.record import NamedTuple, dataclass, field
from pvhdbg.spec.elf_notes import PHYS32_ENTRY


class EntryProtocol(str, Enum):
    """How a loader enters a kernel; the values are those of JSON: pvh, and the keys of spec.protocols for the others."""

    PVH = "pvh"
    MULTIBOOT1 = "multiboot1"
    LINUX16 = "linux16"
    LINUX32 = "linux32"
    LINUX64 = "linux64"

    def __str__(self) -> str:
        return self.value

    @property
    def bits(self) -> int:
        """The CPU's mode at the entry."""
        return _MODE_BITS.get(self, 32)


_MODE_BITS = {EntryProtocol.LINUX16: 16, EntryProtocol.LINUX64: 64}
Entered = tuple[EntryProtocol, int | None]  # the protocol, and the entry; None where the run decides


class Quirk(NamedTuple):
    """Behaviour of this loader that differs from others, or that decided the outcome; `source` is file and function."""

    text: str
    source: str


class FwCfgItem(NamedTuple):
    """An item of QEMU's fw_cfg (names without FW_CFG_): its number or bytes, None if only the run decides; size in bytes."""

    name: str
    value: int | bytes | None
    size: int | None = None


@dataclass(frozen=True)
class BootParameters:
    """The parameters of a run in addition to the file. Sizes are in bytes.

    `memory` is the machine's RAM. Only QEMU uses `machine` ("pc", "q35", "microvm"; the last adds to the command line), the
    paths, which it copies into multiboot's command line, and (the RFC) `device_memory`: base and size of the hotplug area.
    """

    command_line: bytes = b""
    initrd_size: int = 0
    memory: int | None = None
    machine: str | None = None
    kernel_path: bytes | None = None
    initrd_path: bytes | None = None
    device_memory: tuple[int, int] | None = None


NOTHING_SAID = BootParameters()


@dataclass(frozen=True)
class Loading:
    """One loader's answer. Exactly one of `protocol`, `refusal`, `undefined` and `crash` is set.

    `entry` is the physical address of the first instruction, `bits` the CPU's mode there. `refusal` is the VMM's own message
    with its values; `undefined` says why the file alone does not decide; `crash` says why the VMM itself dies or hangs.
    """

    loader: str
    protocol: EntryProtocol | None = None
    entry: int | None = None
    refusal: str | None = None
    undefined: str | None = None
    crash: str | None = None
    quirks: tuple[Quirk, ...] = ()
    fw_cfg: tuple[FwCfgItem, ...] = ()

    @property
    def bits(self) -> int | None:
        return None if self.protocol is None else self.protocol.bits

    def ends_as(self, other: Loading) -> bool:
        """Whether both enter the kernel at the same place, or refuse it, or die, in the same words."""
        mine, its = ((one.protocol, one.entry, one.refusal, one.undefined, one.crash) for one in (self, other))
        return mine == its


# --- the parts of a simulator ---------------------------------------------------------------------------------------


class Ended(Exception):
    """The loader stops here. `words` becomes the field of `Loading` that the subclass is named after."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words

    def under(self, kind: type[Ended]) -> str | None:
        return self.words if isinstance(self, kind) else None


class Refused(Ended):
    """Loading.refusal"""


class Undefined(Ended):
    """Loading.undefined"""


class Crashed(Ended):
    """Loading.crash"""


@dataclass
class Attempt:
    """The state of one simulation: its input, and what the simulator has found."""

    kernel: KernelFile
    boot: BootParameters
    quirks: list[Quirk] = field(default_factory=list)
    fw_cfg: list[FwCfgItem] = field(default_factory=list)

    def remark(self, text: str, source: str) -> None:
        """Note a quirk, once."""
        quirk = Quirk(text, source)
        if quirk not in self.quirks:
            self.quirks.append(quirk)

    def remark_sections(self, source: str) -> None:
        """Note that this loader only reads PT_NOTEs, if a section has the note."""
        if any(note.type == PHYS32_ENTRY for note in self.kernel.section_notes):
            self.remark("the note is in a section that no PT_NOTE covers, and sections are not searched", source)

    def remark_entry(self, entry: int, source: str) -> None:
        """Note an entry that lies in no segment, for a loader that does not check it."""
        if not any(load.p_paddr <= entry < load.p_paddr + load.p_memsz for load in self.kernel.elf.loads):
            self.remark(f"the entry {entry:#x} lies in no PT_LOAD, which is not checked", source)

    def remark_padding(self, rule: str, source: str) -> None:
        """Note by what `rule` the loader pads notes, if a PT_NOTE's p_align makes loaders differ."""
        for span in self.kernel.elf.note_spans:
            if span.align not in (0, 1, 4):
                self.remark(
                    f"owner and descriptor are padded {rule} (program header {span.holder} has p_align {span.align})", source
                )


class Loader(NamedTuple):
    """A loader: its `name` on the command line, its `title` in text, the source file that it follows, and its simulator.

    The simulator returns protocol and entry, or raises `Ended`. `before` is the same loader in earlier versions, which is heard
    where it does otherwise.
    """

    name: str
    title: str
    source: str
    enter: Callable[[Attempt], Entered]
    before: Loader | None = None

    def answers(self, kernel: KernelFile, boot: BootParameters = NOTHING_SAID) -> tuple[Loading, ...]:
        """What it would do with this file; where earlier versions do otherwise, what they do, too. Never raises."""
        loading = self.load(kernel, boot)
        earlier = () if self.before is None else self.before.answers(kernel, boot)
        return (loading, *(one for one in earlier if not one.ends_as(loading)))

    def load(self, kernel: KernelFile, boot: BootParameters = NOTHING_SAID) -> Loading:
        """What the loader would do with this file. Never raises."""
        attempt = Attempt(kernel, boot)
        try:
            protocol, entry = self.enter(attempt)
        except Ended as end:
            return Loading(
                self.name,
                refusal=end.under(Refused),
                undefined=end.under(Undefined),
                crash=end.under(Crashed),
                quirks=tuple(attempt.quirks),
            )
        return Loading(self.name, protocol, entry, quirks=tuple(attempt.quirks), fw_cfg=tuple(attempt.fw_cfg))
