"""What a mutation is: one declaration of something that the ABI leaves open, and of how to change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.notes import Note
from pvhdbg.rules.catalogue import find
from pvhdbg.spec.documents import Clause
from pvhdbg.spec.revisions import SpecName
from pvhdbg.stress.handover import Handover, Place, handover
from pvhdbg.stress.trampoline import Trampoline


class Aspect(Enum):
    """What a mutation changes. A set of mutations holds one of each at most: two would undo each other."""

    REGISTERS = "registers"
    FLAGS = "flags"
    STACK = "the stack pointer"
    CR2 = "cr2"
    TABLES = "GDT and selectors"
    IDT = "the IDT"
    MEMORY = "memory outside of the hand-off"
    PLACE = "the place of the hand-off"
    COMMAND_LINE = "the command line"
    MODULES = "the modules"
    MEMORY_MAP = "the memory map"
    VERSION = "the version of start_info"
    RSDP = "the RSDP"
    INFO_FLAGS = "the flags of start_info"
    INTERRUPT = "interrupts"
    CPU = "the CPU model"


@dataclass
class ChangedHandover:
    """A hand-off that mutations change before it is written. `asked` says that the user named the mutation; `notes` are the kernel's.

    `fill` is the 32-bit word for all RAM outside of kernel and hand-off; `forget_gdt` overwrites the GDT after its use.
    """

    boot: BootState
    info: Handover
    asked: bool = False
    notes: tuple[Note, ...] = ()
    place: Place = Place.STAY
    registers: dict[str, int] = field(default_factory=dict)
    trampoline: Trampoline = field(default_factory=Trampoline)
    forget_gdt: bool = False
    fill: int | None = None

    @classmethod
    def of(cls, boot: BootState, asked: bool = False, notes: tuple[Note, ...] = ()) -> ChangedHandover:
        """A draft that changes nothing. Raises NotTried where the hand-off cannot be read whole."""
        return cls(boot, handover(boot), asked, notes)


@dataclass(frozen=True)
class Mutation:
    """One mutation. `open_by` is the rule whose clause leaves it open, `done_by` names VMMs that really do it.

    `change` changes a draft, and raises NotTried where it would change nothing or this machine cannot have it. `cpu` is what is
    appended to QEMU's -cpu. `spec` is the revision that the mutated hand-off conforms to.
    """

    id: str
    title: str
    aspect: Aspect
    open_by: str
    change: Callable[[ChangedHandover], None] = lambda _: None
    done_by: str = ""
    cpu: str = ""
    spec: SpecName = "v1"

    @property
    def clause(self) -> Clause:
        """The passage that leaves it open."""
        return find(self.open_by).clause
