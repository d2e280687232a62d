"""The notes of an x86 ELF core: NT_PRSTATUS (Linux include/uapi/linux/elfcore.h) and QEMU's own CPU state.

QEMU's is `struct QEMUCPUState` of target/i386/arch_dump.c, version 1; its segments hold the descriptor's high dword as flags.
"""

from __future__ import annotations

from pvhdbg.layout import Structure, raw, u16, u32, u64

NT_PRSTATUS, NT_PRPSINFO = 1, 3
CORE_OWNER, QEMU_OWNER = b"CORE\0", b"QEMU\0"
QEMU_NOTE = 0
PVHDBG_OWNER = b"PVHDBG\0"
PVHDBG_SNAPSHOT = 1  # the text of a snapshot file without its memory, which is in the PT_LOADs
QEMU_VERSION = 1
PN_XNUM = 0xFFFF  # e_phnum when the count does not fit: section header 0's sh_info holds it


class PrStatus64(Structure):
    """struct elf_prstatus of x86-64."""

    si_signo: int = u32("signal")
    si_code: int = u32("its code")
    si_errno: int = u32("its errno")
    pr_cursig: int = u16("current signal")
    pr_sigpend: int = u64("pending signals")
    pr_sighold: int = u64("held signals")
    pr_pid: int = u32("process; QEMU puts the CPU's number plus 1 here")
    pr_ppid: int = u32("parent")
    pr_pgrp: int = u32("process group")
    pr_sid: int = u32("session")
    times: bytes = raw(64, "four struct timeval")
    r15: int = u64("r15")
    r14: int = u64("r14")
    r13: int = u64("r13")
    r12: int = u64("r12")
    rbp: int = u64("rbp")
    rbx: int = u64("rbx")
    r11: int = u64("r11")
    r10: int = u64("r10")
    r9: int = u64("r9")
    r8: int = u64("r8")
    rax: int = u64("rax")
    rcx: int = u64("rcx")
    rdx: int = u64("rdx")
    rsi: int = u64("rsi")
    rdi: int = u64("rdi")
    orig_rax: int = u64("system call")
    rip: int = u64("rip")
    cs: int = u64("selector")
    eflags: int = u64("rflags")
    rsp: int = u64("rsp")
    ss: int = u64("selector")
    fs_base: int = u64("base of fs")
    gs_base: int = u64("base of gs")
    ds: int = u64("selector")
    es: int = u64("selector")
    fs: int = u64("selector")
    gs: int = u64("selector")
    pr_fpvalid: int = u32("whether there are FPU registers")


class PrStatus32(Structure):
    """struct elf_prstatus of i386."""

    si_signo: int = u32("signal")
    si_code: int = u32("its code")
    si_errno: int = u32("its errno")
    pr_cursig: int = u16("current signal")
    pr_sigpend: int = u32("pending signals")
    pr_sighold: int = u32("held signals")
    pr_pid: int = u32("process; QEMU puts the CPU's number plus 1 here")
    pr_ppid: int = u32("parent")
    pr_pgrp: int = u32("process group")
    pr_sid: int = u32("session")
    times: bytes = raw(32, "four struct timeval")
    rbx: int = u32("ebx")
    rcx: int = u32("ecx")
    rdx: int = u32("edx")
    rsi: int = u32("esi")
    rdi: int = u32("edi")
    rbp: int = u32("ebp")
    rax: int = u32("eax")
    ds: int = u32("selector")
    es: int = u32("selector")
    fs: int = u32("selector")
    gs: int = u32("selector")
    orig_rax: int = u32("system call")
    rip: int = u32("eip")
    cs: int = u32("selector")
    eflags: int = u32("eflags")
    rsp: int = u32("esp")
    ss: int = u32("selector")
    pr_fpvalid: int = u32("whether there are FPU registers")


class QemuCpu(Structure):
    """The beginning of struct QEMUCPUState. A QemuSegment for each of QEMU_SEGMENTS and a QemuControl follow."""

    version: int = u32("1")
    size: int = u32("of the whole structure")
    rax: int = u64("rax")
    rbx: int = u64("rbx")
    rcx: int = u64("rcx")
    rdx: int = u64("rdx")
    rsi: int = u64("rsi")
    rdi: int = u64("rdi")
    rsp: int = u64("rsp")
    rbp: int = u64("rbp")
    r8: int = u64("r8")
    r9: int = u64("r9")
    r10: int = u64("r10")
    r11: int = u64("r11")
    r12: int = u64("r12")
    r13: int = u64("r13")
    r14: int = u64("r14")
    r15: int = u64("r15")
    rip: int = u64("rip")
    eflags: int = u64("rflags")


class QemuSegment(Structure):
    """struct QEMUCPUSegment. For gdt and idt only `limit` and `base` have a meaning."""

    selector: int = u32("selector")
    limit: int = u32("in bytes, scaled")
    flags: int = u32("the descriptor's high dword")
    pad: int = u32("0")
    base: int = u64("linear address")


QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")


class QemuControl(Structure):
    """The control registers in struct QEMUCPUState. Newer versions append kernel_gs_base."""

    cr0: int = u64("cr0")
    cr1: int = u64("unused: x86 has no cr1")
    cr2: int = u64("cr2")
    cr3: int = u64("cr3")
    cr4: int = u64("cr4")
