"""start_info itself, its command line, and the permitted addresses of its parts (start_info.h)."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode.boot_state import TEXT_BOUND, BootState, StartInfo, Text, Unread, looked_at, seen
from pvhdbg.decode.firmware import PVH_BIN_LINE
from pvhdbg.model import Kernel, LoadRange, Unavailable, Vmm
from pvhdbg.record import NamedTuple
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import START_INFO, at_entry
from pvhdbg.spec.documents import QEMU_PVH, START_INFO_H, XEN_H, Clause
from pvhdbg.spec.revisions import ONLY_V1
from pvhdbg.spec.start_info import SIF_KNOWN, SIF_PVH, START_FLAGS, MemoryMapEntry, ModuleEntry, flag_names

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO

FOUR_GIB = 1 << 32


def version_1(boot: BootState) -> StartInfo:
    """start_info of version 1 or later. Raises NotApplicable for version 0."""
    info = boot.start_info
    if info.v1 is None:
        raise NotApplicable("a version 0 start_info ends at byte 40")
    return info


@rule(
    "SI-VERSION-KNOWN",
    "the version of start_info is known",
    clause=Clause(START_INFO_H, "NOTE: that ... new versions are guaranteed to be backwards-compatible"),
    severity=INFO,
    passes=[at_entry(), at_entry(version=0)],
    fails=[at_entry(version=2), at_entry(version=0xFFFFFFFF)],
)
def version_known(boot: BootState) -> Iterator[Violation]:
    """A reader accepts a higher version and reads the prefix that it knows. The rule remarks on it because no known producer
    writes one: more often the field was overwritten."""
    version = boot.start_info.raw.version
    if version > 1:
        yield Violation("start_info.version", "0 or 1", f"{version}; bytes 0 to 55 are read as version 1")


@rule(
    "SI-VERSION-0",
    "start_info is of version 1 or later",
    clause=Clause(START_INFO_H, "Version of this structure. Current version is 1."),
    severity=SHOULD,
    revisions=ONLY_V1,
    passes=[at_entry(), at_entry(version=0, vmm=Vmm("Xen", "4.17"))],
    fails=[at_entry(version=0)],
)
def version_0(boot: BootState) -> Iterator[Violation]:
    """A version 0 structure has no memory map. Under Xen a guest asks the hypervisor; under any other VMM Linux cannot find
    out where its memory is, and stops. Xen's dom0 builder still writes 0."""
    if boot.start_info.raw.version == 0 and boot.snapshot.vmm.name != "Xen":
        yield Violation("start_info.version", "1", "0, which has no memory map")


@rule(
    "SI-FLAGS-KNOWN",
    "flags holds no undefined bit",
    clause=Clause(XEN_H, "SIF_PRIVILEGED … SIF_PM_MASK (0xFF<<8)", "lines 894-900"),
    severity=SHOULD,
    passes=[at_entry(), at_entry(flags=3)],
    fails=[at_entry(flags=0x80000000), at_entry(flags=0x20)],
)
def flags_known(boot: BootState) -> Iterator[Violation]:
    """Undefined bits mean that the field was not initialised, and a later Xen may give them a meaning."""
    flags = boot.start_info.raw.flags
    if flags & ~SIF_KNOWN:
        yield Violation("start_info.flags", f"no bits outside {SIF_KNOWN:#x}", f"{flags:#x}")


@rule(
    "SI-FLAGS-PVH",
    "flags holds only what PVH uses",
    clause=Clause(XEN_H, "SIF_PRIVILEGED (1<<0), SIF_INITDOMAIN (1<<1)"),
    severity=INFO,
    passes=[at_entry(flags=0), at_entry(flags=3)],
    fails=[at_entry(flags=2), at_entry(flags=4)],
)
def flags_pvh(boot: BootState) -> Iterator[Violation]:
    """Bits 2 to 4 and the power management mask belong to the PV start_info. The initial domain is always privileged."""
    flags = boot.start_info.raw.flags
    if flags & SIF_KNOWN & ~SIF_PVH:
        yield Violation("start_info.flags", "SIF_PRIVILEGED or SIF_INITDOMAIN", " ".join(flag_names(flags)))
    if flags & START_FLAGS["SIF_INITDOMAIN"] and not flags & START_FLAGS["SIF_PRIVILEGED"]:
        yield Violation("start_info.flags", "SIF_INITDOMAIN only with SIF_PRIVILEGED", f"{flags:#x}")


@rule(
    "SI-RESERVED-0",
    "the reserved word is zero",
    clause=Clause(START_INFO_H, "uint32_t reserved; /* Must be zero. */"),
    severity=MUST,
    revisions=ONLY_V1,
    passes=[at_entry()],
    fails=[at_entry(reserved=0xDEADBEEF)],
)
def reserved_0(boot: BootState) -> Iterator[Violation]:
    """A later version may put a field there, which a guest would then use."""
    v1 = version_1(boot).v1
    if v1 is not None and v1.reserved:
        yield Violation("start_info.reserved", "0x0", f"{v1.reserved:#x}")


def _command_line(boot: BootState) -> Text | Unread:
    line = boot.start_info.command_line
    if line is None:
        raise NotApplicable("cmdline_paddr is 0: there is no command line")
    return line


@rule(
    "SI-CMDLINE-NUL",
    "the command line can be read and ends",
    clause=Clause(START_INFO_H, "Physical address of the command line; a zero-terminated ASCII string"),
    severity=MUST,
    passes=[at_entry(), at_entry(cmdline_paddr=0)],
    fails=[
        at_entry(cmdline_paddr=0xB0000000),
        at_entry(cmdline_paddr=0x200000, memory={0x200000: b"x" * (TEXT_BOUND + 1)}),
    ],
)
def cmdline_nul(boot: BootState) -> Iterator[Violation]:
    """Every guest measures the command line with an unbounded strlen."""
    line = looked_at(_command_line(boot))
    address = boot.start_info.raw.cmdline_paddr
    if isinstance(line, Unread):
        yield Violation("start_info.cmdline_paddr", "a readable string", f"{address:#x}: {line.reason}")
    elif not line.terminated:
        yield Violation(f"[{address:#x}]", f"a NUL within {TEXT_BOUND:#x} bytes", f"none in {len(line.data):#x} bytes")


@rule(
    "SI-CMDLINE-ASCII",
    "the command line is ASCII",
    clause=Clause(START_INFO_H, "a zero-terminated ASCII string"),
    severity=SHOULD,
    passes=[at_entry(), at_entry(cmdline_paddr=0)],
    fails=[at_entry(command_line=b"caf\xc3\xa9\0")],
)
def cmdline_ascii(boot: BootState) -> Iterator[Violation]:
    """Bytes above 0x7f come from a UTF-8 shell, or from memory that does not hold a command line."""
    line = seen(_command_line(boot))
    first = next((index for index, byte in enumerate(line.data) if byte >= 0x80), None)
    if first is not None:
        yield Violation(f"command_line[{first}]", "a byte below 0x80", f"{line.data[first]:#x}")


@rule(
    "SI-CMDLINE-LEN-QEMU",
    "the command line fits into the buffer of QEMU's pvh.bin",
    clause=Clause(QEMU_PVH, "static uint8_t cmdline_buffer[CMDLINE_BUFSIZE] is filled before its size is compared"),
    severity=INFO,
    passes=[at_entry(), at_entry(cmdline_paddr=0)],
    fails=[at_entry(cmdline_paddr=START_INFO - PVH_BIN_LINE, memory={START_INFO - PVH_BIN_LINE: b"x" * 4100 + b"\0"})],
)
def cmdline_len_qemu(boot: BootState) -> Iterator[Violation]:
    """pvh.bin copies the command line without a bound into a buffer of 4096 bytes that begins 0x1020 bytes below start_info.
    4113 characters or more overwrite the module list, 4128 or more the magic: shorten it, or use another firmware."""
    if boot.overrun_length is not None:
        found = f"{boot.overrun_length} characters, which run over start_info"
        yield Violation("command_line", "at most 4095 characters", found, MUST)
        return
    line, info = seen(_command_line(boot)), boot.start_info
    if len(line.data) >= 4096 and info.address == line.address + PVH_BIN_LINE:
        yield Violation("command_line", "at most 4095 characters", f"{len(line.data)} characters overflow pvh.bin's buffer")


# --- where the parts lie ------------------------------------------------------------------------------------------


def kernel_loads(boot: BootState) -> tuple[LoadRange, ...]:
    """Where the kernel's segments lie; none for a file that was seen and has no PT_LOAD. Raises `Unavailable` where it was not seen."""
    kernel = boot.snapshot.kernel
    if kernel is None or (not kernel.loads and kernel.elf_class is None):
        raise Unavailable("where the kernel lies was not learnt; name its file with --kernel")
    return kernel.loads


class HandOffPart(NamedTuple):
    """A part of the hand-off in guest-physical memory."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def parts(boot: BootState) -> list[HandOffPart]:
    """Every part of the hand-off that has an address, in the order of the structure. Absent parts are left out."""
    info = boot.start_info
    raw, v1 = info.raw, info.v1
    found = [HandOffPart("start_info", info.address, raw.sizeof())]
    if raw.nr_modules and raw.modlist_paddr:
        found.append(HandOffPart("modlist", raw.modlist_paddr, raw.nr_modules * ModuleEntry.sizeof()))
    if v1 is not None and v1.memmap_entries and v1.memmap_paddr:
        found.append(HandOffPart("memmap", v1.memmap_paddr, v1.memmap_entries * MemoryMapEntry.sizeof()))
    if isinstance(info.command_line, Text):
        found.append(HandOffPart("command_line", raw.cmdline_paddr, len(info.command_line.data) + 1))
    if not isinstance(info.modules, Unread):
        for index, module in enumerate(info.modules):
            if module.entry.paddr and module.entry.size:
                found.append(HandOffPart(f"modules[{index}]", module.entry.paddr, module.entry.size))
    return found


@rule(
    "SI-4G",
    "everything lies below 4 GiB",
    clause=Clause(START_INFO_H, "Xen on x86 will always try to place all the data below the 4GiB boundary."),
    severity=SHOULD,
    passes=[at_entry()],
    fails=[at_entry(rsdp_paddr=FOUR_GIB), at_entry(modules=[ModuleEntry(FOUR_GIB - 0x1000, 0x2000, 0, 0)])],
)
def below_4g(boot: BootState) -> Iterator[Violation]:
    """A guest reads start_info from 32-bit code, or with 1 GiB mapped: Linux dies in xen_prepare_pvh, Xen refuses."""
    raw, v1 = boot.start_info.raw, boot.start_info.v1
    named = {"cmdline_paddr": raw.cmdline_paddr, "modlist_paddr": raw.modlist_paddr, "rsdp_paddr": raw.rsdp_paddr}
    if v1 is not None:
        named["memmap_paddr"] = v1.memmap_paddr
    for name, address in named.items():
        if address >= FOUR_GIB:
            yield Violation(f"start_info.{name}", "below 0x100000000", f"{address:#x}")
    for part in parts(boot):
        if part.name.startswith("modules[") and part.end > FOUR_GIB:
            yield Violation(part.name, "below 0x100000000", f"{part.start:#x} to {part.end:#x}")


@rule(
    "SI-OVERLAP",
    "no two parts of the hand-off share memory",
    clause=Clause(START_INFO_H, "the data is placed in guest memory (nothing says that parts may share it)"),
    severity=SHOULD,
    passes=[at_entry()],
    fails=[
        at_entry(cmdline_paddr=START_INFO + 8),
        at_entry(modules=[ModuleEntry(0x1000000, 0x1000, 0, 0)]),
        at_entry(kernel=Kernel(loads=(LoadRange(START_INFO, 0x1000),))),
    ],
)
def overlap(boot: BootState) -> Iterator[Violation]:
    """The later write wins: the kernel zeroes a ramdisk that lies over its bss, and a command line over the module list
    replaces entries of the list."""
    found = parts(boot)
    kernel = boot.snapshot.kernel
    loads = [HandOffPart("kernel", load.start, load.size) for load in kernel.loads if load.size] if kernel else []
    everything = sorted((*found, *loads), key=lambda part: part.start)
    reaching = everything[0]
    for part in everything[1:]:
        if part.start < reaching.end and not part.name == reaching.name == "kernel":
            yield Violation(
                f"{reaching.name} and {part.name}",
                "no overlap",
                f"{reaching.start:#x} to {reaching.end:#x} and {part.start:#x} to {part.end:#x}",
            )
        if part.end > reaching.end:
            reaching = part
    kernel_loads(boot)


@rule(
    "SI-ALIGN",
    "the structures are 8-byte aligned",
    clause=Clause(START_INFO_H, "(the text does not require an alignment)"),
    severity=INFO,
    passes=[at_entry()],
    fails=[at_entry(ebx=0x6004, memory={0x6004: b"\x78\xc5\x6e\x33" + bytes(52)})],
)
def align(boot: BootState) -> Iterator[Violation]:
    """The text does not require it, and x86 allows unaligned access, but a reader in a language with aligned references (Rust)
    has undefined behaviour. qboot's module list is 4-byte aligned."""
    for part in parts(boot):
        if part.name in ("start_info", "modlist", "memmap") and part.start % 8:
            yield Violation(part.name, "8-byte aligned", f"{part.start:#x}")


CHAPTER: tuple[MachineRule, ...] = (
    version_known,
    version_0,
    flags_known,
    flags_pvh,
    reserved_0,
    cmdline_nul,
    cmdline_ascii,
    cmdline_len_qemu,
)
PLACEMENT: tuple[MachineRule, ...] = (below_4g, overlap, align)
