"""ELF cores for the tests, packed by hand from the public layouts and not with the decoder's own.

`build_core()` is what QEMU's dump-guest-memory writes of a CPU in 32-bit mode: NT_PRSTATUS, QEMU's note, two PT_LOADs.
"""

import struct
from collections.abc import Mapping
from typing import Any

REGISTERS = {
    "rax": 0x2A, "rbx": 0x2000, "rcx": 3, "rdx": 4, "rsi": 5, "rdi": 6, "rsp": 0x7000, "rbp": 8, "r8": 9, "r9": 10, "r10": 11,
    "r11": 12, "r12": 13, "r13": 14, "r14": 15, "r15": 16, "rip": 0x100000, "rflags": 2,
}  # fmt: skip
CODE, DATA, LDT, TSS = 0xCF9A00, 0xCF9300, 0x8200, 0x8B00
# selector, limit, flags, base
SEGMENTS = (
    *((8, 0xFFFFFFFF, CODE, 0), *((16, 0xFFFFFFFF, DATA, 0) for _ in range(5))),
    (0, 0xFFFF, LDT, 0), (24, 0x67, TSS, 0x500), (0, 0x27, 0, 0x1000), (0, 0x3FF, 0, 0),
)  # fmt: skip
MEMORY: Mapping[int, bytes] = {0: bytes(range(256)) * 64, 0x100000: b"\xeb\xfe" * 2048}


def note(owner: bytes, type: int, desc: bytes) -> bytes:
    """One note, padded to 4 bytes."""
    return struct.pack("<III", len(owner), len(desc), type) + owner + bytes(-len(owner) % 4) + desc + bytes(-len(desc) % 4)


def qemu_note(version: int = 1, registers: Mapping[str, int] = REGISTERS, cr: tuple[int, ...] = (0x11, 0, 0, 0, 0)) -> bytes:
    """struct QEMUCPUState."""
    body = struct.pack("<18Q", *registers.values())
    body += b"".join(struct.pack("<IIIIQ", selector, limit, flags, 0, base) for selector, limit, flags, base in SEGMENTS)
    body += struct.pack("<5Q", *cr) + struct.pack("<Q", 0x5000)
    return note(b"QEMU\0", 0, struct.pack("<II", version, 8 + len(body)) + body)


def prstatus32(rip: int = 0x100000) -> bytes:
    """struct elf_prstatus of i386: 17 registers at offset 72."""
    registers = (0x2000, 3, 4, 5, 6, 8, 0x2A, 16, 16, 16, 16, 0, rip, 8, 2, 0x7000, 16)
    return note(b"CORE\0", 1, bytes(24) + struct.pack("<I", 1) + bytes(44) + struct.pack("<17I", *registers) + bytes(4))


def prstatus64(rip: int = 0x100000) -> bytes:
    """struct elf_prstatus of x86-64: 27 registers at offset 112."""
    registers = (16, 15, 14, 13, 8, 0x2000, 12, 11, 10, 9, 0x2A, 3, 4, 5, 6, 0, rip, 8, 2, 0x7000, 16, 0x11, 0x22, 16, 16, 16, 16)
    return note(b"CORE\0", 1, bytes(112) + struct.pack("<27Q", *registers) + bytes(8))


def build_core(
    notes: bytes | None = None,
    memory: Mapping[int, bytes] | list[tuple[int, bytes]] = MEMORY,
    *,
    bits: int = 64,
    header: Mapping[str, int] = {},
    load: Mapping[str, int] = {},
) -> bytes:
    """A core. `header` and `load` (the first PT_LOAD) spoil fields by name."""
    notes = prstatus32() + qemu_note() if notes is None else notes
    pieces = list(memory.items()) if isinstance(memory, Mapping) else memory
    wide = bits == 64
    size, entry = (64, 56) if wide else (52, 32)
    fields: dict[str, Any] = {
        "type": 4, "machine": 3, "version": 1, "entry": 0, "phoff": size, "shoff": 0, "flags": 0, "ehsize": size,
        "phentsize": entry, "phnum": 1 + len(pieces), "shentsize": 0, "shnum": 0, "shstrndx": 0, "data": 1, **header,
    }  # fmt: skip
    ident = b"\x7fELF" + bytes([2 if wide else 1, fields.pop("data"), 1]) + bytes(9)
    at = size + (1 + len(pieces)) * entry
    rows = [{"type": 4, "flags": 0, "offset": at, "vaddr": 0, "paddr": 0, "filesz": len(notes), "memsz": 0, "align": 0}]
    at += len(notes)
    for index, (address, data) in enumerate(pieces):
        row = {
            "type": 1,
            "flags": 0,
            "offset": at,
            "vaddr": 0,
            "paddr": address,
            "filesz": len(data),
            "memsz": len(data),
            "align": 0,
        }
        rows.append({**row, **(load if index == 0 else {})})
        at += len(data)
    head = struct.pack("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", *fields.values())
    packed = b"".join(_row(row, wide) for row in rows)
    return ident + head + packed + notes + b"".join(data for _, data in pieces)


def _row(row: Mapping[str, int], wide: bool) -> bytes:
    names = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align") if wide else (
        "type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")  # fmt: skip
    return struct.pack("<IIQQQQQQ" if wide else "<8I", *(row[name] for name in names))
