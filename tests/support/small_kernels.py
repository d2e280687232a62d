"""Small kernels of a few lines of assembly, and one with a second PT_LOAD."""

import struct
import subprocess
from pathlib import Path

from tests.support.cli_runner import pvh_note
from tests.support.programs import need

FLAT_STACK = "mov $0x90000, %esp\n"
# An IDT at 0x80000 of 64 gates, all to the label `handler`.
OWN_IDT = """mov $handler, %eax\n mov %eax, %ebx\n and $0xffff, %ebx\n or $0x80000, %ebx\n and $0xffff0000, %eax\n or $0x8e00, %eax
    mov $0x80000, %edi\n mov $64, %ecx\n 1: mov %ebx, (%edi)\n mov %eax, 4(%edi)\n add $8, %edi\n dec %ecx\n jnz 1b
    movw $0x1ff, 0x7fff0\n movl $0x80000, 0x7fff2\n lidt 0x7fff0\n"""
OWN_GDT = """lgdt gdt_pointer\n ljmp $8, $1f\n 1: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n jmp over
    .balign 8\n gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n gdt_pointer: .word 23\n .long gdt\n over:\n"""


def assembled(folder: Path, text: str) -> bytes:
    """32-bit code, linked to 1 MiB."""
    need("as", "ld", "objcopy")
    source, part, linked, code = (folder / f"guest.{end}" for end in ("s", "o", "elf", "bin"))
    source.write_text(text + "\n")
    subprocess.run(["as", "--32", "-mx86-used-note=no", "-o", part, source], check=True)
    subprocess.run(
        ["ld", "-m", "elf_i386", "-Ttext=0x100000", "-e", "0x100000", "-o", linked, part], check=True, stderr=subprocess.DEVNULL
    )
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, code], check=True)
    return code.read_bytes()


def elf_with_data(code: bytes, at: int, data: bytes) -> bytes:
    """`kernel_elf` with one more PT_LOAD."""
    note, headers = pvh_note(), 64 + 3 * 56
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    parts = ((1, 5, 0x100000, code), (1, 6, at, data), (4, 4, 0, note))
    rows, offset = b"", headers
    for kind, flags, address, content in parts:
        rows += struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, len(content), len(content), 4 if kind == 4 else 1)
        offset += len(content)
    return head + rows + code + data + note


def assertive(folder: Path, bits: int, *flags: str) -> Path:
    """The kernel in C that stops itself (assertive.c), for 32-bit protected or for long mode."""
    need("gcc", "ld")
    source = Path(__file__).with_name("assertive.c")
    part, kernel = folder / "assertive.o", folder / "assertive.elf"
    whole = [
        "-O1",
        "-fno-pic",
        "-fno-stack-protector",
        "-ffreestanding",
        "-fno-optimize-sibling-calls",
        "-fno-ipa-sra",
        "-fno-ipa-cp",
    ]
    subprocess.run(["gcc", f"-m{bits}", *whole, *flags, "-c", "-o", part, source], check=True)
    link = ["-m", "elf_i386" if bits == 32 else "elf_x86_64", "-static", "--build-id=none", "-z", "noexecstack"]
    subprocess.run(["ld", *link, "-Ttext=0x100000", "-e", "start", "-o", kernel, part], check=True, stderr=subprocess.DEVNULL)
    return kernel
