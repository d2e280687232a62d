"""Which tool made a kernel file, if the file shows it: fixes are written in that tool's syntax.

Compilers and linkers put their names into `.comment` ("GCC: …", "Linker: LLD …", "rustc version …"); Linux has its own notes.
"""

from __future__ import annotations

from enum import Enum

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.spec.elf_notes import GUEST_OS


class Tool(Enum):
    """A tool that builds kernels; the value is its name."""

    LINUX = "Linux Kconfig"
    RUST = "Rust"
    ZIG = "Zig"
    LLD = "lld"
    GNU_LD = "GNU ld"


# In this order: rustc and Zig link with lld, so their files have its signature too.
_SIGNATURES = (("rustc", Tool.RUST), ("zig", Tool.ZIG), ("Linker: LLD", Tool.LLD), ("GCC:", Tool.GNU_LD))


def maker(kernel: KernelFile) -> Tool | None:
    """The tool, or None if the file has no signature (hand-written assembly has none)."""
    notes = (*kernel.elf.notes, *kernel.section_notes)
    if any(note.owner == b"Linux\0" or (note.is_xen and note.type == GUEST_OS and note.desc[:5] == b"linux") for note in notes):
        return Tool.LINUX
    return next((tool for words, tool in _SIGNATURES if any(words in line for line in kernel.made_by)), None)
