"""The state of a hypervisor's guest at `vmrun`: from its VMCB, and from the CPU for what VMRUN does not load. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pvhdbg.model import EXTENDED, DescriptorTable, Registers, Segment, Segments
from pvhdbg.spec.svm import VMRUN, Vmcb, segments_of

SOURCE = "VMCB"
_BY_VMRUN = ("es", "cs", "ss", "ds")
_KEPT = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *EXTENDED)  # VMRUN leaves them to the guest
_MISSING = "VMRUN does not load it, and the stub does not show it"
# Xen answers CPUID with its name, whose three parts are constants in its code. No other hypervisor has them.
_XENS_NAME = (b"XenV", b"MMXe", b"nVMM")


def registers(vmcb: Vmcb, cpu: Registers) -> Registers:
    """The guest's registers. `cpu` are those at the `vmrun`."""
    kept = {name: cpu.get(name) for name in (*_KEPT, "fs_base", "gs_base")}
    segments = segments_of(vmcb)
    values = {
        **{name: value for name, value in kept.items() if value is not None},
        **{name: segments[name].selector for name in (*_BY_VMRUN, "fs", "gs")},
        "rax": vmcb.rax,
        "rsp": vmcb.rsp,
        "rip": vmcb.rip,
        "eflags": vmcb.rflags,
        "cr0": vmcb.cr0,
        "cr2": vmcb.cr2,
        "cr3": vmcb.cr3,
        "cr4": vmcb.cr4,
        "efer": vmcb.efer,
    }
    for name in ("fs", "gs"):
        values.setdefault(f"{name}_base", segments[name].base)
    return Registers(values, _MISSING)


def segments(vmcb: Vmcb, cpu: Segments) -> Segments:
    """The guest's hidden segment state. fs, gs, ldt and tr are the CPU's where it is known: VMLOAD has loaded them before."""
    by_name = {}
    for name, one in segments_of(vmcb).items():
        seen = cpu.by_name.get(name) if name not in _BY_VMRUN else None
        if name not in ("gdt", "idt"):
            by_name[name] = seen or Segment(one.selector, one.base, one.limit, one.flags)
    tables = {name: DescriptorTable(one.base, one.limit) for name, one in segments_of(vmcb).items() if name in ("gdt", "idt")}
    return Segments(by_name, tables["gdt"], tables["idt"], _MISSING)


def vmruns(code: bytes, address: int) -> Iterator[int]:
    """The addresses of `vmrun` in that code."""
    at = code.find(VMRUN)
    while at >= 0:
        yield address + at
        at = code.find(VMRUN, at + 1)


def parts_of_xens_name(code: bytes) -> set[bytes]:
    """The constants of Xen's name in that code."""
    return {part for part in _XENS_NAME if part in code}


def names_xen(parts: set[bytes]) -> bool:
    """Whether these are all of them."""
    return parts == set(_XENS_NAME)
