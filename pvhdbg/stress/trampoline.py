"""Machine code that sets what a gdbstub cannot write: gdtr, idtr, the task register, selectors with their hidden state, flags, cr2.

It runs in the entry's own mode, 32-bit protected mode with flat segments, from free RAM, and jumps back to the entry. A gdbstub's
write of a selector reloads nothing or loads from the GDT, depending on the QEMU; its write of eflags does not reach the lazy flags of
TCG. The general registers are free for this code: they are written after it.

Source of the encodings: Intel SDM volume 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack

CODE, DATA, TSS = 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x0000890000000067  # flat; the TSS: base 0, limit 0x67, not busy
SPACE = 4096  # bytes for the code, its pointers and its stack
TABLE = 256  # bytes for the GDT
_STACK_TOP = 0xF00


@dataclass(frozen=True)
class Selectors:
    """The selectors that are loaded from the trampoline's GDT; None leaves a register as it is."""

    code: int = 0x08
    data: int = 0x10
    fs: int | None = 0x10
    gs: int | None = 0x10
    task: int | None = None


@dataclass(frozen=True)
class Trampoline:
    """What to set. `selectors` None keeps the loader's GDT and segments; `idt` is base and limit; `interrupt` waits until IRQ 0 is pending."""

    selectors: Selectors | None = None
    idt: tuple[int, int] | None = None
    flags: int | None = None
    cr2: int | None = None
    interrupt: bool = False

    @property
    def needed(self) -> bool:
        """Whether there is anything to set."""
        return self != Trampoline()


def gdt(selectors: Selectors) -> bytes:
    """A GDT of TABLE bytes with flat segments at the selectors, and zeros elsewhere."""
    table = bytearray(TABLE)
    wanted = {selectors.code: CODE, selectors.data: DATA}
    wanted.update({one: DATA for one in (selectors.fs, selectors.gs) if one})
    if selectors.task is not None:
        wanted[selectors.task] = TSS
    for selector, descriptor in wanted.items():
        table[selector & ~7 : (selector & ~7) + 8] = pack("<Q", descriptor)
    return bytes(table)


def code(wish: Trampoline, at: int, table: int, entry: int, cs: int) -> bytes:
    """SPACE bytes for `at`, to be entered at their first one. `table` is where `gdt` was put, `cs` the selector to return with."""
    pointers = at + 0x800
    idt = wish.idt or (0, 0)
    out = b"\xbc" + pack("<I", at + _STACK_TOP)  # mov esp, imm32
    if wish.interrupt:
        out += _await_irq0()
    if wish.cr2 is not None:
        out += b"\xb8" + pack("<I", wish.cr2) + b"\x0f\x22\xd0"  # mov eax, imm32; mov cr2, eax
    if wish.idt is not None:
        out += b"\x0f\x01\x1d" + pack("<I", pointers + 8)  # lidt
    if wish.selectors is not None:
        chosen = wish.selectors
        cs = chosen.code
        out += b"\x0f\x01\x15" + pack("<I", pointers)  # lgdt
        out += _ax(chosen.data) + b"\x8e\xd8\x8e\xc0\x8e\xd0"  # mov ds, es, ss
        if chosen.fs is not None:
            out += _ax(chosen.fs) + b"\x8e\xe0"
        if chosen.gs is not None:
            out += _ax(chosen.gs) + b"\x8e\xe8"
        if chosen.task is not None:
            out += _ax(chosen.task) + b"\x0f\x00\xd8"  # ltr
    if wish.flags is not None:
        out += b"\x68" + pack("<I", wish.flags) + b"\x9d"  # push imm32; popfd
    out += b"\xea" + pack("<IH", entry, cs)  # jmp far
    image = bytearray(SPACE)
    image[: len(out)] = out
    image[0x800:0x806] = pack("<HI", TABLE - 1, table)
    image[0x808:0x80E] = pack("<HI", idt[1], idt[0])
    return bytes(image)


def _ax(value: int) -> bytes:
    return b"\x66\xb8" + pack("<H", value)


def _await_irq0() -> bytes:
    """Start the PIT's channel 0 (18 Hz), unmask IRQ 0, and wait until the PIC has it pending; give up after 2^24 looks."""
    start = b"\xb0\x34\xe6\x43" + b"\x30\xc0\xe6\x40\xe6\x40"  # out 0x43, 0x34; out 0x40, 0 twice
    unmask = b"\xe4\x21\x24\xfe\xe6\x21"  # in al, 0x21; and al, 0xfe; out 0x21, al
    look = b"\xb0\x0a\xe6\x20\xe4\x20\xa8\x01\x75\x05\x49"  # OCW3: read the IRR; test al, 1; jnz +5; dec ecx
    again = b"\x75" + bytes([256 - len(look) - 2])  # jnz look
    return start + unmask + b"\xb9" + pack("<I", 1 << 24) + look + again + b"\x90\x90"  # the first jnz lands behind these
