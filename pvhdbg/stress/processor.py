"""Mutations of the CPU's state at the entry: registers, flags, tables, a pending interrupt, its features."""

from __future__ import annotations

from dataclasses import replace

from pvhdbg.spec.elf_notes import PAE_MODE
from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.stress.handover import NotTried
from pvhdbg.stress.mutation import Aspect, ChangedHandover, Mutation
from pvhdbg.stress.trampoline import Selectors

_GARBAGE = {"rax": 0xA5A5A500, "rcx": 0xA5A5A501, "rdx": 0xA5A5A502, "rsi": 0xA5A5A506, "rdi": 0xA5A5A507, "rbp": 0xA5A5A505}
_FLAGS = ("CF", "PF", "AF", "ZF", "SF", "DF", "OF")
_RESERVED_ONE = 1 << 1
OUTSIDE = 0xF0000000  # neither RAM nor a device on pc, q35 and microvm with less than 3 GiB


def _registers(draft: ChangedHandover) -> None:
    draft.registers.update(_GARBAGE)


def _flags(draft: ChangedHandover) -> None:
    flags = sum(1 << EFLAGS[name] for name in _FLAGS) | _RESERVED_ONE
    draft.trampoline = replace(draft.trampoline, flags=flags | 1 << EFLAGS["AC"] | 1 << EFLAGS["ID"] | 3 << 12)


def _esp_zero(draft: ChangedHandover) -> None:
    draft.registers["rsp"] = 0


def _esp_outside(draft: ChangedHandover) -> None:
    info = draft.info
    if any(one.addr <= OUTSIDE < one.addr + one.size for one in info.memory_map or ()):
        raise NotTried(f"this machine has something at {OUTSIDE:#x}")
    draft.registers["rsp"] = OUTSIDE


def _cr2(draft: ChangedHandover) -> None:
    draft.trampoline = replace(draft.trampoline, cr2=0xA5A5A5A5)


def _gdt(draft: ChangedHandover) -> None:
    code, data = (draft.boot.segments[name].selector or 0 for name in ("cs", "ds"))
    if not code or not data or code == data or max(code, data) > 0xF0 or code & 7 or data & 7:
        raise NotTried("the loader's selectors do not fit into a small GDT")
    draft.trampoline = replace(draft.trampoline, selectors=Selectors(code, data, data, data))
    draft.forget_gdt = True


def _selectors(draft: ChangedHandover) -> None:
    draft.trampoline = replace(draft.trampoline, selectors=Selectors(0x60, 0x68, 0x68, 0x68))


def _no_fs_gs(draft: ChangedHandover) -> None:
    draft.trampoline = replace(draft.trampoline, selectors=Selectors(fs=0, gs=0))


def _tr(draft: ChangedHandover) -> None:
    if draft.boot.segments["tr"].limit == 0x67 and not draft.asked:
        raise NotTried("the limit is 0x67 already")
    draft.trampoline = replace(draft.trampoline, selectors=Selectors(task=0x28))


def _idt(draft: ChangedHandover) -> None:
    draft.trampoline = replace(draft.trampoline, idt=(0, 0))


def _interrupt(draft: ChangedHandover) -> None:
    draft.trampoline = replace(draft.trampoline, interrupt=True)


def _no_pae(draft: ChangedHandover) -> None:
    """Whether a 32-bit kernel needs PAE is in its note PAE_MODE; without one it claims nothing."""
    if draft.asked:
        return
    kernel = draft.boot.snapshot.kernel
    if kernel is None or kernel.elf_class != 32:
        raise NotTried("64-bit code needs PAE; name the mutation to try it all the same")
    if any(one.is_xen and one.type == PAE_MODE and one.desc.startswith(b"yes") for one in draft.notes):
        raise NotTried("the kernel's note PAE_MODE says that it needs PAE")


def _no_x2apic(draft: ChangedHandover) -> None:
    if not draft.asked and not draft.boot.snapshot.vmm.kvm:
        raise NotTried("QEMU's CPUs have none by default under TCG, and they do with --accel kvm")


MUTATIONS = (
    Mutation("registers-garbage", "eax, ecx, edx, esi, edi and ebp hold garbage", Aspect.REGISTERS, "PVH-ESP", _registers,
             "QEMU: they hold what the firmware computed last"),
    Mutation("flags-garbage", "the arithmetic flags, DF, IOPL, AC and ID are set", Aspect.FLAGS, "PVH-EFL-DF", _flags),
    Mutation("esp-zero", "esp is 0", Aspect.STACK, "PVH-ESP", _esp_zero, "Xen, Firecracker, Cloud Hypervisor, libkrun"),
    Mutation("esp-outside", "esp points where there is no memory", Aspect.STACK, "PVH-ESP", _esp_outside),
    Mutation("cr2-garbage", "cr2 holds garbage", Aspect.CR2, "PVH-ESP", _cr2),
    Mutation("gdt-gone", "the loader's GDT is overwritten after its use", Aspect.TABLES, "PVH-ESP", _gdt,
             "Xen sets no gdtr"),
    Mutation("selectors-other", "cs is 0x60 and the data segments are 0x68", Aspect.TABLES, "PVH-FSGS", _selectors,
             "Xen enters with selectors of 0"),
    Mutation("fs-gs-null", "fs and gs are null", Aspect.TABLES, "PVH-FSGS", _no_fs_gs, "Xen"),
    Mutation("tr-limit", "the limit of tr is 0x67, as the ABI says", Aspect.TABLES, "PVH-TR-LIMIT", _tr,
             "Xen, Firecracker, Cloud Hypervisor, libkrun; QEMU leaves the CPU's reset value 0xffff"),
    Mutation("idt-empty", "the limit of the IDT is 0", Aspect.IDT, "PVH-ESP", _idt,
             "Firecracker and Cloud Hypervisor, with a limit of 7"),
    Mutation("interrupt-pending", "the timer's interrupt is pending", Aspect.INTERRUPT, "PVH-EFL-IF", _interrupt),
    Mutation("cpu-no-nx", "the CPU has no NX", Aspect.CPU, "PVH-ESP", cpu="-nx"),
    Mutation("cpu-no-sse3", "the CPU has no SSE3", Aspect.CPU, "PVH-ESP", cpu="-sse3,-ssse3"),
    Mutation("cpu-no-pae", "the CPU has no PAE", Aspect.CPU, "PVH-ESP", _no_pae, cpu="-pae"),
    Mutation("cpu-no-x2apic", "the CPU has no x2APIC", Aspect.CPU, "PVH-ESP", _no_x2apic,
             "QEMU's own emulation, before 9.0", cpu="-x2apic"),
)  # fmt: skip
