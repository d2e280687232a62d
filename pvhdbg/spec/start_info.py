"""`struct hvm_start_info` and the structures that it points to, in every published form.

Source: xen/include/public/arch-x86/hvm/start_info.h (v0: 247d38c870, 2016-04-12, Xen 4.7; v1: 7e4eaf428b, 2018-04-02,
Xen 4.11). Draft A's structure is the proposal in the mail of 2015-06-10, in the widths of both guest ABIs.
"""

from __future__ import annotations

from types import MappingProxyType

from pvhdbg.layout import Structure, raw, u32, u64

START_MAGIC = 0x336EC578  # "xEn3" with the 0x80 bit of the "E" set


class StartInfoV0(Structure):
    """struct hvm_start_info, version 0: 40 bytes."""

    magic: int = u32("0x336ec578")
    version: int = u32("version of this structure; later versions only append")
    flags: int = u32("SIF_* flags")
    nr_modules: int = u32("number of modules passed to the guest")
    modlist_paddr: int = u64("physical address of an array of hvm_modlist_entry; 0 is none")
    cmdline_paddr: int = u64("physical address of the command line; 0 is none")
    rsdp_paddr: int = u64("physical address of the ACPI RSDP; 0 is none")


class StartInfoV1(StartInfoV0):
    """struct hvm_start_info, version 1: 56 bytes."""

    memmap_paddr: int = u64("physical address of an array of hvm_memmap_table_entry; 0 is none")
    memmap_entries: int = u32("number of entries in the memory map; 0 if there is none")
    reserved: int = u32("must be zero")


class ModuleEntry(Structure):
    """struct hvm_modlist_entry: 32 bytes."""

    paddr: int = u64("physical address of the module")
    size: int = u64("size of the module in bytes")
    cmdline_paddr: int = u64("physical address of its command line; 0 is none")
    reserved: int = u64("reserved")


class MemoryMapEntry(Structure):
    """struct hvm_memmap_table_entry: 24 bytes."""

    addr: int = u64("base address of the range")
    size: int = u64("size of the range in bytes")
    type: int = u32("XEN_HVM_MEMMAP_TYPE_*, as in ACPI chapter 15")
    reserved: int = u32("must be zero for version 1")


# XEN_HVM_MEMMAP_TYPE_* (start_info.h), the address range types of ACPI 6.2 chapter 15.
MEMORY_TYPES = MappingProxyType({1: "RAM", 2: "reserved", 3: "ACPI", 4: "NVS", 5: "unusable", 6: "disabled", 7: "PMEM"})
RAM, RESERVED = 1, 2

# xen/include/public/xen.h:894-900; defined for the PV start_info, only the first two are produced for PVH.
START_FLAGS = MappingProxyType(
    {
        "SIF_PRIVILEGED": 1 << 0,
        "SIF_INITDOMAIN": 1 << 1,
        "SIF_MULTIBOOT_MOD": 1 << 2,
        "SIF_MOD_START_PFN": 1 << 3,
        "SIF_VIRT_P2M_4TOOLS": 1 << 4,
    }
)
SIF_PM_MASK = 0xFF << 8
SIF_KNOWN = sum(START_FLAGS.values()) | SIF_PM_MASK
SIF_PVH = START_FLAGS["SIF_PRIVILEGED"] | START_FLAGS["SIF_INITDOMAIN"]


def flag_names(flags: int) -> list[str]:
    """The names of the SIF_* flags that are set; the rest as one hexadecimal number."""
    names = [name for name, bit in START_FLAGS.items() if flags & bit]
    if flags & SIF_PM_MASK:
        names.append(f"SIF_PM({flags >> 8 & 0xFF:#x})")
    rest = flags & ~SIF_KNOWN
    return [*names, f"{rest:#x}"] if rest else names


# --- Draft A ------------------------------------------------------------------------------------------------------

DRAFT_A_EAX = 0xFF6BC1E2
# Offered in the same thread in place of the "completely random" number.
DRAFT_A_ALTERNATIVES = MappingProxyType(
    {0x336EC578: "Jan Beulich's 'xEn3', which became the shipped magic", 0x3BADB002: "multiboot 1's with a 3 for the 2"}
)
DRAFT_A_MAGIC_PREFIX = b"xen-"
DRAFT_A_COMMAND_LINE = 1024


class DraftAStartInfo32(Structure):
    """Draft A's hvm_start_info as a 32-bit guest sees it: 1072 bytes (unsigned long and xen_pfn_t are 32 bits)."""

    magic: bytes = raw(32, 'char[32]: "xen-<version>-<platform>"')
    console: int = u32("domU: physical address of the console page; dom0: offset of the console_info structure")
    console_detail: int = u32("domU: event channel; dom0: size of the console_info structure")
    mod_start: int = u32("physical address of the pre-loaded module")
    mod_len: int = u32("size of the pre-loaded module in bytes")
    cmd_line: bytes = raw(DRAFT_A_COMMAND_LINE, "the command line itself")


class DraftAStartInfo64(Structure):
    """Draft A's hvm_start_info as a 64-bit guest sees it: 1088 bytes. For dom0, `console` holds offset and size."""

    magic: bytes = raw(32, 'char[32]: "xen-<version>-<platform>"')
    console: int = u64("domU: physical address of the console page; dom0: offset and size of the console_info")
    console_detail: int = u32("domU: event channel")
    mod_start: int = u64("physical address of the pre-loaded module")
    mod_len: int = u64("size of the pre-loaded module in bytes")
    cmd_line: bytes = raw(DRAFT_A_COMMAND_LINE, "the command line itself")
