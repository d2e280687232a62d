"""A Linux Oops in the kernel's own words: the exception, the registers, and the calls. Pure.

Sources: arch/x86/kernel/dumpstack.c (show_regs, show_trace_log_lvl), process_64.c and process_32.c (__show_regs), traps.c, and
arch/x86/mm/fault.c (show_fault_oops) of Linux 4.19 to 7.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pvhdbg.tracing import faults
from pvhdbg.tracing.event import Fault, FaultKind

_STAMP = re.compile(r"^(?:<\d+>)?(?:\[[ \d.]+\](?:\[\s*[TC]\d+\])? ?)?")
_OVERFLOW = -1  # a #PF at the stack pointer, which became a #DF
_BEGINS = (
    (re.compile(r"BUG: (?:kernel NULL pointer dereference|unable to handle)"), faults.PF),
    (re.compile(r"(?:kernel BUG at |Oops: invalid opcode|invalid opcode:)"), faults.UD),
    (re.compile(r"(?:Oops: )?general protection fault"), faults.GP),
    (re.compile(r"(?:Oops: )?divide error"), faults.DE),
    (re.compile(r"stack guard page was hit|kernel stack overflow"), _OVERFLOW),
)
_ERROR = re.compile(r"error_code\(0x([0-9a-f]{1,8})\)")
_PLACE = re.compile(r"\b[RE]IP: (?:[0-9a-f]{4}:)?(?:\[<[0-9a-f]+>\] )?([\w.]+)\+0x([0-9a-f]{1,8})/0x")
_REGISTER = re.compile(r"\b(R[A-Z0-9]{2}|E[A-DS][XPI]|CR[234]|EFLAGS): (?:[0-9a-f]{4}:)?([0-9a-f]{8,16})\b")
_TRACE = re.compile(r"Call Trace:")
_CALL = re.compile(r"^\s*([\w.]+)\+0x([0-9a-f]{1,8})/0x[0-9a-f]+\s*$")
_SKIPPED = re.compile(r"^\s*(?:\?|</?[A-Z#]+>|\[)|^\s*RIP: |^\s*(?:Code|RAX|RDX|RBP|R10|R13|RSP|EAX|ESI): |^\s*Modules linked in")
_WRITE = 2  # the bit of a #PF's error code
_LINES = 80  # of one Oops
_MOST = 24  # calls


@dataclass(frozen=True)
class OopsPlace:
    """A symbol and the distance from it."""

    symbol: str
    offset: int


@dataclass(frozen=True)
class Oops:
    """What the kernel said: the line that begins it, vector and error code, the place, the registers, and its callers, the innermost first."""

    line: str
    vector: int
    error: int | None
    place: OopsPlace
    registers: Mapping[str, int]
    calls: tuple[OopsPlace, ...]

    def fault(self, pc: int, state: Mapping[str, int]) -> Fault:
        """The exception, at the linear address `pc`; `state` has what the words do not hold."""
        before = {**state, **self.registers, "rip": pc}
        cr2 = before.get("cr2") if self.vector == faults.PF else None
        return Fault(0, FaultKind.EXCEPTION, self.vector, self.error, pc, cr2, before)


def first_oops(lines: Sequence[str]) -> Oops | None:
    """The first one: those after it often follow from it. None where there is none, or its place is not told."""
    plain = [_STAMP.sub("", line.strip()) for line in lines]
    for index, line in enumerate(plain):
        vector = next((vector for pattern, vector in _BEGINS if pattern.search(line)), None)
        if vector is not None and (found := _read(plain[index : index + _LINES], vector)) is not None:
            return found
    return None


def _read(lines: Sequence[str], vector: int) -> Oops | None:
    text = "\n".join(lines)
    place = _PLACE.search(text)
    if place is None:
        return None
    error = _ERROR.search(text)
    registers: dict[str, int] = {}
    for name, digits in _REGISTER.findall(text):
        name = name.lower()
        registers.setdefault(f"r{name[1:]}" if name[0] == "e" and name != "eflags" else _wide(name), int(digits, 16))
    registers.pop("rip", None)
    code = int(error[1], 16) if error is not None else None if vector != faults.PF else 0
    if vector == _OVERFLOW:
        vector, code = faults.PF, _WRITE
    return Oops(lines[0], vector, code, _place(place), registers, tuple(_calls(lines)))


def _wide(name: str) -> str:
    return f"r{int(name[1:])}" if name[1:].isdigit() and name[0] == "r" else name


def _calls(lines: Sequence[str]) -> list[OopsPlace]:
    """The entries of its first trace, without those that the kernel marks as doubtful."""
    start = next((index for index, line in enumerate(lines) if _TRACE.search(line)), None)
    found: list[OopsPlace] = []
    for line in lines[start + 1 :] if start is not None else ():
        call = _CALL.match(line)
        if call is not None:
            found.append(_place(call))
        elif not _SKIPPED.match(line):
            break
    return found[:_MOST]


def _place(match: re.Match[str]) -> OopsPlace:
    return OopsPlace(match[1], int(match[2], 16))
