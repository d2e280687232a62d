"""Records of several CPUs whose lines stand among each other: each with its own registers again.

QEMU writes the first line of a record and its registers by two calls (accel/tcg/cpu-exec.c, log_cpu_exec), and every CPU is a thread of
its own. The registers name no CPU; but their RIP is where the record's first line says it stands.
"""

from __future__ import annotations

import re

from pvhdbg.tracing.log_places import RECORD

_PART = re.compile(
    rb"(?P<first>Trace [^\n]*\n)|(?P<registers>[RE]AX=[^\n]*\n(?:(?!Trace |EFER=)[^\n]*\n){0,40}EFER=[^\n]*\n)|[^\n]*\n"
)
_PLACE = re.compile(rb"^[RE]IP=([0-9a-f]+)|^CS =[0-9a-f]{4} ([0-9a-f]+)", re.MULTILINE)
_MOST = 4096  # records whose registers are awaited: one for each CPU


def untangled(text: bytes) -> tuple[bytes, bytes]:
    """Whole records, each with its registers behind it; and the rest, whose registers or last lines are still to come."""
    end = text.rfind(b"\n") + 1
    kept: list[bytes] = []
    waiting: list[bytes] = []
    at = 0
    while at < end:
        part = _PART.match(text, at, end)
        if part is None:
            break
        if part["registers"] is None and _opens(text, at):
            break  # registers that end in a piece yet to come
        at = part.end()
        if part["first"] is not None:
            waiting = [*waiting, part[0]][-_MOST:]
        elif part["registers"] is not None and waiting:
            own = next((one for one in waiting if _stands_there(one, part[0])), waiting[0])
            waiting.remove(own)
            kept.append(own + part[0])
        else:
            kept.append(part[0])
    return b"".join(kept), b"".join(waiting) + text[at:]


def _opens(text: bytes, at: int) -> bool:
    return text.startswith((b"RAX=", b"EAX="), at)


def _stands_there(first: bytes, registers: bytes) -> bool:
    """Whether the registers' place, RIP or with the base of CS, is that of the record's first line."""
    record = RECORD.match(first)
    found = {("base" if base else "ip"): int(ip or base, 16) for ip, base in _PLACE.findall(registers)}
    if record is None or "ip" not in found:
        return False
    place = int(record[2], 16)
    return place in (found["ip"], found["ip"] + found.get("base", 0) & 0xFFFFFFFF)
