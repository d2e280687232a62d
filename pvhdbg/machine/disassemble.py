"""Instructions as the CPU decodes them at this stop: by the actual mode in CS and EFER, never by a debugger's setting.

QEMU's monitor disassembles in its CPU's mode (in AT&T's syntax), so it is used first: GDB's own Python may have no iced-x86, and
the prompt and GDB must show the same. Elsewhere we disassemble, in the mode that we give (`disassembly`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pvhdbg.decode import cpu_mode
from pvhdbg.decode.text import printable
from pvhdbg.disassembly import Instruction, disassemble, first_as_qemu
from pvhdbg.errors import MemoryUnreadable, TargetError

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session

_LINE = re.compile(r"^(?:0x)?([0-9a-f]{8,16}):  (.*\S)\s*$")
_BYTES = re.compile(r"[0-9a-f]{2}(?: [0-9a-f]{2})*")
_CODE = re.compile(r"([0-9a-f]{2}(?: [0-9a-f]{2})*) +(\S.*)$")
_CALL = re.compile(r"  call[lqw]? +(0x[0-9a-f]{1,16})$")
_LONGEST = 15  # bytes of one instruction
_READ = 1024  # bytes: QEMU's monitor first reads to such a boundary, and shows an instruction across it as .byte (disas/capstone.c)


def linear_pc(session: Session) -> int:
    """The linear address of the next instruction: outside 64-bit code the base of CS counts. Raises TargetError."""
    registers, segments = session.cpu()
    rip, cs = registers.get("rip"), segments["cs"]
    if rip is None:
        raise TargetError("the pc was not observed", "give an address")
    return cpu_mode.linear_pc(rip, cs.base, cpu_mode.observed_mode(registers, segments).code)


class Line(NamedTuple):
    """One instruction: its bytes and its text as the monitor formats them, its symbol, the function that it calls, if it is the next."""

    address: int
    code: bytes
    text: str
    symbol: str | None
    target: str | None
    current: bool


def instructions(session: Session, address: int, count: int) -> tuple[str, list[Line]]:
    """The CPU's mode in words, and `count` instructions from a linear address. Raises TargetError."""
    mode = cpu_mode.observed_mode(*session.cpu())
    name, width = mode.name, mode.code
    if width is None and not session.target.capabilities.monitor and session.target.capabilities.control:
        width = 64 if address >> 32 else 32
        name = f"{mode.name}: shown as {width}-bit code"
    session.linear(address, 1)  # so that unmapped memory gets our own error
    found = _monitor_lines(session, address, count, width) or _decoded_here(session, address, count, width)
    if not found:
        raise TargetError(f"no instruction could be decoded at {address:#x}", "look at the bytes: xp")
    here = linear_pc(session)
    shown = [Line(at, *_parts(text), session.name_of(at), _target(session, text), at == here) for at, text in found[:count]]
    return name, shown


def lines(mode: str, found: Sequence[Line]) -> list[str]:
    """The instructions as text: each with its bytes, and a name where one begins."""
    shown, named = [mode], ""
    for one in found:
        symbol = (one.symbol or "").partition("+")[0]
        if symbol and symbol != named:
            shown.append(f"<{printable(one.symbol or '')}>:")
            named = symbol
        target = f" <{printable(one.target)}>" if one.target else ""
        words = f"{one.code.hex(' '):<24} {one.text}" if one.code else one.text
        shown.append(f"{'=>' if one.current else '  '} {one.address:#x}:  {printable(words)}{target}")
    return shown


def _parts(text: str) -> tuple[bytes, str]:
    """The bytes and the words of a line; a line without bytes is all words."""
    match = _CODE.match(text)
    return (b"", text) if match is None else (bytes.fromhex(match[1]), match[2])


def _target(session: Session, text: str) -> str | None:
    """The symbol that a call goes to."""
    match = _CALL.search(text)
    return session.name_of(int(match[1], 16)) if match is not None else None


def _monitor_lines(session: Session, address: int, count: int, bits: int | None) -> list[tuple[int, str]]:
    """The monitor's output. A first instruction across its read boundary is decoded here: else all that follow are misaligned."""
    found: list[tuple[int, str]] = []
    while len(found) < count:
        more = _by_monitor(session, address, count - len(found))
        blind = next((i for i, (at, text) in enumerate(more) if ".byte" in text and at % _READ > _READ - _LONGEST), None)
        if blind is None:
            return found + more
        found += more[:blind]
        address, one = more[blind][0], _across(session, more[blind][0], bits)
        if one is None:
            return [*found, more[blind]]
        found.append((address, f"{one.data.hex(' '):<24} {one.text}"))
        address += len(one.data)
    return found


def _across(session: Session, address: int, bits: int | None) -> Instruction | None:
    try:
        return None if bits is None else first_as_qemu(_readable(session, address, _LONGEST), address, bits)
    except ImportError:
        return None


def _by_monitor(session: Session, address: int, count: int) -> list[tuple[int, str]]:
    if not session.target.capabilities.monitor:
        return []
    found: list[tuple[int, str]] = []
    for line in session.target.monitor(f"x/{count}i {address:#x}").splitlines():
        match = _LINE.match(line)
        if match is not None and found and _BYTES.fullmatch(match[2]):
            found[-1] = found[-1][0], _longer(found[-1][1], match[2])  # QEMU starts a new line after 8 bytes of an instruction
        elif match is not None:
            found.append((int(match[1], 16), match[2]))
    return found


def _longer(line: str, more: str) -> str:
    data, _, words = line.partition("  ")
    return f"{f'{data} {more}':<24} {words.strip()}"


def _decoded_here(session: Session, address: int, count: int, bits: int | None) -> list[tuple[int, str]]:
    if bits is None:
        raise TargetError("the width of the code was not observed", "use a VMM whose gdbstub has QEMU's monitor")
    try:
        found = list(disassemble(_readable(session, address, count * _LONGEST), address, bits, count))
    except ImportError:
        raise TargetError("no disassembler is available", "use QEMU's gdbstub, or: pip install iced-x86, or GDB 13") from None
    return [(one.address, f"{one.data.hex(' '):<24} {one.text}") for one in found]


def _readable(session: Session, address: int, size: int) -> bytes:
    """The readable beginning of the range: it may end with the last mapped page."""
    try:
        return session.linear(address, size)
    except MemoryUnreadable:
        return session.linear(address, min(size, 0x1000 - address % 0x1000))
