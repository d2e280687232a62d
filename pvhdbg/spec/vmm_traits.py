"""What VMMs hand over that no rule calls a violation, and that a guest's author may stumble over: which VMM, what, does it matter."""

from __future__ import annotations

from typing import NamedTuple


class VmmTrait(NamedTuple):
    """One trait. `versions` names the VMM and its versions in words; `source` is the evidence."""

    key: str
    versions: str
    what: str
    matters: str
    source: str


TRAITS = (
    VmmTrait(
        "XEN-DOM0-VERSION-0",
        "Xen 4.17 to 4.20, dom0",
        "start_info is of version 0 with the flags SIF_PRIVILEGED and SIF_INITDOMAIN: the structure ends at byte 40, without a memory map",
        "yes: a guest has to ask Xen for its memory map (XENMEM_memory_map). Linux and FreeBSD do",
        "measured with 4.17.7 and 4.20.4",
    ),
    VmmTrait(
        "XEN-OWN-ABI",
        "Xen 4.17 to 4.20",
        "all selectors are 0 and no GDT is loaded; cs has the flags 0xc9b, ds, es and ss have 0xc93, tr has the limit 0x67; eax is 0",
        "no: this is the ABI as its text has it. A guest that loads a selector before it has a GDT of its own faults",
        "measured with 4.17.7 and 4.20.5: general registers and selectors by the probe, hidden segment state in the VMCB of dom0",
    ),
    VmmTrait(
        "XEN-DOM0-RSDP-PLACE",
        "Xen 4.17 to 4.20, dom0",
        "the RSDP lies in RAM behind the kernel, at an address that is not a multiple of 16",
        "no: start_info has its address. A search for it in low memory finds the host's RSDP, with the host's tables",
        "Xen xen/arch/x86/hvm/dom0_build.c, pvh_setup_acpi(); measured with 4.17.7 and 4.20.4",
    ),
    VmmTrait(
        "ALIOTH-RAM-OVER-VGA",
        "Alioth 0.12",
        "the memory map has RAM over 0xa0000 to 0xfffff, where a PC has its VGA window and ROMs",
        "no: there is RAM, and no such device",
        "measured with 0.12 on KVM",
    ),
    VmmTrait(
        "FIRECRACKER-MAP-ORDER",
        "Firecracker 1.17-dev",
        "the memory map is not in order: the reserved range of PCI's MMCONFIG lies in front of the RAM ranges",
        "no: every known guest sorts the map, or takes it in any order",
        "Firecracker src/vmm/src/arch/x86_64/mod.rs, configure_pvh(), of 2026; not in 1.12.1, which was measured",
    ),
)
