"""The layouts of the `g` packet, and the number of each register for `P`.

Sources: QEMU gdb-xml/i386-64bit.xml and i386-32bit.xml with target/i386/gdbstub.c (608 and 344 bytes; in both files the
ss_base, ds_base and es_base registers are in a comment and do not exist); GDB's own amd64 and i386 core layouts, which
Cloud Hypervisor, Firecracker and gdbsx follow without control registers.
"""

from __future__ import annotations

from pvhdbg.errors import ProtocolError
from pvhdbg.record import NamedTuple, dataclass

_GPR_64 = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip")
_GPR_32 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip")  # not the order of the 64-bit layout
_SELECTORS = ("eflags", "cs", "ss", "ds", "es", "fs", "gs")
_QEMU_SYSTEM = ("fs_base", "gs_base", "k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer")


class Slot(NamedTuple):
    """One register: canonical name, number for `P`/`p`, offset and size in bytes of the g packet."""

    name: str
    number: int
    offset: int
    size: int


@dataclass(frozen=True)
class RegisterLayout:
    """The registers of a g packet that is `length` bytes long (longer packets hold more after them)."""

    title: str
    width: int
    length: int
    slots: tuple[Slot, ...]
    exact: bool = True  # a packet of another length has another layout

    def slot(self, name: str) -> Slot | None:
        """The slot of a register, or None if this stub does not have it."""
        return next((slot for slot in self.slots if slot.name == name), None)

    def decode(self, hexadecimal: bytes) -> dict[str, int]:
        """Values by name; `xx` digits mean "not available" and leave a register out."""
        values = {}
        for slot in self.slots:
            digits = hexadecimal[2 * slot.offset : 2 * (slot.offset + slot.size)]
            if len(digits) < 2 * slot.size or b"x" in digits:
                continue
            try:
                values[slot.name] = int.from_bytes(bytes.fromhex(digits.decode("ascii")), "little")
            except ValueError:
                raise ProtocolError(f"the stub's g packet holds {digits!r}", "start the VMM again") from None
        return values


def _layout(title: str, width: int, length: int, *groups: tuple[tuple[str, ...], int], exact: bool = True) -> RegisterLayout:
    slots: list[Slot] = []
    offset = 0
    for names, size in groups:
        for name in names:
            slots.append(Slot(name, len(slots), offset, size))
            offset += size
    return RegisterLayout(title, width, length, tuple(slots), exact)


QEMU_64 = _layout("QEMU x86-64", 64, 608, (_GPR_64, 8), (_SELECTORS, 4), (_QEMU_SYSTEM, 8))
QEMU_32 = _layout("QEMU i386", 32, 344, (_GPR_32, 4), (_SELECTORS, 4), (_QEMU_SYSTEM, 4))
CORE_64 = _layout("x86-64 core", 64, 164, (_GPR_64, 8), (_SELECTORS, 4), exact=False)
CORE_32 = _layout("i386 core", 32, 64, (_GPR_32, 4), (_SELECTORS, 4), exact=False)


def layout_for(length: int) -> RegisterLayout:
    """The layout of a g packet of `length` bytes. Raises ProtocolError for a packet that is too short for any layout."""
    for layout in (QEMU_64, QEMU_32):
        if length == layout.length:
            return layout
    # gdbsx and i386 stubs end within 344 bytes (with x87 and SSE); a packet with 17 64-bit registers is longer than 164.
    if length in range(CORE_32.length, CORE_64.length) or length == 312:
        return CORE_32
    if length >= CORE_64.length:
        return CORE_64
    raise ProtocolError(
        f"the stub's g packet has {length} bytes, which is too short for an x86 CPU", "is this the stub of an x86 guest?"
    )
