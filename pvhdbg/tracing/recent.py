"""The last instructions of a CPU by the flight recorder's ring and the code of its blocks, and where QEMU's faults lie between them. Pure.

The ring holds the last 65 536 blocks, some 280 000 instructions. With exact numbers they are all known one by one, also those of a
block that was cut short by a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.encoding import goal, length
from pvhdbg.tracing.event import Event, Fault, FaultKind
from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recording import RING, Executed, Recording

_INDIRECT = (0xC2, 0xC3, 0xCA, 0xCB, 0xCF, 0xFF)  # ret, far ret, iret, and jumps and calls through a register or memory


@dataclass(frozen=True)
class Recent:
    """Instructions in a row, the first one with number `start`. `heads` are the indexes of those that began a block; `system` holds the
    system instructions among them whose changes are known."""

    start: int
    pcs: list[int]
    modes: list[Mode]
    codes: list[bytes]
    heads: list[int]
    system: list[Event]

    def placed(self, faults: Iterable[Fault]) -> list[Fault]:
        """Those of `faults`, which are in order, that were taken between these instructions, with the number of their handler's first one.

        They are looked for from the end on, each before the one behind it.
        """
        found: list[Fault] = []
        last = len(self.heads)
        for fault in reversed(tuple(faults)):
            if not fault.kind.has_handler:
                found.append(replace(fault, seq=self.start + len(self.pcs)))
                continue
            place = next((at for at in range(last - 1, 0, -1) if self._was_taken(fault, self.heads[at])), None)
            at_end = place is None and last == len(self.heads) and self._ends_with(fault)
            if place is None and not at_end:
                break
            found.append(replace(fault, seq=self.start + (len(self.pcs) if place is None else self.heads[place])))
            last = last if place is None else place + 1
        return found[::-1]

    def _was_taken(self, fault: Fault, head: int) -> bool:
        """Whether the instruction at `head` can be the first one of the fault's handler."""
        pc, code, came = self.pcs[head - 1], self.codes[head - 1], self.pcs[head]
        leads = {pc + len(code), goal(code, pc, self.modes[head - 1].bits)}
        indirect = any(code.startswith(bytes((one,))) for one in _INDIRECT)
        if came in leads or came == fault.pc:
            return False
        if fault.kind is FaultKind.INTERRUPT:
            return not indirect and fault.pc in leads
        return pc == fault.pc or (fault.pc in leads and not indirect)

    def _ends_with(self, fault: Fault) -> bool:
        """Whether the last instruction is the one that the fault hit, or leads to it: no handler was called."""
        if not self.pcs:
            return False
        pc, code = self.pcs[-1], self.codes[-1]
        return fault.pc in (pc, pc + len(code), goal(code, pc, self.modes[-1].bits))


def recent(recording: Recording, since: int = 0) -> Recent | None:
    """The last instructions of the CPU that reached the entry, from number `since` on or as far back as the ring reaches.

    None for a recording whose numbers are sums, or that did not keep the code of blocks.
    """
    if not recording.exact or not recording.entered:
        return None
    last = [one for one in recording.last(recording.header.entry_cpu, RING) if one.number >= 0]
    events = events_of(recording)
    if not last or events is None:
        return None
    system = [one for one in events.before(None) if one.seq >= since and one.delta is not None]
    modes = events.modes
    ends = [*(one.number for one in last[1:]), last[-1].number + last[-1].block.instructions]
    found = Recent(max(since, last[0].number), [], [], [], [], system)
    split: dict[tuple[int, int], list[bytes]] = {}
    at = len(modes) - 1
    rows: list[tuple[Executed, int, Mode]] = []
    for executed, end in zip(reversed(last), reversed(ends), strict=True):
        while at > 0 and modes[at][0] > executed.number:
            at -= 1
        if end <= since:
            break
        rows.append((executed, end, modes[at][1]))
    for executed, end, mode in reversed(rows):
        block = executed.block
        key = block.number, mode.bits
        codes = split.get(key)
        if codes is None:
            codes = split[key] = _split(recording.code(block), mode.bits)
        pc, began = block.linear, len(found.pcs)
        for number, code in enumerate(codes[: end - executed.number], executed.number):
            if number >= found.start:
                found.pcs.append(pc)
                found.codes.append(code)
            pc += len(code)
        if found.start + len(found.pcs) != end:
            return None
        if len(found.pcs) > began:
            found.heads.append(began)
        found.modes.extend([mode] * (len(found.pcs) - began))
    return found


def events_of(recording: Recording) -> RecordedEvents | None:
    """The system instructions and modes of a recording since its entry; None where that was not reached."""
    state = next((one for one in recording.states() if one.number == 0), None)
    return None if state is None else RecordedEvents(recording, decode(state.text))


def _split(code: bytes, bits: int) -> list[bytes]:
    """The instructions of a block."""
    found: list[bytes] = []
    while code and (size := length(code, bits)):
        found.append(code[:size])
        code = code[size:]
    return found
