"""Bits of the x86 system registers and descriptor types (Intel SDM volume 3A, sections 2.3, 2.5, 3.4.5, 7.2)."""

from __future__ import annotations

from types import MappingProxyType

CR0 = MappingProxyType({"PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29, "CD": 30, "PG": 31})
CR4 = MappingProxyType(
    {
        "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8, "OSFXSR": 9,
        "OSXMMEXCPT": 10, "UMIP": 11, "LA57": 12, "VMXE": 13, "SMXE": 14, "FSGSBASE": 16, "PCIDE": 17, "OSXSAVE": 18,
        "KL": 19, "SMEP": 20, "SMAP": 21, "PKE": 22, "CET": 23, "PKS": 24,
    }
)  # fmt: skip
EFER = MappingProxyType({"SCE": 0, "LME": 8, "LMA": 10, "NXE": 11, "SVME": 12, "LMSLE": 13, "FFXSR": 14, "TCE": 15})
EFLAGS = MappingProxyType(
    {
        "CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11, "NT": 14, "RF": 16, "VM": 17,
        "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
    }
)  # fmt: skip

REGISTER_BITS = MappingProxyType({"cr0": CR0, "cr4": CR4, "efer": EFER, "eflags": EFLAGS})


# The meaning of each bit in a few words. Reserved bits have no name and are not here.
BIT_WORDS = MappingProxyType(
    {
        "cr0": MappingProxyType({
            "PE": "protection enable: protected mode", "MP": "monitor coprocessor: WAIT heeds TS", "EM": "no x87: its instructions fault",
            "TS": "task switched: the next x87 or SSE instruction faults", "ET": "extension type: always 1 since the 486",
            "NE": "x87 errors are #MF, not an interrupt line", "WP": "write protect: read-only pages hold for ring 0 too",
            "AM": "alignment mask: eflags.AC may cause #AC", "NW": "not write-through", "CD": "cache disable", "PG": "paging",
        }),
        "cr4": MappingProxyType({
            "VME": "virtual-8086 extensions", "PVI": "protected-mode virtual interrupts", "TSD": "RDTSC for ring 0 only",
            "DE": "debug registers 4 and 5 are gone, I/O breakpoints", "PSE": "pages of 4 MiB in 32-bit paging",
            "PAE": "page table entries of 64 bits", "MCE": "machine-check exceptions", "PGE": "global pages",
            "PCE": "RDPMC for every ring", "OSFXSR": "the OS saves SSE state by FXSAVE", "OSXMMEXCPT": "the OS handles #XM",
            "UMIP": "SGDT and the like for ring 0 only", "LA57": "5-level paging", "VMXE": "VMX", "SMXE": "SMX",
            "FSGSBASE": "RDFSBASE and the like", "PCIDE": "process-context identifiers", "OSXSAVE": "the OS uses XSAVE",
            "KL": "key locker", "SMEP": "ring 0 does not execute user pages", "SMAP": "ring 0 does not read user pages by mistake",
            "PKE": "protection keys for user pages", "CET": "control-flow enforcement", "PKS": "protection keys for supervisor pages",
        }),
        "efer": MappingProxyType({
            "SCE": "SYSCALL and SYSRET", "LME": "long mode enable: paging will mean long mode", "LMA": "long mode active",
            "NXE": "no-execute pages", "SVME": "AMD's virtualization", "LMSLE": "segment limits in long mode",
            "FFXSR": "fast FXSAVE", "TCE": "translation cache extension",
        }),
        "eflags": MappingProxyType({
            "CF": "carry", "PF": "parity even", "AF": "auxiliary carry", "ZF": "zero", "SF": "sign", "TF": "trap: single step",
            "IF": "interrupts are taken", "DF": "direction: string instructions go down", "OF": "overflow", "NT": "nested task",
            "RF": "resume: no instruction breakpoint for the next one", "VM": "virtual-8086 mode", "AC": "alignment check",
            "VIF": "virtual interrupt flag", "VIP": "virtual interrupt pending", "ID": "CPUID can be asked for by this flag",
        }),
    }
)  # fmt: skip


def bit_names(register: str, value: int) -> list[str]:
    """The names of the bits set in a system register; bits without a name are given as `bitN`."""
    names = {bit: name for name, bit in REGISTER_BITS[register].items()}
    if register == "eflags":
        value &= ~2  # bit 1 always reads 1
    return [names.get(bit, f"bit{bit}") for bit in range(value.bit_length()) if value >> bit & 1]


# Type fields of code and data descriptors (S = 1): bit 3 says code.
TYPE_CODE = 8
TYPE_WRITABLE = 2  # data
TYPE_READABLE = 2  # code
TYPE_EXPAND_DOWN = 4  # data
TYPE_CONFORMING = 4  # code
TYPE_ACCESSED = 1

SYSTEM_TYPES = MappingProxyType(
    {1: "TSS16-avl", 2: "LDT", 3: "TSS16-busy", 4: "call gate 16", 5: "task gate", 9: "TSS32-avl", 11: "TSS32-busy"}
)
TSS32_AVAILABLE = 9
TSS32_BUSY = 11

FLAT_LIMIT = 0xFFFFFFFF
TSS32_MINIMUM_LIMIT = 0x67
