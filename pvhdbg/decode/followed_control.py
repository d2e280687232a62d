"""Control registers that a stub does not show, followed from a PVH entry by what each instruction does to them. Pure.

At the entry they are those of the ABI. From there on every instruction is seen, with the general registers before it; an instruction
that changes them in a way that is not understood ends it. Intel SDM volume 2: MOV to control registers, WRMSR, LGDT, CLTS, far JMP and RET.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pvhdbg.decode.cpu_mode import CODE_32, CODE_64
from pvhdbg.model import Registers, Segment, Segments
from pvhdbg.record import NamedTuple
from pvhdbg.spec.x86 import CR0, EFER

SOURCE = "followed from the entry by each instruction"
_EFER = 0xC0000080
_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf2\xf3")
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_FIRST = frozenset(
    b"\x0f\x9a\xca\xcb\xcf\xea\xff"
)  # first bytes of instructions that may change them; below the second byte after 0f
_SECOND = (b"\x01", b"\x06", b"\x22", b"\x30")
_FLAGS = 0x00F0FF00  # of a descriptor's high dword

LinearRead = Callable[[int, int], bytes]  # memory at a linear address; raises what the reader raises


class Control(NamedTuple):
    """The control registers, the base of the GDT (None: not known), and the cached flags of cs (None: not known)."""

    cr0: int = 1 << CR0["PE"] | 1 << CR0["ET"]
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    gdt: int | None = None
    cs_flags: int | None = CODE_32

    def registers(self) -> Mapping[str, int]:
        """The values by register name."""
        return {"cr0": self.cr0, "cr3": self.cr3, "cr4": self.cr4, "efer": self.efer}

    def beside(self, seen: Registers) -> Registers:
        """What the stub shows, with these values beside it."""
        return seen.replace(**self.registers())

    def segments(self) -> Segments:
        """As far as cs is known."""
        return Segments() if self.cs_flags is None else Segments({"cs": Segment(None, 0, 0xFFFFFFFF, self.cs_flags)})


AT_ENTRY = Control()


def after(control: Control, code: bytes, general: Callable[[], Mapping[str, int]], read: LinearRead) -> Control | None:
    """The control registers after the instruction that `code` begins with; `general` gives the general registers before it.

    None for an instruction whose effect is not understood.
    """
    rex, body, long = _parts(control, code)
    if not _matters(body):
        return control
    seen = general()
    if body[0] == 0x0F and len(body) > 1:
        return _two_bytes(control, body, rex, long, seen, read)
    if body[0] == 0xEA and not long:
        return _far(control, int.from_bytes(body[5:7], "little") if len(body) > 6 else None, read)
    if body[0] in (0xCB, 0xCA, 0xCF):
        size = 8 if rex & 8 else 4
        return _far(control, _word(read, _masked(seen.get("rsp", 0), long) + size), read)
    if body[0] == 0xFF and len(body) > 1 and body[1] >> 3 & 7 in (3, 5) and body[1] >> 6 != 3:
        where = _address(body[1:], rex, long, seen)
        return _far(control, None if where is None else _word(read, where + (8 if rex & 8 else 4)), read)
    if body[0] == 0x9A and not long:
        return _far(control, int.from_bytes(body[5:7], "little") if len(body) > 6 else None, read)
    return control


def may_change(control: Control, code: bytes) -> bool:
    """Whether the instruction that `code` begins with is of a kind that changes them."""
    return _matters(_parts(control, code)[1])


def _parts(control: Control, code: bytes) -> tuple[int, bytes, bool]:
    """The REX prefix (0: none), the code behind all prefixes, and whether it is 64-bit code."""
    long = bool(control.efer >> EFER["LMA"] & 1) and bool((control.cs_flags or 0) & CODE_64)
    at = rex = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    if long and at < len(code) and code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    return rex, code[at:], long


def _matters(body: bytes) -> bool:
    return bool(body) and body[0] in _FIRST and (body[0] != 0x0F or body[1:2] in _SECOND)


def _two_bytes(control: Control, body: bytes, rex: int, long: bool, seen: Mapping[str, int], read: LinearRead) -> Control | None:
    second, operand = body[1], body[2] if len(body) > 2 else 0
    if second == 0x22:
        value = seen.get(_GENERAL[operand & 7 | (rex & 1) << 3])
        return None if value is None else _moved(control, operand >> 3 & 7 | (rex & 4) << 1, _masked(value, long))
    if second == 0x06:
        return control._replace(cr0=control.cr0 & ~(1 << CR0["TS"]))
    if second == 0x30 and seen.get("rcx", 0) & 0xFFFFFFFF == _EFER:
        return _settled(control._replace(efer=(seen.get("rdx", 0) & 0xFFFFFFFF) << 32 | seen.get("rax", 0) & 0xFFFFFFFF))
    if second == 0x01 and operand >> 3 & 7 == 2 and operand >> 6 != 3:
        where = _address(body[2:], rex, long, seen)
        return control._replace(gdt=None if where is None else _word(read, where + 2, 8 if long else 4))
    if second == 0x01 and operand >> 3 & 7 == 6:  # lmsw
        return None
    return control


def _moved(control: Control, number: int, value: int) -> Control | None:
    if number == 0:
        return _settled(control._replace(cr0=value | 1 << CR0["ET"]))
    if number == 3:
        return control._replace(cr3=value)
    return control._replace(cr4=value) if number == 4 else control


def _settled(control: Control) -> Control:
    """EFER.LMA follows LME and CR0.PG."""
    active = control.efer >> EFER["LME"] & 1 and control.cr0 >> CR0["PG"] & 1
    without = control.efer & ~(1 << EFER["LMA"])
    return control._replace(efer=without | (1 << EFER["LMA"] if active else 0))


def _far(control: Control, selector: int | None, read: LinearRead) -> Control:
    """Code goes on in the segment of that selector; not in one of a local table."""
    if selector is None or control.gdt is None or selector & 4 or not selector & 0xFFF8:
        return control._replace(cs_flags=None)
    high = _word(read, control.gdt + (selector & 0xFFF8) + 4, 4)
    return control._replace(cs_flags=None if high is None else high & _FLAGS)


def _address(operand: bytes, rex: int, long: bool, seen: Mapping[str, int]) -> int | None:
    """The linear address of a memory operand, by its ModRM; None for forms that are not understood (RIP-relative ones, and an index)."""
    kind, base = operand[0] >> 6, operand[0] & 7
    at = 1
    if base == 4:
        if len(operand) < 2 or operand[1] >> 3 & 7 != 4:
            return None
        base, at = operand[1] & 7, 2
        if kind == 0 and base == 5:
            return _number(operand[at:], 4)
    elif kind == 0 and base == 5:
        return None if long else _number(operand[at:], 4)
    value = seen.get(_GENERAL[base | (rex & 1) << 3])
    if value is None:
        return None
    size = (0, 1, 4)[kind]
    offset = int.from_bytes(operand[at : at + size], "little", signed=True)
    return _masked(value + offset, long)


def _number(data: bytes, size: int) -> int | None:
    return int.from_bytes(data[:size], "little") if len(data) >= size else None


def _masked(value: int, long: bool) -> int:
    return value & (0xFFFFFFFFFFFFFFFF if long else 0xFFFFFFFF)


def _word(read: LinearRead, address: int, size: int = 2) -> int | None:
    data = read(address, size)
    return int.from_bytes(data, "little") if len(data) == size else None
