"""The ACPI RSDP that start_info points to (start_info.h; ACPI 6.2, 5.2.5)."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, Unread, looked_at, seen
from pvhdbg.decode.text import quoted
from pvhdbg.rules.declare import MachineRule, NotApplicable, Severity, Violation, rule
from pvhdbg.rules.examples import RSDP, XSDT, at_entry
from pvhdbg.rules.modules import ends_in_reserved
from pvhdbg.spec.documents import ACPI, START_INFO_H, Clause

MUST, SHOULD, INFO = Severity.MUST, Severity.SHOULD, Severity.INFO


def _rsdp(boot: BootState) -> acpi.Rsdp | Unread:
    rsdp = boot.start_info.rsdp
    if rsdp is None:
        raise NotApplicable("rsdp_paddr is 0")
    return rsdp


def _signed(boot: BootState) -> acpi.Rsdp:
    rsdp = seen(_rsdp(boot))
    if rsdp.head.signature != acpi.RSDP_SIGNATURE:
        raise NotApplicable("rsdp_paddr does not point to an RSDP")
    return rsdp


@rule(
    "SI-RSDP-SIG",
    "rsdp_paddr points to an RSDP",
    clause=Clause(ACPI, "Signature: “RSD PTR ” (Notice that this signature must contain a trailing blank character.)", "5.2.5.3"),
    severity=MUST,
    passes=[at_entry(), at_entry(rsdp_paddr=0)],
    fails=[at_entry(rsdp=bytes(36)), at_entry(rsdp_paddr=0xB0000000)],
)
def rsdp_sig(boot: BootState) -> Iterator[Violation]:
    """A guest that trusts the pointer finds no ACPI: no interrupt routing, no CPUs, no PCI windows."""
    rsdp = looked_at(_rsdp(boot))
    if isinstance(rsdp, Unread):
        yield Violation("start_info.rsdp_paddr", "a readable RSDP", rsdp.reason)
    elif rsdp.head.signature != acpi.RSDP_SIGNATURE:
        yield Violation(f"[{rsdp.address:#x}]", quoted(acpi.RSDP_SIGNATURE), quoted(rsdp.head.signature))


@rule(
    "SI-RSDP-CKSUM",
    "the RSDP's checksums hold",
    clause=Clause(ACPI, "This checksum … includes only the first 20 bytes … These bytes must sum to zero.", "5.2.5.3"),
    severity=MUST,
    passes=[at_entry(), at_entry(rsdp_paddr=0)],
    fails=[at_entry(rsdp=b"RSD PTR " + bytes(12)), at_entry(memory={RSDP + 34: b"\x01\0"})],
)
def rsdp_cksum(boot: BootState) -> Iterator[Violation]:
    """Guests ignore an RSDP whose checksum is wrong, and boot without ACPI."""
    rsdp = _signed(boot)
    if not acpi.checksum_ok(rsdp.data[: acpi.RSDP_V1_SIZE]):
        yield Violation(f"[{rsdp.address:#x}] 20 bytes", "sum 0", f"{sum(rsdp.data[: acpi.RSDP_V1_SIZE]) & 0xFF:#x}")
    if rsdp.tail is None:
        return
    if rsdp.length < acpi.RSDP_V1_SIZE + acpi.RsdpV2.sizeof() or rsdp.length > acpi.TABLE_LIMIT:
        yield Violation(f"[{rsdp.address:#x}].length", "36", str(rsdp.length))
    elif not acpi.checksum_ok(rsdp.data[: rsdp.length]):
        yield Violation(f"[{rsdp.address:#x}] {rsdp.length} bytes", "sum 0", f"{sum(rsdp.data[: rsdp.length]) & 0xFF:#x}")


@rule(
    "SI-RSDP-ALIGN",
    "the RSDP is 16-byte aligned",
    clause=Clause(ACPI, "OSPM finds the RSDP structure by searching … on 16-byte boundaries", "5.2.5.1"),
    severity=INFO,
    passes=[at_entry(), at_entry(rsdp_paddr=0)],
    fails=[at_entry(rsdp_paddr=RSDP + 8)],
)
def rsdp_align(boot: BootState) -> Iterator[Violation]:
    """A guest that does not use the pointer looks only at addresses that are a multiple of 16."""
    address = boot.start_info.raw.rsdp_paddr
    if not address:
        raise NotApplicable("rsdp_paddr is 0")
    if address % 16:
        yield Violation("start_info.rsdp_paddr", "a multiple of 16", f"{address:#x}")


@rule(
    "SI-RSDP-TABLES",
    "the RSDT and the XSDT are sound",
    clause=Clause(ACPI, "Each description table begins with a header: signature, length, checksum", "5.2.6"),
    severity=SHOULD,
    passes=[at_entry(), at_entry(rsdp_paddr=0)],
    fails=[at_entry(memory={XSDT: b"junk" * 11}), at_entry(memory={XSDT + 40: b"\x01\0\0\0"})],
)
def rsdp_tables(boot: BootState) -> Iterator[Violation]:
    """With a good RSDP that points to garbage the guest boots without ACPI, or loops while parsing. Two causes are on record: a
    ramdisk that was loaded over the tables, and a loader that copied them from a wrong address."""
    _signed(boot)
    for table in seen(boot.start_info.root_tables):
        if not table.sound:
            kind = _overwritten(boot, table)
            found = f"{table.problem}, {kind}" if kind else table.problem
            yield Violation(f"{table.expected.decode()} at {table.address:#x}", "a sound table", found, kind=kind)


def _overwritten(boot: BootState, table: acpi.RootTable) -> str:
    """A phrase that says that a module lies over the table's header, and why it does; else empty."""
    modules = boot.start_info.modules
    end = table.address + acpi.TableHeader.sizeof()
    for module in () if isinstance(modules, Unread) else modules:
        if module.entry.paddr < end and table.address < module.entry.paddr + module.entry.size:
            return f"under a module {ends_in_reserved(boot, module)}".rstrip()
    return ""


@rule(
    "SI-RSDP-ZERO",
    "rsdp_paddr is set",
    clause=Clause(START_INFO_H, "Physical address of the RSDP ACPI data structure."),
    severity=INFO,
    passes=[at_entry()],
    fails=[at_entry(rsdp_paddr=0)],
)
def rsdp_zero(boot: BootState) -> Iterator[Violation]:
    """0 means "not present". Firecracker and libkrun pass 0 although there are ACPI tables, which a guest must then search
    for from 0xe0000 to 0xfffff. With QEMU it means that the machine was started with acpi=off."""
    if not boot.start_info.raw.rsdp_paddr:
        yield Violation("start_info.rsdp_paddr", "the address of the RSDP", "0x0: not present")


CHAPTER: tuple[MachineRule, ...] = (rsdp_sig, rsdp_cksum, rsdp_align, rsdp_tables, rsdp_zero)
