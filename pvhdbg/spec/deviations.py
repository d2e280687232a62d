"""Recorded deviations of shipped VMMs from the ABI: which VMM, which versions, exactly which value, and why.

A violation that matches a record is KNOWN instead of FAIL; any other value that violates the same rule is a FAIL. A field that
the firmware's source never writes holds what was in memory before: every value of it is on record, for every build. The
records apply to the VMM's own hand-off, never to an entry that a guest made.
"""

from __future__ import annotations

from typing import NamedTuple

PVH_BIN = "SeaBIOS + pvh.bin"
QBOOT = "qboot"


_ON_THE_STACK = (
    "qboot's module entry is a local variable of boot_pvh_from_fw_cfg(), and qboot writes only its paddr and size: the other "
    "fields hold old stack contents, which differ from build to build"
)
_ON_THE_STACK_SOURCE = "qboot fw_cfg.c, ramdisk_mod, in the sources of QEMU 10.0.13; measured with QEMU 7.2.22, 10.0.13 and 11.1.2"


_ONE_TOO_MANY = "qboot's extract_e820() counts one entry too many when it does not add the MMCONFIG range"


_OVER_THE_TABLES = (
    "QEMU puts the ramdisk at the top of low memory, where SeaBIOS has built microvm's ACPI tables: pc and q35 reserve room for "
    "them, microvm calls x86_load_linux() with acpi_data_size 0. A ramdisk whose size is a multiple of 4096 ends before that page"
)
_OVER_THE_TABLES_SOURCE = (
    "QEMU hw/i386/microvm.c, and initrd_max in hw/i386/x86.c (x86-common.c since 9.1); measured with QEMU 7.2.22 (-bios bios.bin), "
    "10.0.2, 10.0.13 and 11.1.2 at 256M, 3G and 5G: each further byte of the ramdisk overwrites a byte of the XSDT, and Linux boots "
    "without ACPI"
)
_ENDS_IN_RESERVED = "which ends in the 0x1000 reserved bytes behind its RAM"


class Deviation(NamedTuple):
    """One recorded deviation.

    `since` and `until` bound the VMM's version (inclusive; empty is unbounded). `found` holds the exact observed values as
    the rule reports them (or their kind, for values that follow from the sizes of memory and ramdisk). It is None where the
    firmware's source never writes the field that the rule judges: then any value of it is on record.
    """

    key: str
    rule: str
    vmm: str
    firmware: frozenset[str]
    found: frozenset[str] | None
    why: str
    source: str
    since: tuple[int, ...] = ()
    until: tuple[int, ...] = ()
    always: bool = True  # it occurs in every boot of that VMM, so its absence is reported

    def holds(self, found: str) -> bool:
        """Whether that observed value, in the words of the rule, is on record."""
        return self.found is None or found in self.found

    def values(self) -> str:
        """The recorded values in words."""
        return "any value: the firmware never writes the field" if self.found is None else " or ".join(sorted(self.found))

    def versions(self) -> str:
        """The VMM and its versions in words: "QEMU 7.2 to 11.1"."""
        since, until = (".".join(map(str, bound)) for bound in (self.since, self.until))
        if since == until:
            return f"{self.vmm} {since}".rstrip()
        return f"{self.vmm}{f' {since}' if since else ''} {f'to {until}' if until else 'and later'}"

    def covers(self, release: tuple[int, ...]) -> bool:
        """Whether the record applies to that version. An unknown version (empty) is covered only where all versions are. Raises nothing."""
        if not release:
            return not self.since and not self.until
        return release >= self.since and (not self.until or release[: len(self.until)] <= self.until)


DEVIATIONS = (
    Deviation(
        "QEMU-TR-LIMIT",
        "PVH-TR-LIMIT",
        "QEMU",
        frozenset({PVH_BIN, QBOOT}),
        frozenset({"0xffff"}),
        "neither pvh.bin nor qboot loads the task register: it keeps the CPU's reset value",
        "QEMU pc-bios/optionrom/pvh.S and qboot entry.S contain no ltr; measured on 7.2.22, 10.0.2, 10.0.13 and 11.1.2, TCG",
        since=(4, 0),
    ),
    Deviation(
        "QBOOT-MAP-END-TYPE",
        "SI-MM-TYPE",
        "QEMU",
        frozenset({QBOOT}),
        frozenset({"0x0 (entry is all zero)"}),
        _ONE_TOO_MANY,
        "qboot main.c; measured with QEMU 7.2.22, 10.0.2, 10.0.13 and 11.1.2 on microvm and pc",
        since=(7, 2),
        until=(11, 1),
        always=False,
    ),
    Deviation(
        "QBOOT-MAP-END-SIZE",
        "SI-MM-SIZE0",
        "QEMU",
        frozenset({QBOOT}),
        frozenset({"0x0 (entry is all zero)"}),
        _ONE_TOO_MANY,
        "qboot main.c; measured with QEMU 7.2.22, 10.0.2, 10.0.13 and 11.1.2 on microvm and pc",
        since=(7, 2),
        until=(11, 1),
        always=False,
    ),
    Deviation(
        "QBOOT-MODULE-RESERVED",
        "SI-MOD-RESERVED",
        "QEMU",
        frozenset({QBOOT}),
        None,
        _ON_THE_STACK,
        _ON_THE_STACK_SOURCE,
        always=False,
    ),
    Deviation(
        "QBOOT-MODULE-CMDLINE",
        "SI-MOD-CMDLINE",
        "QEMU",
        frozenset({QBOOT}),
        None,
        _ON_THE_STACK,
        _ON_THE_STACK_SOURCE,
        always=False,
    ),
    Deviation(
        "MICROVM-INITRD-RESERVED",
        "SI-MOD-RAM",
        "QEMU",
        frozenset({PVH_BIN}),
        frozenset({_ENDS_IN_RESERVED}),
        _OVER_THE_TABLES,
        _OVER_THE_TABLES_SOURCE,
        since=(7, 2),
        until=(11, 1),
        always=False,
    ),
    Deviation(
        "MICROVM-INITRD-OVER-XSDT",
        "SI-RSDP-TABLES",
        "QEMU",
        frozenset({PVH_BIN}),
        frozenset({f"under a module {_ENDS_IN_RESERVED}"}),
        _OVER_THE_TABLES,
        _OVER_THE_TABLES_SOURCE,
        since=(7, 2),
        until=(11, 1),
        always=False,
    ),
)  # fmt: skip
