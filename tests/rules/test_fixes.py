"""The fixes, carried out: GNU as, ld and objcopy make a file that a rule finds fault with, do as the fix says, and it passes."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from pvhdbg.decode.toolchain import Tool
from pvhdbg.kernel.image import open_kernel
from pvhdbg.rules import fixes
from pvhdbg.rules.declare import Outcome
from pvhdbg.rules.files import judge_file
from pvhdbg.rules.kernel_file import CHAPTER
from tests.support.programs import need

NOTE = '.pushsection .note.Xen, "a", @note; .p2align 2; .long 4, 4, 18; .asciz "Xen"; .long {}; .popsection\n'
PROPERTY = '.pushsection .note.gnu.property, "a", @note; .p2align 3; .long 4, 16, 5; .asciz "GNU"; .long 0xc0000002, 4, 3, 0; .popsection\n'
OTHER = '.pushsection .note.other, "a", @note; .p2align 2; .long 4, 4, 1; .asciz "Oth"; .long 7; .popsection\n'
CODE = ".text\n.code32\n.globl start\nstart: hlt\njmp start\n"
TEXT = ".text : { *(.text) } :text"
NOTES = ".note.Xen : { KEEP(*(.note.Xen)) } :text :note"
ALL_NOTES = fixes.LAST_NOTE[Tool.GNU_LD].partition("into one: ")[2].replace(" and after it ", " ")


class Kernel(NamedTuple):
    """How a kernel is built: assembly, linker script, words for ld, and for objcopy afterwards."""

    source: str = NOTE.format("start") + CODE
    script: str = (
        f"PHDRS {{ text PT_LOAD; note PT_NOTE; }} SECTIONS {{ . = 1M; {TEXT} {NOTES} /DISCARD/ : {{ *(.note.gnu.property) }} }}"
    )
    ld: tuple[str, ...] = ("-e", "start")
    objcopy: tuple[str, ...] = ()
    bits: int = 64


GOOD = Kernel()
# rule: what is wrong, and the same after its fix
CASES = {
    "ELF-NOTE-18": (GOOD._replace(source=CODE), GOOD),
    "ELF-NOTE-PTNOTE": (
        GOOD._replace(script=f"PHDRS {{ text PT_LOAD; }} SECTIONS {{ . = 1M; {TEXT} .note.Xen : {{ *(.note.Xen) }} }}"), GOOD,
    ),
    "ELF-NOTE-OWNER": (GOOD._replace(source=NOTE.format("start").replace("Xen\"; .long", "XEN\"; .long") + CODE), GOOD),
    "ELF-NOTE-PALIGN": (
        GOOD._replace(source=PROPERTY + GOOD.source, script=GOOD.script.replace("*(.note.Xen))", "*(.note.Xen)) *(.note.gnu.property)")
                      .replace(" /DISCARD/ : { *(.note.gnu.property) }", "")),
        GOOD._replace(source=PROPERTY + GOOD.source),
    ),
    "ELF-NOTE-LASTSEG": (
        GOOD._replace(source=OTHER + GOOD.source, script=GOOD.script.replace("note PT_NOTE;", "note PT_NOTE; late PT_NOTE;")
                      .replace("/DISCARD/", ".note.other : { *(.note.other) } :text :late /DISCARD/")),
        GOOD._replace(source=PROPERTY + OTHER + GOOD.source, script=GOOD.script.split(NOTES)[0] + ALL_NOTES + " }"),
    ),
    "ELF-ENTRY-RANGE": (
        GOOD._replace(source=NOTE.format("start + 0x80000000") + CODE), GOOD._replace(source=NOTE.format("start") + CODE),
    ),
    "ELF-E_ENTRY": (GOOD._replace(ld=("-e", "0x7c00")), GOOD),
    "ELF-CLASS": (GOOD._replace(bits=32), GOOD._replace(bits=32, objcopy=("-I", "elf32-i386", "-O", "elf64-x86-64"))),
    "ELF-MULTIBOOT": (
        GOOD._replace(source=GOOD.source.replace(".text\n", ".text\n.long 0x1badb002, 0, -0x1badb002\n")),
        GOOD._replace(source=GOOD.source + ".skip 8192\n.long 0x1badb002, 0, -0x1badb002\n"),
    ),
    "ELF-PADDR": (
        GOOD._replace(source=NOTE.format("start - 0xffffffff80000000") + CODE, script=GOOD.script.replace("1M", "0xffffffff80100000")),
        GOOD._replace(source=NOTE.format("start - 0xffffffff80000000") + CODE,
                      script=GOOD.script.replace("1M", "0xffffffff80100000").replace(".text :", ".text : AT(ADDR(.text) - 0xffffffff80000000)")),
    ),
}  # fmt: skip


def run(folder: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def failed(folder: Path, kernel: Kernel) -> set[str]:
    """The ids of the rules that the kernel does not pass."""
    (folder / "k.S").write_text(kernel.source)
    (folder / "k.ld").write_text(kernel.script)
    run(folder, "as", f"--{kernel.bits}", "-mx86-used-note=no", "k.S", "-o", "k.o")
    mode = "elf_x86_64" if kernel.bits == 64 else "elf_i386"
    run(folder, "ld", "-m", mode, "--no-warn-rwx-segments", *kernel.ld, "-T", "k.ld", "k.o", "-o", "k")
    if kernel.objcopy:
        run(folder, "objcopy", *kernel.objcopy, "k", "k")
    with open_kernel(str(folder / "k")) as image:
        verdicts = judge_file(image.file())
    return {one.rule.id for one in verdicts if one.outcome in (Outcome.FAIL, Outcome.REMARK)}


@pytest.mark.parametrize("id", CASES)
def test_the_fix_helps(id: str, tmp_path: Path) -> None:
    need("as", "ld", "objcopy")
    wrong, right = CASES[id]
    assert id in failed(tmp_path, wrong)
    assert failed(tmp_path, right) == set()


def test_every_rule_has_its_fix_tried() -> None:
    """The rest is about what a note holds, which the assembler line of its fix shows; hello.elf is written so and passes. To make
    another machine's file takes that machine's tools."""
    assert {rule.id for rule in CHAPTER} - set(CASES) == {"ELF-NOTE-DESC", "ELF-NOTE-UNIQUE", "ELF-RELOC", "ELF-MACHINE"}


CRATE = """#![no_std]
#![no_main]
core::arch::global_asm!(".section .text.pvh,\\"ax\\"", ".code32", ".globl entry", "entry: hlt", "jmp entry", ".code64");
unsafe extern "C" {{ fn entry() -> !; }}
{};
{};
#[panic_handler] fn panicked(_: &core::panic::PanicInfo) -> ! {{ loop {{}} }}
"""
ALONE = ("-nostartfiles", "-nostdlib", "-static", "-no-pie", "-e", "entry")


@pytest.mark.parametrize("edition", ["2021", "2024"])
def test_rusts_words_compile(tmp_path: Path, edition: str) -> None:
    """Since 2024 link_section is an unsafe attribute."""
    need("rustc")
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    since = (1, 85) if edition == "2024" else (1, 82)  # of the edition; of `unsafe` in attributes and before `extern`
    if tuple(map(int, re.findall(r"[0-9]+", version)[:2])) < since:
        pytest.skip(f"this needs rustc {since[0]}.{since[1]} or newer, and this one is {version.split()[1]}")
    note, _, layout = fixes.ADD_NOTE[Tool.RUST].partition("; with a linker script")[0].partition(", with ")
    (tmp_path / "k.rs").write_text(CRATE.format(note, layout))
    options = ["-C", "panic=abort", "-C", "relocation-model=static", *(f"-Clink-arg={word}" for word in ALONE)]
    run(tmp_path, "rustc", "--edition", edition, *options, "k.rs", "-o", "k")
    with open_kernel(str(tmp_path / "k")) as image:
        file = image.file()
    assert file.entry is not None
    assert file.entry.address == file.elf.header.e_entry
    assert [one.rule.id for one in judge_file(file) if one.outcome is Outcome.FAIL] == []
