"""The VMCB, AMD's structure for a guest that a hypervisor enters by `vmrun`: AMD64 Architecture Programmer's Manual volume 2, appendix B.

VMRUN loads es, cs, ss, ds, the tables, the control registers, rsp, rip, rflags and rax from it. The other general registers, fs, gs, ldt
and tr (by VMLOAD) are the CPU's at that moment.
"""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u16, u32, u64

VMRUN = b"\x0f\x01\xd8"
NESTED_PAGING = 1 << 0  # of `nested`
SIZE = 4096


class VmcbSegment(Structure):
    """A segment register in a VMCB."""

    selector: int = u16("the selector")
    attributes: int = u16("descriptor bits 40-47 in bits 0-7, 52-55 in bits 8-11")
    limit: int = u32("bytes, scaled")
    base: int = u64("linear address")

    @property
    def flags(self) -> int:
        """The attributes as the high dword of a descriptor has them."""
        return (self.attributes & 0xFF) << 8 | (self.attributes & 0xF00) << 12


class Vmcb(Structure):
    """The fields of a VMCB that an entry is judged by. Segments are kept as bytes, in the order of `SEGMENTS`."""

    before_asid: bytes = raw(0x58, "intercepts")
    asid: int = u32("the guest's address space identifier")
    before_exit: bytes = raw(0x70 - 0x5C, "TLB control, virtual interrupts")
    exit_code: int = u64("why the guest was left last")
    before_nested: bytes = raw(0x90 - 0x78, "about that exit")
    nested: int = u64("bit 0: nested paging is on")
    before_ncr3: bytes = raw(0xB0 - 0x98, "events")
    ncr3: int = u64("physical address of the nested page tables")
    before_state: bytes = raw(0x400 - 0xB8, "the rest of the control area")
    segments: bytes = raw(10 * 16, "es cs ss ds fs gs gdtr ldtr idtr tr")
    before_cpl: bytes = raw(0x4D0 - 0x4A0, "reserved, and the privilege level")
    efer: int = u64("EFER; SVME is set in every VMCB")
    before_cr4: bytes = raw(0x548 - 0x4D8, "reserved")
    cr4: int = u64("cr4")
    cr3: int = u64("cr3")
    cr0: int = u64("cr0")
    debug: bytes = raw(16, "dr7 and dr6")
    rflags: int = u64("rflags")
    rip: int = u64("rip")
    before_rsp: bytes = raw(0x5D8 - 0x580, "reserved")
    rsp: int = u64("rsp")
    before_rax: bytes = raw(0x5F8 - 0x5E0, "shadow stack")
    rax: int = u64("rax")
    before_cr2: bytes = raw(0x640 - 0x600, "system call registers")
    cr2: int = u64("cr2")


SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdt", "ldt", "idt", "tr")


def segments_of(vmcb: Vmcb) -> dict[str, VmcbSegment]:
    """The segments and tables by name."""
    return {name: VmcbSegment.decode(vmcb.segments, index * VmcbSegment.sizeof()) for index, name in enumerate(SEGMENTS)}
