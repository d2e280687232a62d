"""The Xen ELF notes: number, name, kind of descriptor, meaning (xen/include/public/elfnote.h).

readelf and pyelftools give these numbers the names of other owners' notes: go by number.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple


class NoteType(NamedTuple):
    """What one note number means. `kind` is "number", "string", "array" or "binary"."""

    name: str
    kind: str
    meaning: str


PADDR_OFFSET = 4
GUEST_OS = 6
PHYS32_ENTRY = 18
PHYS32_RELOC = 19

XEN_NOTES = MappingProxyType(
    {
        0: NoteType("INFO", "string", "NAME=VALUE"),
        1: NoteType("ENTRY", "number", "PV: virtual entry address"),
        2: NoteType("HYPERCALL_PAGE", "number", "PV: virtual address of the hypercall page"),
        3: NoteType("VIRT_BASE", "number", "PV: virtual address at which the image is mapped"),
        4: NoteType("PADDR_OFFSET", "number", "offset of p_paddr from the pseudo-physical address; ignored for PVH"),
        5: NoteType("XEN_VERSION", "string", "the Xen interface that the kernel was built for"),
        6: NoteType("GUEST_OS", "string", "the guest's operating system"),
        7: NoteType("GUEST_VERSION", "string", "its version"),
        8: NoteType("LOADER", "string", "the kind of loader that it wants"),
        9: NoteType("PAE_MODE", "string", "PV: yes, no or bimodal"),
        10: NoteType("FEATURES", "string", "feature names, separated by |; ! makes one required"),
        11: NoteType("BSD_SYMTAB", "string", "whether the symbol table is to be loaded"),
        12: NoteType("HV_START_LOW", "number", "lowest address that the hypervisor may use"),
        13: NoteType("L1_MFN_VALID", "array", "mask and value of valid level 1 entries"),
        14: NoteType("SUSPEND_CANCEL", "number", "whether a suspend can be cancelled"),
        15: NoteType("INIT_P2M", "number", "PV: virtual address of the initial p2m"),
        16: NoteType("MOD_START_PFN", "number", "PV: the module may be passed by frame number"),
        17: NoteType("SUPPORTED_FEATURES", "number", "bit mask of XENFEAT_*"),
        18: NoteType("PHYS32_ENTRY", "number", "the PVH entry: a 32-bit physical address"),
        19: NoteType("PHYS32_RELOC", "array", "the kernel may be moved: alignment, minimum, maximum"),
        0x1000001: NoteType("CRASH_INFO", "binary", "kdump"),
        0x1000002: NoteType("CRASH_REGS", "binary", "kdump"),
        0x2000000: NoteType("DUMPCORE_NONE", "binary", "core dumps"),
        0x2000001: NoteType("DUMPCORE_HEADER", "binary", "core dumps"),
        0x2000002: NoteType("DUMPCORE_XEN_VERSION", "binary", "core dumps"),
        0x2000003: NoteType("DUMPCORE_FORMAT_VERSION", "binary", "core dumps"),
    }
)
