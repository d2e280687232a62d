"""Interleaved records of several CPUs in QEMU's log, each combined with its own registers.

QEMU writes the first line of a record and its registers by two calls (accel/tcg/cpu-exec.c, log_cpu_exec), and each CPU is a thread of
its own. The registers do not name their CPU, but their RIP is the pc in the first line of the record.
"""

from __future__ import annotations

import re

from pvhdbg.decode.cpu_mode import linear_pc
from pvhdbg.tracing.exec_log_columns import RECORD

_PART = re.compile(
    rb"(?P<first>Trace [^\n]*\n)|(?P<registers>[RE]AX=[^\n]*\n(?:(?!Trace |EFER=)[^\n]*\n){0,40}EFER=[^\n]*\n)|[^\n]*\n"
)
_PC = re.compile(rb"^[RE]IP=([0-9a-f]+)|^CS =[0-9a-f]{4} ([0-9a-f]+)", re.MULTILINE)
_MOST = 4096  # records that wait for their registers: one for each CPU


def whole_records(text: bytes) -> tuple[bytes, bytes]:
    """Whole records, each followed by its registers; and the rest, which is not complete yet."""
    end = text.rfind(b"\n") + 1
    kept: list[bytes] = []
    waiting: list[bytes] = []
    at = 0
    while at < end:
        part = _PART.match(text, at, end)
        if part is None:
            break
        if part["registers"] is None and _opens(text, at):
            break  # the end of these registers is in a later piece
        at = part.end()
        if part["first"] is not None:
            waiting = [*waiting, part[0]][-_MOST:]
        elif part["registers"] is not None and waiting:
            own = next((one for one in waiting if _is_at_pc(one, part[0])), waiting[0])
            waiting.remove(own)
            kept.append(own + part[0])
        else:
            kept.append(part[0])
    return b"".join(kept), b"".join(waiting) + text[at:]


def _opens(text: bytes, at: int) -> bool:
    return text.startswith((b"RAX=", b"EAX="), at)


def _is_at_pc(first: bytes, registers: bytes) -> bool:
    """Whether the pc of the registers, RIP with or without the base of CS, is that of the record's first line."""
    record = RECORD.match(first)
    found = {("base" if base else "ip"): int(ip or base, 16) for ip, base in _PC.findall(registers)}
    if record is None or "ip" not in found:
        return False
    pc = int(record[2], 16)
    return pc in (found["ip"], linear_pc(found["ip"], found.get("base"), None))
