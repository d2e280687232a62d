"""The requirements of Draft A (2015) where they differ from the shipped ABI. Judged only with `--spec draft-a`."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.text import quoted
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import MachineRule, Severity, Violation, rule
from pvhdbg.rules.examples import START_INFO, at_draft_a_entry
from pvhdbg.rules.segments import not_data, not_flat
from pvhdbg.spec.documents import DRAFT_A_CR0, DRAFT_A_DATA, DRAFT_A_MAIL, Clause
from pvhdbg.spec.revisions import ONLY_DRAFT_A
from pvhdbg.spec.start_info import DRAFT_A_ALTERNATIVES, DRAFT_A_EAX, DRAFT_A_MAGIC_PREFIX
from pvhdbg.spec.x86 import CR0

MUST = Severity.MUST


@rule(
    "DA-ESI",
    "esi points at the start_info page",
    clause=Clause(DRAFT_A_MAIL, "esi: contains the physical memory address were the loader has placed the start_info page."),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry(64), at_draft_a_entry(32)],
    fails=[at_draft_a_entry(esi=0), at_draft_a_entry(esi=0xB0000000)],
)
def da_esi(boot: BootState) -> Iterator[Violation]:
    """The draft used esi as the Linux 32-bit protocol does; the shipped ABI moved to ebx."""
    value = boot.registers["esi"]
    if not value:
        yield Violation("esi", "the address of start_info", "0x0")
    elif not boot.readable(value, len(DRAFT_A_MAGIC_PREFIX)):
        yield Violation("esi", "the address of start_info", f"{value:#x}, where the machine has no RAM")


@rule(
    "DA-EAX",
    "eax holds 0xff6bc1e2",
    clause=Clause(DRAFT_A_MAIL, "eax: contains the magic value 0xFF6BC1E2."),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry(64), at_draft_a_entry(32)],
    fails=[at_draft_a_entry(eax=0), *(at_draft_a_entry(eax=value) for value in DRAFT_A_ALTERNATIVES)],
)
def da_eax(boot: BootState) -> Iterator[Violation]:
    """ "A completely random value", as its author said; the thread discussed two others, and the shipped ABI put a magic
    into memory instead."""
    value = boot.registers["eax"]
    if value != DRAFT_A_EAX:
        alternative = DRAFT_A_ALTERNATIVES.get(value)
        yield Violation("eax", f"{DRAFT_A_EAX:#x}", f"{value:#x}" + (f": {alternative}" if alternative else ""))


@rule(
    "DA-MAGIC",
    "the structure begins with “xen-”",
    clause=Clause(DRAFT_A_MAIL, 'char magic[32]; /* "xen-<version>-<platform>". */'),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry(64), at_draft_a_entry(32)],
    fails=[at_draft_a_entry(memory={START_INFO: b"nex-"})],
)
def da_magic(boot: BootState) -> Iterator[Violation]:
    """The string names the Xen version and the platform. Without it the page is not a start_info."""
    esi = boot.registers["esi"]
    if not esi or not boot.readable(esi, len(DRAFT_A_MAGIC_PREFIX)):
        raise Unavailable(f"no start_info: esi = {esi:#x} points to no RAM")
    found = boot.draft_a.raw.magic[: len(DRAFT_A_MAGIC_PREFIX)]
    if found != DRAFT_A_MAGIC_PREFIX:
        yield Violation(f"[{esi:#x}]", quoted(DRAFT_A_MAGIC_PREFIX), quoted(found))


@rule(
    "DA-CR0",
    "cr0.PE is set and cr0.PG is clear",
    clause=Clause(DRAFT_A_MAIL, DRAFT_A_CR0),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry(cr0=0x60000011)],
    fails=[at_draft_a_entry(cr0=0x10), at_draft_a_entry(cr0=0x80000011)],
)
def da_cr0(boot: BootState) -> Iterator[Violation]:
    """The draft left the other bits undefined. A reply on the list asked for an environment that is as defined as possible."""
    value = boot.registers["cr0"]
    for name, want in (("PE", 1), ("PG", 0)):
        if value >> CR0[name] & 1 != want:
            yield Violation(f"cr0.{name}", str(want), f"{1 - want} (cr0 = {value:#x})")


@rule(
    "DA-FSGS",
    "fs and gs are flat read/write data segments",
    clause=Clause(DRAFT_A_MAIL, DRAFT_A_DATA),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry()],
    fails=[at_draft_a_entry(fs_flags=0), at_draft_a_entry(gs_limit=0xFFFF)],
)  # fmt: skip
def da_fsgs(boot: BootState) -> Iterator[Violation]:
    """Copied from multiboot. Both sides of the thread agreed to drop fs and gs, and the shipped text dropped them."""
    for name in ("fs", "gs"):
        yield from not_flat(name, boot.segments[name])
        yield from not_data(name, boot.segments[name])


@rule(
    "DA-A20",
    "the A20 gate is enabled",
    clause=Clause(DRAFT_A_MAIL, "A20 gate: must be enabled."),
    severity=MUST,
    revisions=ONLY_DRAFT_A,
    passes=[at_draft_a_entry()],
    fails=[at_draft_a_entry(a20=False)],
)
def da_a20(boot: BootState) -> Iterator[Violation]:
    """With the gate off, each odd megabyte is an alias of the even one below it. "Irrelevant on other than physical machines"."""
    if boot.snapshot.a20 is None:
        raise Unavailable("the A20 gate was not observed")
    if not boot.snapshot.a20:
        yield Violation("A20", "enabled", "disabled")


CHAPTER: tuple[MachineRule, ...] = (da_esi, da_eax, da_magic, da_cr0, da_fsgs, da_a20)
