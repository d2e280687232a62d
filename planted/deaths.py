"""The planted deaths, each declared once: what is booted, and what `why` must say of it. The tests and the page use this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pvhdbg.tracing.death import DeathKind
from tests.support.cli_runner import kernel_elf, pvh_note
from tests.support.small_kernels import FLAT_STACK, OWN_GDT, OWN_IDT, assembled, elf_with_data

_TRIPLE = DeathKind.TRIPLE_FAULT


@dataclass(frozen=True)
class Planted:
    """One death. `name` is that of `crash=`, or of `planted=` in Linux, or of a small kernel that `made` writes into a folder.

    `cause` is the one to name; `kind` is None where what lies in memory decides how it ends. `place` is the symbol at which
    the guest dies, or with `inside` the function in which; None where `words` says it. `words`, and `also`, are words of the verdict:
    {symbol} stands for its address and name. `step` are words of the next step, `caller` the function that called. `options` are those of `pvhdbg.why`.
    """

    name: str
    cause: str
    place: str | None
    words: str
    step: str
    kind: DeathKind | None = _TRIPLE
    cpu: int | None = None
    inside: bool = False
    caller: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    made: Callable[[Path], bytes] | None = None
    also: tuple[str, ...] = ()


_MICROVM = {"machine": "microvm"}
_TWO_CPUS = {"cpus": 2}

CRASHERS = (
    # pointers, calls and code
    Planted("null-pointer", "null pointer", "null_read", "a read at 0x10: not present", "which register held the pointer"),
    Planted("null-call", "call through null", None, "`call eax` at {null_call_site} called address 0x0", "that pointer should be set"),
    Planted("null-call-early", "call through null", None, "`call eax` at {early_call_site} called address 0x0", "that pointer should be set",
            kind=None),
    Planted("wild-return", "nowhere", None, "It came there from {wild_ret}, to 0xd0000000", "took its target from", DeathKind.NOWHERE),
    Planted("virtual-address", "virtual address too early", None, "paging is still off", "physical addresses", DeathKind.NOWHERE),
    Planted("zeros", "zeros", None, "to 0x400000", "to be loaded or copied there", DeathKind.ZEROS),
    Planted("data-executed", "data executed", "not_code", "the data object not_code: `jmp eax` at {data_jump}", "took its target from"),
    Planted("own-code", "overwritten code", "overwritten", "16 bytes from {overwritten} on differ (9a 9a", "--last-write"),
    Planted("read-only", "read-only page", "read_only_store", "a write at 0x150010: the page is read-only", "make the page writable"),
    # stacks
    Planted("wild-esp", "wild stack", "wild_push", "the stack pointer is 0xd0000000", "load the stack pointer"),
    Planted("stack-overflow", "stack overflow", "recurse_call", "is on it 1", "see why recurse_call calls itself"),
    Planted("stack-into-tables", "stack overflow", None, "A stack has grown into the page tables", "see why recurse_down_call calls itself"),
    Planted("stack-into-code", "stack overflow", None, "The stack grew into the kernel's own code", "calls itself", kind=None),
    Planted("esp-rom", "stack not in RAM", None, "The stack pointer was 0xf7ffc, in ROM", "load the stack pointer", kind=None),
    # With some versions it lives on after the return: what it reads from nowhere decides.
    Planted("esp-no-ram", "stack not in RAM", None, "outside all memory and devices", "load the stack pointer", kind=None,
            options={"seconds": 3.0}),
    # interrupts, the IDT and the GDT
    Planted("timer", "interrupt before the PIC is remapped", None, "vector 0x8 at {timer_wait}", "remap the PIC", DeathKind.HALTED),
    Planted("idt-selector", "bad IDT gate", "idt_selector_fault", "names selector 0x78, and it is behind the end of the GDT", "code segment"),
    Planted("idt-short", "null pointer", "idt_short_fault", "the IDT (limit 0x3f) has no entry for vector 14", "which register"),
    Planted("handled", "null pointer", None, "#PF page fault at {handled_fault}", "which register held the pointer",
            DeathKind.HALTED),
    Planted("nested", "null pointer", "nested_fault", "in it came #DE divide error at {nested_divide}", "which register held the pointer"),
    Planted("nested-forever", "divide by zero", "nested_divide", "for the 1,025th time", "divisor was to be set"),
    Planted("lgdt-missing", "no GDT of its own", "lgdt_missing_load", "selector 0x78 in the GDT is not usable", "lgdt"),
    Planted("gdt-selector", "bad selector", "gdt_selector_jump", "behind the end of the GDT (limit 0x1f)", "base and limit"),
    Planted("gdt-data", "bad selector", "gdt_data_jump", "its descriptor is not that of a code segment", "descriptor of that selector"),
    # paging
    Planted("page-fault", "unmapped code", "after_paging", "do not map the code", "map the code"),
    Planted("elsewhere", "code mapped elsewhere", None, "to 0x30", "map the code"),
    Planted("cr3-level", "CR3 one level off", None, "(pdpt), which is a PDPT, not a PML4", "address of the PML4"),
    Planted("cr3-rom", "page tables not in RAM", None, "CR3 points to 0xf8000, which is in ROM", "into RAM"),
    Planted("cr3-nowhere", "page tables not in RAM", None, "0xd0000000, which is outside all memory", "into RAM"),
    Planted("no-lme", "long mode not enabled", None, "EFER.LME is 0", "set EFER.LME"),
    Planted("no-pse", "large pages without PSE", None, "CR4.PSE is 0", "set CR4.PSE"),
    Planted("own-tables", "page tables overwritten", "own_tables_end", "now holds 0x0", "--last-write"),
    Planted("non-canonical", "non-canonical address", "non_canonical_read", "a read at 0x800000001000", "who computed it"),
    # instructions that the CPU refuses
    Planted("divide", "divide by zero", "divide_by_zero", "the divisor is 0", "divisor was to be set"),
    Planted("divide-overflow", "divide overflow", "divide_too_large", "the divisor is 0x2", "upper half of the dividend"),
    Planted("wrmsr", "wrmsr", "faulting_wrmsr", "MSR 0xc0010117 does not take 0x1", "CPUID"),
    Planted("sse", "SSE not enabled", "sse_instruction", "CR4.OSFXSR is 0", "set CR4.OSFXSR"),
    Planted("xsave", "XSAVE not enabled", "xsave_instruction", "CR4.OSXSAVE is 0", "set CR4.OSXSAVE", options={"cpu": "max,-cx16"}),
    Planted("feature", "missing CPU feature", "feature_instruction", "it needs rdrand, which this machine's CPU does not have", "--cpu max",
            options={"cpu": "qemu64,-cx16"}),
    # ends
    Planted("hlt", "halted", None, "eflags.IF is 0", "who called", DeathKind.HALTED),
    Planted("endless-loop", "endless loop", None, "one instruction that jumps to itself", "who jumps there", DeathKind.LOOP),
    Planted("keyboard-reset", "reset", None, "by the keyboard controller: `out 0x64, al` at {keyboard_out} wrote 0xfe", "led there",
            DeathKind.RESET),
    Planted("cf9-reset", "reset", None, "`out dx, al` at {cf9_out} wrote 0x6 to port 0xcf9", "led there", DeathKind.RESET),
    Planted("acpi-reset", "reset", None, "by ACPI's reset register: `mov byte ptr [0xfea00202], 0x42` at {acpi_reset_store} wrote 0x42",
            "led there", DeathKind.RESET, options=_MICROVM),
    Planted("power-off", "power-off", None, "`out dx, ax` at {power_out} wrote 0x2000 to port 0x604", "led there", DeathKind.SHUTDOWN),
    Planted("acpi-power-off", "power-off", None, "by ACPI's sleep control register: `mov [edi], al` at {acpi_power_off_store} wrote 0x34",
            "led there", DeathKind.SHUTDOWN, options=_MICROVM),
    Planted("words", "halted", None, "eflags.IF is 0", "who called", DeathKind.HALTED),
    Planted("no-exit-device", "no exit device", None, "this machine does not have", "-device isa-debug-exit", DeathKind.HALTED),
    Planted("watchdog", "watchdog", None, "watchdog_wait", "reset the timer", DeathKind.RESET, options={"extra": ("-device", "ib700")}),
    Planted("watchdog-pci", "watchdog", None, "watchdog_wait", "reset the timer", DeathKind.RESET,
            options={"extra": ("-device", "i6300esb")}),
    # a second CPU
    Planted("second-cpu", "stopped itself", None, "CPU 1 shut down with a triple fault, at 0x8007 in real mode: `ud2`", "function above",
            cpu=1, options=_TWO_CPUS, also=("start-up IPI with vector 0x8", "has no entry for vector 6")),
    Planted("started-twice", "started twice", None, "and began at 0x8000 again", "once to each CPU", cpu=1, options=_TWO_CPUS),
    Planted("double-sipi", "second start-up IPI", None, "by `hlt` with interrupts off at 0x8017, and went on behind it",
            "a second start-up IPI only", cpu=1, options=_TWO_CPUS),
)  # fmt: skip


def _zeros_at_the_entry(_: Path) -> bytes:
    return kernel_elf(b"\xeb\xfe" + bytes(0x2000), pvh_note(0x101000))


def _odd_zeros(folder: Path) -> bytes:
    """As crash=zeros; here an instruction lies across the end of each page, and the jump is behind the instructions that are followed."""
    return kernel_elf(
        assembled(folder, "mov $20000, %ecx\n 1: dec %ecx\n jnz 1b\n xor %eax, %eax\n mov $0x400001, %ecx\n jmp *%ecx")
    )


def _too_large(folder: Path) -> bytes:
    """Its data is at 40 MiB of a machine with 32: the GDT that it loads from there is empty."""
    text = "lgdt 0x2800000\n mov $0x10, %eax\n mov %eax, %ds\n hlt"
    return elf_with_data(assembled(folder, text), 0x2800000, bytes([0x17, 0, 8, 0, 0x80, 2, *bytes(0x1000)]))


def _among_devices(folder: Path) -> bytes:
    """The same at 3.25 GiB, where a PC has no RAM however much it has."""
    text = "lgdt 0xd0000000\n mov $0x10, %eax\n mov %eax, %ds\n hlt"
    return elf_with_data(assembled(folder, text), 0xD0000000, bytes([0x17, 0, 8, 0, 0, 0xD0, *bytes(0x1000)]))


def _on_the_loaders_stack(folder: Path) -> bytes:
    """It maps the first 4 MiB, but for the page that the loader's stack is in, and pushes."""
    text = """mov %esp, %ebx\n shr $12, %ebx\n mov $0x300000, %edi\n mov $0x301000, %esi
        mov %esi, %eax\n or $3, %eax\n mov %eax, (%edi)\n mov $3, %eax\n xor %ecx, %ecx
        1: mov %eax, (%esi,%ecx,4)\n add $0x1000, %eax\n inc %ecx\n cmp $1024, %ecx\n jne 1b
        movl $0, (%esi,%ebx,4)\n mov %edi, %cr3\n mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n push %eax"""
    return kernel_elf(assembled(folder, text))


def _stops_itself(folder: Path) -> bytes:
    """`ud2`, whose handler lies right behind it, and halts."""
    return kernel_elf(assembled(folder, f"{FLAT_STACK}{OWN_GDT}{OWN_IDT} ud2\n handler: cli\n hlt"))


SMALL = (
    Planted("ud2 with a handler that halts", "stopped itself", None, "of #UD invalid opcode", "function above checks", DeathKind.HALTED,
            made=_stops_itself),
    Planted("its loader's stack, not mapped", "no stack of its own", None, "it is still the loader's", "load the stack pointer",
            made=_on_the_loaders_stack),
    Planted("the entry holds zeros", "entry is not code", None, "The entry itself, 0x101000, holds zeros", "XEN_ELFNOTE_PHYS32_ENTRY",
            DeathKind.ZEROS, made=_zeros_at_the_entry),
    Planted("zeros at an odd address", "zeros", None, "to 0x400001", "to be loaded or copied there", DeathKind.ZEROS, made=_odd_zeros),
    Planted("too little memory", "too little memory", None, "its segment from 0x2800000 to 0x2801006 is outside of RAM", "--memory 42M",
            options={"memory": "32M"}, made=_too_large),
    Planted("data where devices are", "kernel outside of RAM", None, "from 0xd0000000 to 0xd0001006 is outside of RAM, and more memory does not help",
            "link the kernel to run below 2 GiB", made=_among_devices),
)  # fmt: skip

LINUX = (
    Planted("null", "null pointer", "planted_read_state", "a read at 0x4: not present", "which register held the pointer",
            DeathKind.PANIC, inside=True, caller="do_one_initcall"),
    Planted("bug", "stopped itself", "planted_check", "BUG()", "what the function above checks",
            DeathKind.PANIC, inside=True, caller="planted_init"),
    Planted("overflow", "stack overflow", "planted_recurse", "That is the stack, which is full", "calls itself",
            DeathKind.PANIC, inside=True, caller="planted_recurse"),
    Planted("panic", "panic", "panic", "planted: no device was found", "the reason is in its own words",
            DeathKind.PANIC, inside=True, caller="planted_give_up"),
    Planted("loop", "endless loop", "planted_init", "Nothing in it can end it", "who jumps there", DeathKind.LOOP, inside=True),
    Planted("second-cpu", "stopped itself", "planted_on_second_cpu", "has no entry for vector 6", "what the function above checks",
            inside=True, cpu=1, options=_TWO_CPUS),
)  # fmt: skip
