"""`pvhdbg drgn` on a small guest with debug info: at its entry, a few instructions later, and on a snapshot's memory."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.cli_runner import HELLO, ROOT, Cli
from tests.support.programs import need

SOURCE = """
struct task { int pid; char comm[16]; struct task *parent; };
struct task init_task = { 7, "swapper", &init_task };
int counter = 1;
__asm__(".pushsection .note.Xen,\\"a\\",@note; .align 4; .long 4, 4, 18; .asciz \\"Xen\\"; .long entry; .popsection\\n"
        ".globl entry, later\\nentry: incl counter - 0xc0000000\\nlater: incl counter - 0xc0000000\\n1: jmp 1b\\n");
"""
SCRIPT = """
ENTRY(entry)
PHDRS { load PT_LOAD FLAGS(7); note PT_NOTE FLAGS(4); }
SECTIONS {
  . = 0xc1000000;
  .text : AT(ADDR(.text) - 0xc0000000) { *(.text) } :load
  .note.Xen : AT(ADDR(.note.Xen) - 0xc0000000) { *(.note.Xen) } :load :note
  .data : AT(ADDR(.data) - 0xc0000000) { *(.data) } :load
}
"""


@pytest.fixture
def kernel(cli: Cli) -> str:
    """A 32-bit guest that is linked 3 GiB above where it lies; its two variables have types."""
    need("gcc", "ld")
    source, script, path = (
        cli.file("small.c", SOURCE.replace(".long entry", ".long entry - 0xc0000000")),
        cli.file("small.ld", SCRIPT),
        cli.folder / "small.elf",
    )
    words = [
        "-m32",
        "-g",
        "-O0",
        "-ffreestanding",
        "-fno-pic",
        "-fno-asynchronous-unwind-tables",
        "-c",
        "-o",
        str(cli.folder / "small.o"),
    ]
    subprocess.run(["gcc", *words, source], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-nostdlib", "-static", "--build-id=none", "--no-warn-rwx-segments", "-T", script, "-o", path,
                    str(cli.folder / "small.o")], check=True)  # fmt: skip
    return str(path)


@pytest.mark.boot
def test_structures_before_paging_and_later(cli: Cli, kernel: str) -> None:
    lines = (
        "-c",
        'prog["init_task"].comm.string_().decode()',
        "-c",
        'prog["init_task"].parent.pid.value_()',
        "-c",
        'prog["counter"].value_()',
    )
    assert cli("drgn", kernel, *lines).ok().out == "swapper\n7\n1\n"
    assert cli("drgn", kernel, "--until", "later", "-c", 'prog["counter"].value_()').ok().out == "2\n"
    at = cli("drgn", kernel, "-c", "hex(prog.read_u32(0x1000000, True))").ok().out
    assert at.startswith("0x")


@pytest.mark.boot
def test_what_cannot_be_read_is_an_error_of_two_lines(cli: Cli, kernel: str) -> None:
    cli("drgn", kernel, "-c", 'prog["nonsense"]').complaint(2, "nonsense", "drgn")
    cli("drgn", kernel, "-c", "prog.read(0xf0000000, 4)").complaint(2, "FaultError")
    cli("drgn", HELLO, "-c", "prog").complaint(2, "no debug info", "-dbg")


def test_without_the_package(cli: Cli) -> None:
    (cli.folder / "drgn.py").write_text("raise ModuleNotFoundError(\"No module named 'drgn'\", name='drgn')\n")
    cli("drgn", HELLO, env={"PYTHONPATH": f"{cli.folder}:{ROOT}"}).complaint(2, "not installed", "pvhdbg[drgn]")
