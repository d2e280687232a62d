"""The healthy guests: what each is, how it is started, and how it ends where it ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pvhdbg import guests
from tests.support.cli_runner import kernel_elf
from tests.support.small_kernels import FLAT_STACK, OWN_GDT, OWN_IDT, assembled

EXIT_DEVICE = ("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-action", "shutdown=poweroff")
_EXIT = "mov $0xf4, %dx\n xor %eax, %eax\n out %al, %dx\n 9: hlt\n jmp 9b\n"
# The PICs are remapped to 0x20, only IRQ 0 is let through.
_PIC = """mov $0x11, %al\n out %al, $0x20\n out %al, $0xa0\n mov $0x20, %al\n out %al, $0x21\n mov $0x28, %al\n out %al, $0xa1
    mov $4, %al\n out %al, $0x21\n mov $2, %al\n out %al, $0xa1\n mov $1, %al\n out %al, $0x21\n out %al, $0xa1
    mov $0xfe, %al\n out %al, $0x21\n mov $0xff, %al\n out %al, $0xa1\n"""
_MAP_4M = """mov $0x300000, %edi\n mov $0x301000, %esi\n mov %esi, %eax\n or $3, %eax\n mov %eax, (%edi)\n mov $3, %eax\n xor %ecx, %ecx
    1: mov %eax, (%esi,%ecx,4)\n add $0x1000, %eax\n inc %ecx\n cmp $1024, %ecx\n jne 1b
    mov %edi, %cr3\n mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"""
_COUNTS = "2: incl 0x70000\n cmpl $LIMIT, 0x70000\n jne 2b\n"

# Small guests in assembly. Each does what real kernels do, and what a watch could take for a death; then it ends QEMU, or runs on.
SMALL = {
    "counts in memory": FLAT_STACK + _COUNTS.replace("LIMIT", "30000000") + _EXIT,
    "counts in memory for ever": "1: incl 0x70000\n jmp 1b",
    "waits for COM1": "mov $0x3fd, %dx\n 1: in %dx, %al\n test $1, %al\n jz 1b\n hlt",
    "waits for memory": "1: pause\n cmpl $0, 0x70000\n je 1b\n hlt",
    "clears 64 MiB": FLAT_STACK + "cld\n mov $0x1000000, %edi\n mov $0x1000000, %ecx\n xor %eax, %eax\n rep stosl\n" + _EXIT,
    "timer interrupts": FLAT_STACK + OWN_GDT + OWN_IDT + _PIC + "sti\n 1: hlt\n cmpl $20, 0x70000\n jb 1b\n cli\n" + _EXIT
    + "handler: push %eax\n incl 0x70000\n mov $0x20, %al\n out %al, $0x20\n pop %eax\n iret\n",
    "idles with interrupts on": FLAT_STACK + OWN_GDT + OWN_IDT + _PIC + "sti\n 1: hlt\n jmp 1b\n"
    + "handler: push %eax\n mov $0x20, %al\n out %al, $0x20\n pop %eax\n iret\n",
    "invalid opcodes that are handled": FLAT_STACK + OWN_GDT + OWN_IDT + "mov $2000, %ecx\n 1: ud2\n dec %ecx\n jnz 1b\n" + _EXIT
    + "handler: addl $2, (%esp)\n iret\n",
    "page faults that are handled": FLAT_STACK + OWN_GDT + OWN_IDT + _MAP_4M
    + "movl $0, 0x301800\n mov %cr3, %eax\n mov %eax, %cr3\n mov 0x200000, %eax\n" + _COUNTS.replace("LIMIT", "3000000") + _EXIT
    + "handler: movl $0x200003, 0x301800\n invlpg 0x200000\n add $4, %esp\n iret\n",
    "writes code and runs it": FLAT_STACK + "mov $0x400000, %edi\n mov $0xc3, %al\n mov $4000, %ecx\n 1: movb $0x40, (%edi)\n inc %edi\n dec %ecx\n jnz 1b\n"
    "mov %al, (%edi)\n mov $2000, %ecx\n 2: mov $0x400000, %edx\n call *%edx\n dec %ecx\n jnz 2b\n" + _EXIT,
    "deep recursion": "mov $0x2000000, %esp\n mov $200000, %ecx\n call down\n" + _EXIT + "down: dec %ecx\n jz 1f\n call down\n 1: ret\n",
    # for (volatile int i = 0; i < LIMIT; i++); as GCC translates it with -O0: the registers are the same in each round.
    "delay loop of -O0": FLAT_STACK + "push %ebp\n mov %esp, %ebp\n sub $16, %esp\n movl $0, -4(%ebp)\n jmp 2f\n 1: addl $1, -4(%ebp)\n"
    + "2: cmpl $30000000, -4(%ebp)\n jle 1b\n" + _EXIT,
    "sorts in memory": FLAT_STACK + """mov $0x400000, %ebx\n mov $1500, %ecx\n mov $12345, %eax\n
    1: imul $1103515245, %eax, %eax\n add $12345, %eax\n mov %eax, -4(%ebx,%ecx,4)\n dec %ecx\n jnz 1b
    mov $1499, %edx\n 2: xor %esi, %esi\n 3: mov (%ebx,%esi,4), %eax\n cmp 4(%ebx,%esi,4), %eax\n jbe 4f\n xchg 4(%ebx,%esi,4), %eax
    mov %eax, (%ebx,%esi,4)\n 4: inc %esi\n cmp %edx, %esi\n jb 3b\n dec %edx\n jnz 2b\n""" + _EXIT,
    "general protection faults that are handled": FLAT_STACK + OWN_GDT + OWN_IDT
    + "mov $500, %esi\n 1: mov $0xc0010117, %ecx\n mov $1, %eax\n xor %edx, %edx\n wrmsr\n dec %esi\n jnz 1b\n" + _EXIT
    + "handler: add $4, %esp\n addl $2, (%esp)\n iret\n",
    "second CPU idles in hlt": FLAT_STACK + """movl $0x00fdebf4, 0x8000\n movl $0xc4500, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b
    movl $0xc4608, 0xfee00300\n""" + _COUNTS.replace("LIMIT", "10000000") + _EXIT,
    "parks the boot CPU": """mov $0x8000, %edi\n movl $0x0000feeb, (%edi)\n movl $0xc4500, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b
    movl $0xc4608, 0xfee00300\n mov $1000000, %ecx\n 1: dec %ecx\n jnz 1b\n 1: jmp 1b""",
}  # fmt: skip


_SAMPLES: dict[str, dict[str, object]] = {
    "hello": {},
    "long_mode": {},
    "probe": {},
    "other_protocols": {},
    "draft_a_loader": {},
    "bad_loader": {"append": "defect=none"},
}
SAMPLES = len(_SAMPLES)


class Guest(NamedTuple):
    """A guest: its kernel, options for `pvhdbg.why`, and whether it ends by itself."""

    name: str
    kernel: Path
    options: dict[str, object]
    ends: bool


def small(folder: Path) -> Iterator[Guest]:
    """The sample guests, and the small ones of this file."""
    for name, options in _SAMPLES.items():
        yield Guest(name, guests.path(name), {"extra": EXIT_DEVICE, **options}, True)
    for number, (name, text) in enumerate(SMALL.items()):
        kernel = folder / f"small-{number}.elf"
        kernel.write_bytes(kernel_elf(assembled(folder, text)))
        cpus = {"cpus": 2} if "CPU" in name else {}
        yield Guest(name, kernel, {"extra": EXIT_DEVICE, **cpus}, _EXIT in text)


def linux(folder: Path, kernel: Path, **options: object) -> Guest:
    """A Linux that boots to its first program, which powers the machine off."""
    initrd = folder / "initrd"
    if not initrd.exists():
        initrd.write_bytes(_initrd(folder))
    return Guest(f"Linux {kernel.name}", kernel, {"initrd": str(initrd), "append": "console=ttyS0 panic=-1", **options}, True)


# /init for both widths: reboot(2) with LINUX_REBOOT_CMD_POWER_OFF, by int $0x80, which 64-bit kernels of Debian have, too.
_INIT = """.globl _start\n _start: mov $88, %eax\n mov $0xfee1dead, %ebx\n mov $672274793, %ecx\n mov $0x4321fedc, %edx\n int $0x80
    1: mov $29, %eax\n int $0x80\n jmp 1b"""


def _initrd(folder: Path) -> bytes:
    """A cpio archive (newc) with /init and /dev/console."""
    source, part, program = (folder / f"init.{end}" for end in ("s", "o", "elf"))
    source.write_text(_INIT + "\n")
    subprocess.run(["as", "--32", "-o", part, source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-static", "-o", program, part], check=True)
    return b"".join((_entry("init", 0o100755, program.read_bytes()), _entry("TRAILER!!!", 0, b"")))


def _entry(name: str, mode: int, data: bytes) -> bytes:
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
