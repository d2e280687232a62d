"""Kernel files: the ELF, its notes, the file's rules, the simulated loaders, and all that `pvhdbg elf` shows in every format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from fuzz.target import Form, Output, Target
from pvhdbg import guests
from pvhdbg.commands.formats import of_file
from pvhdbg.commands.kernel import ElfOptions, file_report
from pvhdbg.decode.container import Container
from pvhdbg.kernel.image import KernelImage
from pvhdbg.report import kernel_json, kernel_text
from tests.support.elf_writer import NoteSpec, SymbolSpec, build_elf

_FORMS = {"junit": Form.XML, "sarif": Form.JSON}


def _run(data: bytes) -> Iterator[Output]:
    with KernelImage("vmlinux", data, Container(size=len(data)), lambda: None) as image:
        report = file_report(image, ElfOptions())
    yield Output(Form.TEXT, kernel_text.render(report))
    yield Output(Form.JSON, kernel_json.render(report))
    if crc32(data) % 8 == 0:
        for name, render in of_file(report).items():
            yield Output(_FORMS.get(name, Form.TEXT), render())


def _seeds() -> Iterator[bytes]:
    yield build_elf()
    yield build_elf(bits=32, machine=3, multiboot=True)
    yield build_elf(align=8, notes=((NoteSpec(5, b"GNU\0", bytes(16)), NoteSpec()), (NoteSpec(19, desc=bytes(12)),)))
    yield build_elf(notes=(), section_notes=(NoteSpec(),), symbols=tuple(SymbolSpec(f"name{i}", 0x100000 + i) for i in range(40)))
    for name in ("hello", "broken-notes", "multiboot"):
        if name in guests.names():
            yield Path(guests.path(name)).read_bytes()


TARGET = Target(_run, _seeds, (b"Xen\0", b"GNU\0", b"\x7fELF", b"\x02\xb0\xad\x1b", b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0"))
