"""Machine state at the entry: control registers, eflags, and the registers that the text leaves unspecified (pvh.pandoc)."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import BootState, looked_at
from pvhdbg.decode.cpu_mode import OUTSIDE, virtualised
from pvhdbg.model import FoundBy, Kernel, Unavailable
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import ENTRY, at_entry
from pvhdbg.spec.documents import DRAFT_A_CR0, DRAFT_A_EFLAGS, INTEL_SDM, PVH_PANDOC, QBOOT, START_INFO_H, Clause
from pvhdbg.spec.revisions import ALL, SHIPPED
from pvhdbg.spec.start_info import START_MAGIC
from pvhdbg.spec.x86 import CR0, CR4, EFLAGS, REGISTER_BITS, bit_names

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO


_FORCED = OUTSIDE + ", and {} may be the hypervisor's own"
NO_ENTRY = "the kernel's file has no usable PHYS32_ENTRY note"


def _bit(boot: BootState, register: str, name: str, want: int) -> Iterator[Violation]:
    value = boot.registers[register]
    if value >> REGISTER_BITS[register][name] & 1 != want:
        yield Violation(f"{register}.{name}", str(want), f"{1 - want} ({register} = {value:#x})")


@rule(
    "PVH-EBX-SET",
    "ebx points at readable memory",
    clause=Clause(
        PVH_PANDOC, "ebx: contains the physical memory address where the loader has placed the boot start info structure"
    ),
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(ebx=0), at_entry(ebx=0xB0000000)],
)
def ebx_set(boot: BootState) -> Iterator[Violation]:
    """The guest learns everything about its machine through this pointer. A guest that trusts a null or stray pointer
    reads the interrupt vector table, or faults with no IDT loaded: a triple fault without a message."""
    ebx = boot.registers["ebx"]
    if ebx == 0:
        yield Violation("ebx", "the address of start_info", "0x0")
    elif not boot.readable(ebx, 4):
        yield Violation("ebx", "the address of start_info", f"{ebx:#x}, where the machine has no RAM")


@rule(
    "PVH-EBX-MAGIC",
    "start_info begins with the magic 0x336ec578",
    clause=Clause(START_INFO_H, "Contains the magic value 0x336ec578 (“xEn3” with the 0x80 bit of the “E” set)."),
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(magic=0), at_entry(magic=0x336EC500)],
)
def ebx_magic(boot: BootState) -> Iterator[Violation]:
    """Linux, Xen and FreeBSD halt without it. A partly correct magic was overwritten: QEMU's pvh.bin does that with a command
    line of 4128 characters or more (see SI-CMDLINE-LEN-QEMU)."""
    ebx = boot.registers["ebx"]
    if boot.magic_found:
        return
    if not boot.readable(ebx, 4):
        raise Unavailable(f"no start_info: ebx = {ebx:#x} points to no RAM")
    found = int.from_bytes(boot.snapshot.memory.read(ebx, 4), "little")
    cause = ""
    if boot.overrun_length is not None:
        cause = f": the command line of {boot.overrun_length} characters runs over it (SI-CMDLINE-LEN-QEMU)"
    yield Violation(f"[{ebx:#x}]", f"{START_MAGIC:#x}", f"{found:#010x}{cause}")


@rule(
    "PVH-EIP-NOTE",
    "eip is the address in the PHYS32_ENTRY note",
    clause=Clause(PVH_PANDOC, "The domain builder will load the kernel into the guest memory space and jump into the entry point "
                  "defined at XEN_ELFNOTE_PHYS32_ENTRY"),
    severity=MUST,
    passes=[at_entry()],
    fails=[at_entry(eip=ENTRY + 4), at_entry(kernel=Kernel(entry=ENTRY + 0x200000, relocatable=True))],
)  # fmt: skip
def eip_note(boot: BootState) -> Iterator[Violation]:
    """e_entry of the ELF header is for other loaders; a VMM that uses it enters 64-bit code in 32-bit mode. Only a
    kernel with a PHYS32_RELOC note may be entered elsewhere: its entry moves with its image."""
    if boot.snapshot.entry.found_by is FoundBy.OPTION:
        raise NotApplicable("the entry was named with --entry")
    kernel = boot.snapshot.kernel
    if kernel is None or kernel.entry is None:
        seen = kernel is not None and kernel.elf_class is not None
        raise Unavailable(NO_ENTRY if seen else "the kernel file was not seen; name it with --kernel")
    eip = boot.registers["rip"]
    if eip != kernel.entry:
        yield Violation("eip", f"{kernel.entry:#x}", f"{eip:#x}", SHOULD if kernel.relocatable else None)


@rule(
    "PVH-EIP-SYMBOL",
    "the entry is the start of a symbol",
    clause=Clause(PVH_PANDOC, "jump into the entry point defined at XEN_ELFNOTE_PHYS32_ENTRY"),
    severity=INFO,
    passes=[at_entry()],
    fails=[at_entry(symbol="pvh_start_xen+1"), at_entry(symbol="_text+0x850")],
)
def eip_symbol(boot: BootState) -> Iterator[Violation]:
    """Nothing demands it. But an entry that is written as a symbol is the start of one; an address that lies a few bytes behind
    is mostly a mistake in the note, and the CPU decodes another instruction there."""
    symbol = boot.snapshot.entry.symbol if boot.snapshot.entry.is_entry else None
    if symbol is None:
        raise NotApplicable("no symbol of the kernel is known for its entry")
    if "+" in symbol:
        yield Violation("entry", "the start of a symbol", symbol)


@rule(
    "PVH-CR0-PE",
    "cr0.PE is set",
    clause=Clause(PVH_PANDOC, "cr0: bit 0 (PE) must be set."),
    severity=MUST,
    revisions=ALL,
    draft=DRAFT_A_CR0,
    passes=[at_entry(cr0=0x01), at_entry(cr0=0x11)],
    fails=[at_entry(cr0=0x10)],
)
def cr0_pe(boot: BootState) -> Iterator[Violation]:
    """The entry code is 32-bit protected mode code. In real mode the CPU decodes it as 16-bit instructions, which have
    another meaning and other lengths."""
    yield from _bit(boot, "cr0", "PE", 1)


@rule(
    "PVH-CR0-PG",
    "cr0.PG is clear",
    clause=Clause(PVH_PANDOC, "All the other writeable bits are cleared."),
    severity=MUST,
    revisions=ALL,
    draft=DRAFT_A_CR0,
    passes=[at_entry()],
    fails=[at_entry(cr0=0x80000011)],
)
def cr0_pg(boot: BootState) -> Iterator[Violation]:
    """The guest uses physical addresses until it has built its own page tables. With paging on, the loader's page tables
    translate its first access, and the writes to cr4 or EFER that follow in every guest are undefined or fault."""
    yield from _bit(boot, "cr0", "PG", 0)


CR0_REST = ("MP", "EM", "TS", "NE", "WP", "AM", "NW", "CD")


@rule(
    "PVH-CR0-REST",
    "every other writeable bit of cr0 is clear",
    clause=Clause(PVH_PANDOC, "All the other writeable bits are cleared."),
    severity=MUST,
    passes=[at_entry(cr0=0x11), at_entry(cr0=0x01)],
    fails=[at_entry(cr0=0x11 | 1 << CR0[name]) for name in CR0_REST],
)
def cr0_rest(boot: BootState) -> Iterator[Violation]:
    """CD and NW left over from reset make the guest run without caches. WP changes what a supervisor may write as soon as
    paging is on. EM and TS make the first floating point instruction fault."""
    value = boot.registers["cr0"]
    forced = {"TS"} if virtualised(boot.registers) else set()
    for name in CR0_REST:
        if value >> CR0[name] & 1 and name not in forced:
            yield Violation(f"cr0.{name}", "0", f"1 (cr0 = {value:#x})")
    if forced and value >> CR0["TS"] & 1:
        raise Unavailable(_FORCED.format("cr0.TS"))


@rule(
    "PVH-CR0-ET",
    "cr0.ET reads 1",
    clause=Clause(INTEL_SDM, "In the Pentium 4, Intel Xeon, and P6 family processors, this flag is hardcoded to 1.", "2.5"),
    severity=INFO,
    revisions=ALL,
    passes=[at_entry(cr0=0x11)],
    fails=[at_entry(cr0=0x01)],
)
def cr0_et(boot: BootState) -> Iterator[Violation]:
    """ET is not writeable on any CPU that can run a PVH guest, so both values conform. A 0 (Cloud Hypervisor, Alioth) shows
    that the VMM set the register from a constant. Compare single bits, never the whole value."""
    yield from _bit(boot, "cr0", "ET", 1)


@rule(
    "PVH-CR4-ZERO",
    "cr4 is zero",
    clause=Clause(PVH_PANDOC, "cr4: all bits are cleared."),
    severity=MUST,
    passes=[at_entry(cr4=0)],
    fails=[at_entry(cr4=0x20)],
)
def cr4_zero(boot: BootState) -> Iterator[Violation]:
    """A guest that sets bits with a read-modify-write keeps the bits that were set: PAE in a kernel without PAE, LA57
    with four-level page tables, PSE or PGE with another meaning in its first page tables."""
    value = boot.registers["cr4"]
    if value == 1 << CR4["MCE"] and virtualised(boot.registers):
        raise Unavailable(_FORCED.format("cr4.MCE"))
    if value:
        yield Violation("cr4", "0x0", f"{value:#x} ({' '.join(bit_names('cr4', value))})")


@rule(
    "PVH-EFER-LMA",
    "EFER.LMA is clear",
    clause=Clause(INTEL_SDM, "LMA: IA-32e mode active; it follows LME and CR0.PG.", "2.2.1"),
    severity=INFO,
    revisions=ALL,
    passes=[at_entry(efer=0)],
    fails=[at_entry(efer=0x500)],
)
def efer_lma(boot: BootState) -> Iterator[Violation]:
    """The text never names EFER, but LMA cannot be set while paging is off. If LMA is set, the machine is past the entry,
    or was entered by a 64-bit protocol."""
    yield from _bit(boot, "efer", "LMA", 0)


def _eflags(name: str, revisions: frozenset[str], words: str, why: str) -> MachineRule:
    def check(boot: BootState) -> Iterator[Violation]:
        yield from _bit(boot, "eflags", name, 0)

    check.__doc__ = why
    return rule(
        f"PVH-EFL-{name}",
        f"eflags.{name} is clear",
        clause=Clause(PVH_PANDOC, words),
        severity=MUST,
        revisions=revisions,
        draft=DRAFT_A_EFLAGS if "draft-a" in revisions else "",
        passes=[at_entry(eflags=2)],
        fails=[at_entry(eflags=2 | 1 << EFLAGS[name])],
    )(check)


EFLAGS_RULES = (
    _eflags(
        "VM",
        ALL,
        "eflags: bit 17 (VM) must be cleared.",
        "With VM set the CPU is in virtual-8086 mode: the entry code would run as 16-bit code at CPL 3.",
    ),
    _eflags(
        "IF",
        ALL,
        "Bit 9 (IF) must be cleared.",
        "The guest has no IDT yet: the first timer tick would use the firmware's table, or triple-fault. That happens in\n"
        "some boots and not in others.",
    ),
    _eflags(
        "TF",
        SHIPPED,
        "Bit 8 (TF) must be cleared.",
        "With TF set the first instruction ends in a debug exception, and the guest has no handler for it.",
    ),
)


@rule(
    "PVH-EFL-DF",
    "eflags.DF is clear",
    clause=Clause(PVH_PANDOC, "Other bits are all unspecified."),
    severity=INFO,
    revisions=ALL,
    draft=DRAFT_A_EFLAGS,
    passes=[at_entry(eflags=2)],
    fails=[at_entry(eflags=2 | 1 << EFLAGS["DF"])],
)
def efl_df(boot: BootState) -> Iterator[Violation]:
    """The text leaves DF unspecified. With DF set, a guest whose first copy is a `rep movs` without a `cld` copies backwards."""
    yield from _bit(boot, "eflags", "DF", 0)


@rule(
    "PVH-ESP",
    "esp does not point at the loader's stack",
    clause=Clause(PVH_PANDOC, "All other processor registers and flag bits are unspecified."),
    severity=INFO,
    passes=[at_entry(esp=0)],
    fails=[at_entry(esp=0x6EDC)],
)
def esp(boot: BootState) -> Iterator[Violation]:
    """esp is unspecified: a guest must load its own stack before its first push or call. A value that works under one VMM
    (QEMU leaves its firmware's stack) hides a missing stack until the guest runs under another VMM, where esp is 0."""
    value = boot.registers["esp"]
    if value:
        yield Violation("esp", "unspecified", f"{value:#x}: the loader's own stack, not the guest's")


@rule(
    "PVH-EAX-MB",
    "eax does not hold multiboot's magic number",
    clause=Clause(QBOOT, "boot_pvh_from_fw_cfg() jumps with the same code as its multiboot loader"),
    severity=INFO,
    passes=[at_entry(eax=0)],
    fails=[at_entry(eax=0x2BADB002)],
)
def eax_mb(boot: BootState) -> Iterator[Violation]:
    """A kernel that serves both protocols at one entry and tests eax first takes a PVH start_info for a multiboot_info.
    Test the magic at [ebx] instead."""
    if not boot.magic_found:
        looked_at(boot.start_info_part)
        raise NotApplicable("there is no PVH magic at [ebx]")
    if boot.registers["eax"] == 0x2BADB002:
        yield Violation("eax", "unspecified", "0x2badb002, multiboot 1's magic, in a PVH hand-off")


CHAPTER: tuple[MachineRule, ...] = (
    ebx_set, ebx_magic, eip_note, eip_symbol, cr0_pe, cr0_pg, cr0_rest, cr0_et, cr4_zero, efer_lma, *EFLAGS_RULES, efl_df, esp, eax_mb,
)  # fmt: skip
