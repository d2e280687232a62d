"""The module list (struct hvm_modlist_entry in start_info.h)."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import MODULE_BOUND, TEXT_BOUND, BootState, Module, Unread, looked_at, seen
from pvhdbg.model import Unavailable
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import at_entry
from pvhdbg.rules.memory_map import ram_ranges, reserved_after, uncovered
from pvhdbg.rules.start_info import kernel_loads
from pvhdbg.spec.documents import LINUX_PVH, START_INFO_H, Clause
from pvhdbg.spec.revisions import ONLY_V1
from pvhdbg.spec.start_info import ModuleEntry

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO

_ENTRY = "struct hvm_modlist_entry"


def _listed(boot: BootState) -> tuple[Module, ...]:
    info = boot.start_info
    if not info.raw.nr_modules:
        raise NotApplicable("there are no modules")
    return seen(info.modules)


def _beyond_bound(boot: BootState) -> None:
    count = boot.start_info.raw.nr_modules
    if count > MODULE_BOUND:
        raise Unavailable(f"nr_modules is {count}; only the first {MODULE_BOUND} were read")


def ends_in_reserved(boot: BootState, module: Module) -> str:
    """A phrase that says that the module begins in RAM and ends in the reserved range right after it; else empty."""
    if not isinstance(boot.start_info.memory_map, tuple):
        return ""
    start, end = module.entry.paddr, module.entry.paddr + module.entry.size
    for first, last in ram_ranges(boot):
        reserved = reserved_after(boot, last)
        if first <= start < last < end <= last + reserved:
            return f"which ends in the {reserved:#x} reserved bytes behind its RAM"
    return ""


@rule(
    "SI-MOD-PAIR",
    "nr_modules and modlist_paddr agree",
    clause=Clause(START_INFO_H, "If the address is 0, it is not present", "general rules"),
    severity=MUST,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[
        at_entry(modlist_paddr=0),
        at_entry(nr_modules=0),
        at_entry(nr_modules=0xFFFFFFFF),
        at_entry(modlist_paddr=0xB0000000),
    ],
)
def mod_pair(boot: BootState) -> Iterator[Violation]:
    """With modules and no list, Linux reads a list at address 0. With a list and no modules, FreeBSD dies."""
    info = boot.start_info
    count, address = info.raw.nr_modules, info.raw.modlist_paddr
    if count and not address:
        yield Violation("start_info.modlist_paddr", f"the address of {count} modules", "0x0")
    elif address and not count:
        yield Violation("start_info.modlist_paddr", "0x0, since nr_modules is 0", f"{address:#x}", SHOULD)
    elif count and not boot.readable(address, ModuleEntry.sizeof()):
        yield Violation("start_info.modlist_paddr", "a readable module list", f"{address:#x}, where the machine has no RAM")
    elif count > MODULE_BOUND and not boot.readable(address, min(count * ModuleEntry.sizeof(), 1 << 40)):
        yield Violation("start_info.nr_modules", "a list that lies in RAM", f"{count} modules at {address:#x} leave it")


@rule(
    "SI-MOD-PADDR",
    "each module has an address",
    clause=Clause(START_INFO_H, "uint64_t paddr; /* Physical address of the module. */", _ENTRY),
    severity=SHOULD,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[at_entry(modules=[ModuleEntry(0, 0x1000, 0, 0)])],
)
def mod_paddr(boot: BootState) -> Iterator[Violation]:
    """0 means "not present": hvmloader skips such a module, Linux takes the interrupt vector table for its ramdisk."""
    for index, module in enumerate(_listed(boot)):
        if not module.entry.paddr:
            yield Violation(f"modules[{index}].paddr", "not 0", "0x0")
    _beyond_bound(boot)


@rule(
    "SI-MOD-SIZE",
    "each module has a size that does not wrap",
    clause=Clause(START_INFO_H, "uint64_t size; /* Size of the module in bytes. */", _ENTRY),
    severity=SHOULD,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[at_entry(modules=[ModuleEntry(0x1F000000, 0, 0, 0)]), at_entry(modules=[ModuleEntry(1 << 63, (1 << 63) + 1, 0, 0)])],
)
def mod_size(boot: BootState) -> Iterator[Violation]:
    """Xen and QEMU leave out an empty module. A module whose end wraps passes a guest's range check and fails later."""
    for index, module in enumerate(_listed(boot)):
        if not module.entry.size:
            yield Violation(f"modules[{index}].size", "greater than 0", "0x0")
        elif module.entry.paddr + module.entry.size > 1 << 64:
            found = f"{module.entry.paddr:#x} + {module.entry.size:#x}"
            yield Violation(f"modules[{index}]", "an end below 2^64", found)
    _beyond_bound(boot)


@rule(
    "SI-MOD-RAM",
    "each module lies in RAM and not over the kernel",
    clause=Clause(LINUX_PVH, "pvh_bootparams.hdr.ramdisk_image = modlist[0].paddr"),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[
        at_entry(modules=[ModuleEntry(0xF0000, 0x1000, 0, 0)]),
        at_entry(modules=[ModuleEntry(0x1FFFF000, 0x2000, 0, 0)]),
        at_entry(modules=[ModuleEntry(0x1000000, 0x2000, 0, 0)]),
    ],
)
def mod_ram(boot: BootState) -> Iterator[Violation]:
    """A guest reserves the module inside the RAM that the memory map lists. A ramdisk outside of it is not mapped, or its
    memory is allocated to something else; a ramdisk over the kernel is overwritten when bss is cleared."""
    modules = _listed(boot)
    ranges = ram_ranges(boot)
    kernel = boot.snapshot.kernel
    for index, module in enumerate(modules):
        start, end = module.entry.paddr, module.entry.paddr + module.entry.size
        if not module.entry.size:
            continue
        if uncovered(start, end, ranges):
            kind = ends_in_reserved(boot, module)
            found = f"{start:#x} to {end:#x}" + (f", {kind}" if kind else "")
            yield Violation(f"modules[{index}]", "inside one or more RAM entries of the map", found, kind=kind)
        for load in kernel.loads if kernel else ():
            if start < load.end and load.start < end:
                yield Violation(f"modules[{index}]", "not over the kernel", f"{start:#x} to {end:#x} overlaps {load.start:#x}")
    kernel_loads(boot)
    _beyond_bound(boot)


@rule(
    "SI-MOD-CMDLINE",
    "each module's command line is absent or a string",
    clause=Clause(START_INFO_H, "uint64_t cmdline_paddr; /* Physical address of the command line. */", _ENTRY),
    severity=MUST,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[
        at_entry(modules=[ModuleEntry(0x1F000000, 0x1000, 0xB0000000, 0)]),
        at_entry(modules=[ModuleEntry(0x1F000000, 0x1000, 0x200000, 0)], memory={0x200000: b"x" * (TEXT_BOUND + 1)}),
        at_entry(modules=[ModuleEntry(0x1F000000, 0x1000, 0x20000, 0)], command_line=b"\xff\xfe\0"),
    ],
)
def mod_cmdline(boot: BootState) -> Iterator[Violation]:
    """hvmloader and FreeBSD compare it as a string; Xen as a guest stops when it lies beyond 4 GiB. qboot leaves the pointer
    uninitialised, and QEMU's pvh.bin overwrites it when the kernel's command line has 4113 characters or more."""
    for index, module in enumerate(_listed(boot)):
        line, at = looked_at(module.command_line), f"modules[{index}].cmdline_paddr"
        address = module.entry.cmdline_paddr
        if isinstance(line, Unread):
            yield Violation(at, "0 or a readable string", f"{address:#x}: {line.reason}")
        elif line is not None and not line.terminated:
            yield Violation(at, f"a NUL within {TEXT_BOUND:#x} bytes", f"{address:#x}: no end in {len(line.data):#x} bytes")
        elif line is not None and any(byte >= 0x80 for byte in line.data):
            yield Violation(at, "0 or an ASCII string", f"{address:#x}: not ASCII")
    _beyond_bound(boot)


@rule(
    "SI-MOD-RESERVED",
    "each module's reserved word is zero",
    clause=Clause(START_INFO_H, "uint64_t reserved;", _ENTRY),
    severity=INFO,
    passes=[at_entry(), at_entry(modules=[])],
    fails=[at_entry(modules=[ModuleEntry(0x1F000000, 0x1000, 0, 0x965000000)])],
)
def mod_reserved(boot: BootState) -> Iterator[Violation]:
    """The text does not specify this word, and no guest reads it. A value other than 0 shows a structure that was not
    initialised (qboot's is a local variable): check its other fields too."""
    for index, module in enumerate(_listed(boot)):
        if module.entry.reserved:
            yield Violation(f"modules[{index}].reserved", "0x0", f"{module.entry.reserved:#x}")
    _beyond_bound(boot)


CHAPTER: tuple[MachineRule, ...] = (mod_pair, mod_paddr, mod_size, mod_ram, mod_cmdline, mod_reserved)
