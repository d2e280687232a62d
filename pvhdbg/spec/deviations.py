"""Recorded deviations of shipped VMMs from the ABI: which VMM, which versions, exactly which value, and why.

A violation that matches a record is KNOWN instead of FAIL; any other value that violates the same rule is a FAIL. A field that
the firmware's source never writes holds what was in memory before: every value of it is on record, for every build. The
records apply to the VMM's own hand-off, never to an entry that a guest made. A VMM that writes the registers by itself, without a
firmware in the guest, has records without a firmware.
"""

from __future__ import annotations

from pvhdbg.record import NamedTuple

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
_EMPTY_ENTRY = "seldom: Linux skips empty entries; a reader that computes addr + size - 1 gets a range over everything"
_NO_ACPI = "yes: the guest boots without ACPI. A ramdisk whose size is a multiple of 4096 avoids it"

_FLAT_BUT_SHORT = (
    "Alioth's constant for its flat segments is 0xfff_ffff, which has one f less than the limit of 4 GiB. cs has the same constant in "
    "its source; a guest cannot see the limit of cs without reading through it"
)
_FLAT_BUT_SHORT_SOURCE = "Alioth alioth/src/loader/xen/xen.rs, boot_cs and boot_ds; measured with 0.12 on KVM"
_FLAT_BUT_SHORT_MATTERS = "yes: an access above 256 MiB faults (#GP) before the guest loads its own descriptors"
_NO_RSDP_MATTERS = (
    "seldom: Linux searches 0xe0000 to 0xfffff and the EBDA for the RSDP by itself; "
    "a guest that only follows start_info has no ACPI"
)
_LIBKRUN_SOURCE = (
    "libkrun src/arch/src/x86_64/mod.rs, arch_memory_regions() and configure_system(); measured with the fork smol-machines of 2026-10 "
    "on KVM, whose releases have no number of their own"
)
_ENDS_IN_RESERVED = "which ends in the 0x1000 reserved bytes behind its RAM"


class Deviation(NamedTuple):
    """One recorded deviation.

    `since` and `until` bound the VMM's version (inclusive; empty is unbounded). `found` holds the exact observed values as
    the rule reports them (or their kind, for values that follow from the sizes of memory and ramdisk). It is None where the
    firmware's source never writes the field that the rule judges: then any value of it is on record. `firmware` is empty for a VMM
    that enters the guest by itself. `matters` says in words whether a guest notices.
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
    matters: str = ""

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

    def of_firmware(self, name: str | None) -> bool:
        """Whether the record is for that firmware; None is a machine without a known one."""
        return not self.firmware or name in self.firmware

    def whose(self) -> str:
        """The VMM and its firmware in words: "QEMU with qboot", "Xen"."""
        return f"{self.vmm} with {' or '.join(sorted(self.firmware))}" if self.firmware else self.vmm

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
        matters="no: no guest is known to use tr before it has loaded its own",
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
        matters=_EMPTY_ENTRY,
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
        matters=_EMPTY_ENTRY,
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
        matters="no: nobody reads the field",
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
        matters="yes, for a guest that reads a module's command line, as FreeBSD does: the pointer is garbage",
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
        matters=_NO_ACPI,
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
        matters=_NO_ACPI,
    ),
    Deviation(
        "XEN-DOM0-XSDT",
        "SI-RSDP-TABLES",
        "Xen",
        frozenset(),
        frozenset({r"its signature is “S\xff\x00\xf0”"}),
        "Xen's dom0 builder copies the header of the host's XSDT without a look at the RSDP's revision. An ACPI 1 RSDP, as QEMU's SeaBIOS "
        "gives it, has no XSDT: the copy is then made from address 0, where the interrupt vectors lie",
        "Xen xen/arch/x86/hvm/dom0_build.c, pvh_setup_acpi_xsdt(), mended by commit 6e7f7a0c16 in 4.20.0, not in 4.19.0; measured with "
        "4.17.7, and 4.20.4 without it",
        since=(4, 17),
        until=(4, 19),
        always=False,
        matters="yes: dom0 finds no ACPI table. Boot Xen by a firmware that has an ACPI 2 RSDP, or use Xen 4.20",
    ),
    Deviation(
        "XEN-DOMU-MAP-ORDER",
        "SI-MM-SORTED",
        "Xen",
        frozenset(),
        frozenset({"ACPI after reserved", "ACPI after ACPI"}),
        "Xen's toolstack adds the ACPI ranges to the map of a PVH domain behind the special pages, which lie above them",
        "measured with 4.17.7 and 4.20.4, xl create with type pvh",
        since=(4, 17),
        until=(4, 20),
        always=False,
        matters="no: every known guest sorts the map, or takes it in any order",
    ),
    Deviation(
        "FIRECRACKER-NO-RSDP",
        "SI-RSDP-ZERO",
        "Firecracker",
        frozenset(),
        frozenset({"0x0: not present"}),
        "Firecracker writes ACPI tables, and an RSDP at 0xe0000, but leaves the field of start_info at its default",
        "Firecracker src/vmm/src/arch/x86_64/mod.rs, configure_pvh(); measured with 1.12.1 on KVM",
        since=(1, 12),
        until=(1, 12),
        matters=_NO_RSDP_MATTERS,
    ),
    Deviation(
        "LIBKRUN-NO-RSDP",
        "SI-RSDP-ZERO",
        "libkrun",
        frozenset(),
        frozenset({"0x0: not present"}),
        "libkrun builds no ACPI tables: it describes its CPUs in an MP table",
        _LIBKRUN_SOURCE,
        matters="no: there are no ACPI tables to find",
    ),
    Deviation(
        "LIBKRUN-RAM-END",
        "SI-MM-PAGES",
        "libkrun",
        frozenset(),
        frozenset({"ends one byte behind a whole page"}),
        "libkrun adds one to the size of its last RAM range, as a VMM does that counts from the last address; it counts from the end",
        _LIBKRUN_SOURCE,
        matters="seldom: Linux rounds the end down to a page; a guest that rounds up uses a page that is not there",
    ),
    *(
        Deviation(
            f"ALIOTH-{name.upper()}-LIMIT",
            f"PVH-{name.upper()}-FLAT",
            "Alioth",
            frozenset(),
            frozenset({"0xfffffff"}),
            _FLAT_BUT_SHORT,
            _FLAT_BUT_SHORT_SOURCE,
            since=(0, 12),
            until=(0, 12),
            matters=_FLAT_BUT_SHORT_MATTERS,
        )
        for name in ("ds", "es", "ss")
    ),
    Deviation(
        "ALIOTH-FSGS-LIMIT",
        "PVH-FSGS",
        "Alioth",
        frozenset(),
        frozenset({"base 0x0, limit 0xfffffff: not flat"}),
        _FLAT_BUT_SHORT,
        _FLAT_BUT_SHORT_SOURCE,
        since=(0, 12),
        until=(0, 12),
        matters="no: the ABI leaves fs and gs free",
    ),
    Deviation(
        "ALIOTH-CR0-ET",
        "PVH-CR0-ET",
        "Alioth",
        frozenset(),
        frozenset({"0 (cr0 = 0x1)"}),
        "Alioth sets cr0 from a constant that has PE only",
        "Alioth alioth/src/loader/xen/xen.rs; measured with 0.12 on KVM",
        since=(0, 12),
        until=(0, 12),
        matters="no: a guest that compares the whole of cr0 with 0x11 fails, any other one does not see it",
    ),
)  # fmt: skip
