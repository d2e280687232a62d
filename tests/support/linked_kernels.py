"""Kernels of assembly that are linked to the higher half: paging.S and small32.S."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.programs import need

_LINKER_SCRIPT = """
ENTRY(entry)
PHDRS {{ load PT_LOAD FLAGS(7); note PT_NOTE FLAGS(4); }}
SECTIONS {{
  . = {kva} + 0x100000;
  .text : AT(ADDR(.text) - {kva}) {{ *(.text) }} :load
  .note.Xen : AT(ADDR(.note.Xen) - {kva}) {{ *(.note.Xen) }} :load :note
  .data : AT(ADDR(.data) - {kva}) {{ *(.data) }} :load
  .bss : AT(ADDR(.bss) - {kva}) {{ *(.bss) }} :load
}}
"""
_LINKER_SCRIPT_32 = """
ENTRY(pvh_start_xen)
PHDRS { text PT_LOAD FLAGS(5); data PT_LOAD FLAGS(6); note PT_NOTE FLAGS(4); }
SECTIONS {
  . = 0xc1000000;
  .text : AT(ADDR(.text) - 0xc0000000) { *(.text) } :text
  .note.Xen : AT(ADDR(.note.Xen) - 0xc0000000) { *(.note.Xen) } :text :note
  . = ALIGN(0x200000);
  .data : AT(ADDR(.data) - 0xc0000000) { *(.data) } :data
  .bss : AT(ADDR(.bss) - 0xc0000000) { *(.bss) } :data
}
"""


def paging_kernel(folder: Path, levels: int, *options: str) -> str:
    """paging.S for that many levels of page tables, in `folder`. The options are for the assembler: -g for debug info."""
    kernel = folder / f"paging{levels}.elf"
    if not kernel.exists():
        bits, kva = (64, 0xFFFFFFFF80000000) if levels >= 4 else (32, 0xC0000000)
        defined = ["--defsym", f"LEVELS={levels}", "--defsym", f"KVA={kva:#x}"]
        _link("paging.S", kernel, _LINKER_SCRIPT.format(kva=hex(kva)), bits, [*options, *defined], ["--no-warn-rwx-segments"])
    return str(kernel)


def small_kernel_32(folder: Path) -> Path:
    """small32.S, in `folder`."""
    kernel = folder / "small32.elf"
    _link("small32.S", kernel, _LINKER_SCRIPT_32, 32, [], ["-z", "max-page-size=0x200000"])
    return kernel


def _link(source: str, kernel: Path, script: str, bits: int, options: Sequence[str], linking: Sequence[str]) -> None:
    """Assemble a file of this folder, and link it by the linker script."""
    need("as", "ld")
    part, place = kernel.with_suffix(".o"), kernel.with_suffix(".ld")
    place.write_text(script)
    subprocess.run(["as", *options, f"--{bits}", "-mx86-used-note=no", "-o", part, Path(__file__).with_name(source)], check=True)
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    static = ["-m", emulation, "-nostdlib", "-static", "--build-id=none", *linking]
    subprocess.run(["ld", *static, "-T", place, "-o", kernel, part], check=True)
