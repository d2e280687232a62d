"""`pvhdbg drgn` on small guests with debug info: at the entry and later, behind a stub, on a core and on a snapshot, moved and slid."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pvhdbg.targets.run import run_until
from tests.support.cli_runner import HELLO, ROOT, Cli, Machine, eventually
from tests.support.programs import need
from tests.support.real_kernel import symbol_of

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
MOVED, SLID = 0x1A00000, 0x32600000
SLID_SCRIPT = """
ENTRY(entry)
PHDRS { text PT_LOAD FLAGS(5); data PT_LOAD FLAGS(6); note PT_NOTE FLAGS(4); }
SECTIONS {
  . = 0xffffffff81000000;
  first = .;
  .text : AT(ADDR(.text) - 0xffffffff80000000) { *(.text.head) *(.text) } :text
  .rodata : AT(ADDR(.rodata) - 0xffffffff80000000) { *(.rodata) *(.data.rel.ro*) } :text
  .note.Xen : AT(ADDR(.note.Xen) - 0xffffffff80000000) { *(.note.Xen) } :text :note
  text_size = . - first;
  . = ALIGN(0x1000);
  .data : AT(ADDR(.data) - 0xffffffff80000000) { *(.data) } :data
  .bss : AT(ADDR(.bss) - 0xffffffff80000000) { *(.bss) } :data
  image_size = . - first;
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


@pytest.fixture
def slid(tmp_path: Path) -> str:
    """A 64-bit guest that moves itself in physical memory, and by another distance in linear memory."""
    need("gcc", "ld")
    part, script, path = tmp_path / "slid.o", tmp_path / "slid.ld", tmp_path / "slid.elf"
    script.write_text(SLID_SCRIPT)
    words = ["-m64", "-g", "-O0", "-mcmodel=kernel", "-ffreestanding", "-fno-pic", "-fno-asynchronous-unwind-tables", "-c"]
    source = ROOT / "tests" / "support" / "slid.c"
    subprocess.run(["gcc", *words, f"-DMOVED={MOVED:#x}", f"-DSLID={SLID:#x}", "-o", part, source], check=True)
    subprocess.run(
        ["ld", "-m", "elf_x86_64", "-nostdlib", "-static", "--build-id=none", "-z", "noexecstack", "-T", script, "-o", path, part],
        check=True,
    )
    return str(path)


def test_a_kernel_that_kaslr_moved(cli: Cli, slid: str, machine: Callable[..., Machine], tmp_path: Path) -> None:
    """The same structures behind a stub and in a core; of a snapshot, which holds no data of the kernel, the symbols and the code."""
    core, snapshot = tmp_path / "slid.core", str(tmp_path / "slid.pvhsnap")
    stub, there = machine(kernel=slid), symbol_of(Path(slid), "there") + SLID
    with stub.debugger() as target:
        run_until(target, [there], 20)
        target.monitor(f"dump-guest-memory {core}")
    options = ("--here", "--kernel", slid)
    lines = (
        *("-c", 'prog["init_task"].comm.string_().decode()', "-c", 'prog["init_task"].parent.pid.value_()'),
        *("-c", 'hex(prog["init_task"].parent.value_())', "-c", 'prog["counter"].value_()'),
    )
    wanted = f"swapper\n7\n{symbol_of(Path(slid), 'init_task') + SLID:#x}\n3\n"
    assert cli("drgn", stub.socket, *options, *lines).ok().out == wanted
    assert cli("drgn", str(core), *options, *lines).ok().out == wanted
    cli("snapshot", "save", stub.socket, *options, "-o", snapshot).ok()
    code = ("-c", 'hex(prog.symbol("there").address)', "-c", f"prog.read({there:#x}, 2).hex()", "-c", 'prog["counter"].type_')
    assert cli("drgn", snapshot, "--kernel", slid, *code).ok().out == f"{there:#x}\nebfe\nint\n"
    cli("drgn", snapshot, "--kernel", slid, "-c", 'prog["counter"].value_()').complaint(2, "FaultError")


def test_without_the_package(cli: Cli) -> None:
    (cli.folder / "drgn.py").write_text("raise ModuleNotFoundError(\"No module named 'drgn'\", name='drgn')\n")
    cli("drgn", HELLO, env={"PYTHONPATH": f"{cli.folder}:{ROOT}"}).complaint(2, "not installed", "pvhdbg[drgn]")


# --- the distribution's kernel with debug info: make test-real ------------------------------------------------------

COMM = ("-c", 'prog["init_task"].comm.string_().decode()')


@pytest.mark.boot
@pytest.mark.real
def test_linux_from_its_first_instruction_on(cli: Cli, vmlinux_debug: Path) -> None:
    """Before paging, at start_kernel, and in rest_init, where init_task has got its last name."""
    release = ("-c", 'prog["init_uts_ns"].name.release.string_().decode()')
    said = cli("drgn", str(vmlinux_debug), *COMM, *release).ok().out.splitlines()
    assert said[0] == "swapper"
    assert said[1].endswith("-amd64")
    assert cli("drgn", str(vmlinux_debug), "--until", "start_kernel", *COMM).ok().out == "swapper\n"
    assert cli("drgn", str(vmlinux_debug), "--until", "rest_init", *COMM).ok().out == "swapper/0\n"


@pytest.mark.boot
@pytest.mark.real
def test_linux_that_kaslr_moved(
    cli: Cli, vmlinux_debug: Path, vmlinuz: Path, machine: Callable[..., Machine], tmp_path: Path
) -> None:
    """The offset is the one that the kernel prints when it panics for want of a root file system; the same in a core."""
    one = machine("-m", "256M", "-append", "console=ttyS0 panic=0", kernel=str(vmlinuz))
    core = tmp_path / "linux.core"
    with one.debugger() as target:
        target.resume()
        eventually(lambda: "end Kernel panic" in one.serial(), "the kernel does not panic", 90)
        target.interrupt()
        target.monitor(f"dump-guest-memory {core}")
    offset = re.search(r"Kernel Offset: (0x[0-9a-f]+) from", one.serial())
    assert offset is not None
    place = ("-c", 'hex(prog.symbol("start_kernel").address)', "-c", 'prog["saved_command_line"].string_().decode()')
    start = symbol_of(vmlinux_debug, "start_kernel") + int(offset[1], 16)
    for subject in (one.socket, str(core)):
        said = cli("drgn", subject, "--here", "--kernel", str(vmlinux_debug), *COMM, *place).ok().out.splitlines()
        assert said[:2] == ["swapper/0", hex(start)]
        assert "console=ttyS0 panic=0" in said[2]
