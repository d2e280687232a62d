"""A guest that works for some seconds, writes what it does to COM1, and ends its QEMU: whether it was disturbed, its log shows."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.cli_runner import kernel_elf

LINES = 60
SAID = "." * LINES + "\nend\n"
OPTIONS = ("-accel", "tcg", "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
EXIT = 1  # of its QEMU: 2 * 0 + 1


def write(folder: Path, turns: int = 12_000_000) -> str:
    """Its kernel, in `folder`: LINES dots, `turns` turns of a loop between two of them."""
    out = b"".join(b"\xb0" + bytes([letter]) + b"\xee" for letter in b"\nend\n")  # mov al, LETTER; out dx, al
    turn = b"\xb9" + struct.pack("<I", turns) + b"\x49\x75\xfd" + b"\xb0.\xee\x4b"  # mov ecx; dec ecx; jnz; '.'; dec ebx
    body = b"\x66\xba\xf8\x03" + b"\xbb" + struct.pack("<I", LINES) + turn + b"\x75" + bytes([-(len(turn) + 2) & 0xFF])
    path = folder / "working.elf"
    path.write_bytes(kernel_elf(body + out + b"\x30\xc0\xe6\xf4\xeb\xfe"))  # xor al, al; out 0xf4, al
    return str(path)
