"""ELF notes in kernels: number, name, kind of descriptor, meaning; Xen's (xen/include/public/elfnote.h) and a few others'.

readelf and pyelftools show Xen's notes under the names of other owners' notes: identify a note by owner and number.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType

from pvhdbg.record import NamedTuple


class NoteKind(Enum):
    """What a note's descriptor is; the values are those of JSON. UNKNOWN is that of a note that is not in the tables below."""

    NUMBER = "number"
    STRING = "string"
    ARRAY = "array"
    BINARY = "binary"
    IDENTITY = "identity"
    UNKNOWN = "unknown"


class NoteType(NamedTuple):
    """What one note number means."""

    name: str
    kind: NoteKind
    meaning: str


VIRT_BASE = 3
PADDR_OFFSET = 4
GUEST_OS = 6
PAE_MODE = 9
FEATURES = 10
L1_MFN_VALID = 13
SUPPORTED_FEATURES = 17
PHYS32_ENTRY = 18
PHYS32_RELOC = 19
PHYS32_ENTRY_DRAFT_NAME = "PADDR_ENTRY"  # in Draft A (2015), where it had no number yet

XEN_NOTES = MappingProxyType(
    {
        0: NoteType("INFO", NoteKind.STRING, "NAME=VALUE"),
        1: NoteType("ENTRY", NoteKind.NUMBER, "PV: virtual entry address"),
        2: NoteType("HYPERCALL_PAGE", NoteKind.NUMBER, "PV: virtual address of the hypercall page"),
        3: NoteType("VIRT_BASE", NoteKind.NUMBER, "PV: virtual address at which the image is mapped"),
        4: NoteType("PADDR_OFFSET", NoteKind.NUMBER, "offset of p_paddr from the pseudo-physical address; ignored for PVH"),
        5: NoteType("XEN_VERSION", NoteKind.STRING, "the Xen interface that the kernel was built for"),
        6: NoteType("GUEST_OS", NoteKind.STRING, "the guest's operating system"),
        7: NoteType("GUEST_VERSION", NoteKind.STRING, "its version"),
        8: NoteType("LOADER", NoteKind.STRING, "the kind of loader that the kernel needs"),
        9: NoteType("PAE_MODE", NoteKind.STRING, "PV: yes, no or bimodal"),
        10: NoteType("FEATURES", NoteKind.STRING, "feature names, separated by |; ! makes one required"),
        11: NoteType("BSD_SYMTAB", NoteKind.STRING, "whether the loader must load the symbol table"),
        12: NoteType("HV_START_LOW", NoteKind.NUMBER, "lowest address that the hypervisor may use"),
        13: NoteType("L1_MFN_VALID", NoteKind.ARRAY, "mask and value of valid level 1 entries"),
        14: NoteType("SUSPEND_CANCEL", NoteKind.NUMBER, "whether a suspend can be cancelled"),
        15: NoteType("INIT_P2M", NoteKind.NUMBER, "PV: virtual address of the initial p2m"),
        16: NoteType("MOD_START_PFN", NoteKind.NUMBER, "PV: the module may be passed by frame number"),
        17: NoteType("SUPPORTED_FEATURES", NoteKind.NUMBER, "bit mask of XENFEAT_*"),
        18: NoteType("PHYS32_ENTRY", NoteKind.NUMBER, "the PVH entry: a 32-bit physical address"),
        19: NoteType("PHYS32_RELOC", NoteKind.ARRAY, "the kernel may be moved: alignment, minimum, maximum"),
        0x1000001: NoteType("CRASH_INFO", NoteKind.BINARY, "kdump"),
        0x1000002: NoteType("CRASH_REGS", NoteKind.BINARY, "kdump"),
        0x2000000: NoteType("DUMPCORE_NONE", NoteKind.BINARY, "core dumps"),
        0x2000001: NoteType("DUMPCORE_HEADER", NoteKind.BINARY, "core dumps"),
        0x2000002: NoteType("DUMPCORE_XEN_VERSION", NoteKind.BINARY, "core dumps"),
        0x2000003: NoteType("DUMPCORE_FORMAT_VERSION", NoteKind.BINARY, "core dumps"),
    }
)

# xen/include/public/features.h: XENFEAT_*
XEN_FEATURES = (
    "writable_page_tables",
    "writable_descriptor_tables",
    "auto_translated_physmap",
    "supervisor_mode_kernel",
    "pae_pgdir_above_4gb",
    "mmu_pt_update_preserve_ad",
    "highmem_assist",
    "gnttab_map_avail_bits",
    "hvm_callback_vector",
    "hvm_safe_pvclock",
    "hvm_pirqs",
    "dom0",
    "grant_map_identity",
    "memory_op_vnode_supported",
    "ARM_SMCCC_supported",
    "linux_rsdp_unrestricted",
    "not_direct_mapped",
    "direct_mapped",
    "runstate_phys_area",
    "vcpu_time_phys_area",
    "dm_msix_all_writes",
)

# Other owners' notes that kernels hold: binutils include/elf/common.h; Linux include/linux/build-salt.h, elfnote-lto.h.
OTHER_NOTES = MappingProxyType(
    {
        (b"GNU\0", 1): NoteType("ABI_TAG", NoteKind.BINARY, "lowest kernel for a user program"),
        (b"GNU\0", 3): NoteType("BUILD_ID", NoteKind.IDENTITY, "names this build"),
        (b"GNU\0", 4): NoteType("GOLD_VERSION", NoteKind.STRING, "the gold linker's version"),
        (b"GNU\0", 5): NoteType(
            "PROPERTY_TYPE_0", NoteKind.BINARY, "processor features (.note.gnu.property), aligned to 8 in ELF64"
        ),
        (b"Linux\0", 0): NoteType("VERSION", NoteKind.STRING, "the kernel's version"),
        (b"Linux\0", 0x100): NoteType("BUILD_SALT", NoteKind.STRING, "CONFIG_BUILD_SALT"),
        (b"Linux\0", 0x101): NoteType("LTO_INFO", NoteKind.NUMBER, "whether it was linked with LTO"),
        (b"FDO\0", 0xCAFE1A7E): NoteType("PACKAGING_METADATA", NoteKind.STRING, "JSON about the package"),
        (b"Go\0\0", 4): NoteType("GO_BUILD_ID", NoteKind.STRING, "names this build"),
    }
)
