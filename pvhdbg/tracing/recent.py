"""The last instructions of a CPU by the flight recorder's ring and the code of its blocks, and where QEMU's faults lie between them. Pure.

The ring holds the last 65 536 blocks, some 280 000 instructions. A block runs to its end unless a fault cuts it short: QEMU's log tells
of each fault, and at which instruction it was. Where every instruction was counted, the numbers show the cut as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.encoding import goal, length
from pvhdbg.tracing.event import Event, Fault, FaultKind
from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import RING

_INDIRECT = (
    b"\xc2",
    b"\xc3",
    b"\xca",
    b"\xcb",
    b"\xcf",
    b"\xff",
)  # ret, far ret, iret, and jumps and calls through a register or memory
_ELSEWHERE = (
    b"\x9a",
    b"\xea",
    b"\xcc",
    b"\xcd",
    b"\xce",
    b"\xf1",
)  # far calls and jumps, and calls of handlers: their targets are not looked for
_SYSTEM_CALLS = (b"\x0f\x05", b"\x0f\x07", b"\x0f\x34", b"\x0f\x35", b"\x0f\xaa")
_PREFIXES = frozenset((0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, *range(0x40, 0x50)))


@dataclass(frozen=True)
class Recent:
    """Instructions in a row, the first one with number `start`. Numbers are `about` right where `start` is a sum over blocks, or where a fault
    is missing that cut a block short. `system` holds the system instructions among them whose changes are known, `faults` those that lie
    between them, each with its number."""

    start: int
    about: bool
    pcs: list[int]
    modes: list[Mode]
    codes: list[bytes]
    system: list[Event]
    faults: list[Fault]


class _Block:
    """An executed block: its instructions, and how many of them began."""

    __slots__ = ("began", "codes", "mode", "pcs")

    def __init__(self, pcs: list[int], codes: list[bytes], mode: Mode) -> None:
        self.pcs, self.codes, self.mode, self.began = pcs, codes, mode, len(pcs)

    @property
    def leads(self) -> tuple[frozenset[int | None], bool]:
        """Where its last instruction leads, and whether that is not known."""
        found = _leads(self.pcs[-1], self.codes[-1], self.mode.bits)
        return found.places, found.indirect

    @property
    def goes_elsewhere(self) -> bool:
        """Whether its last instruction leads where only the machine's state tells, and is not a near jump, call or return."""
        return _leads(self.pcs[-1], self.codes[-1], self.mode.bits).elsewhere


class _Leads(NamedTuple):
    places: frozenset[int | None]
    indirect: bool
    elsewhere: bool


@lru_cache(maxsize=1 << 14)  # each fault is looked for among thousands of blocks, most of them the same
def _leads(pc: int, code: bytes, bits: int) -> _Leads:
    opcode = code[next((at for at, one in enumerate(code) if one not in _PREFIXES), len(code)) :]
    return _Leads(
        frozenset((pc + len(code), goal(code, pc, bits))),
        opcode[:1] in _INDIRECT,
        opcode[:1] in _ELSEWHERE or opcode[:2] in _SYSTEM_CALLS,
    )


def recent(
    recording: Recording,
    head: int,
    number: int,
    faults: Sequence[Fault],
    handler: Callable[[Fault], int | None] = lambda _: None,
) -> Recent | None:
    """The instructions of the CPU that reached the entry since it had begun `head` blocks and `number` instructions; or as many as the ring
    holds. None for a recording that did not keep the code of blocks.

    `faults` were taken since then, in order; those that lie before the ring are left out. `handler` gives the address of a fault's handler.
    """
    events = events_of(recording) if recording.entered else None
    if events is None:
        return None
    system = [one for one in events.before(None) if one.seq >= number and one.delta is not None]
    cpu = recording.header.entry_cpu
    ever = recording.cpu(cpu).head
    last = recording.last(cpu, min(RING, max(ever - head, 0)))
    gap = len(last) < ever - head and bool(last) and last[0].number > number
    last = [one for one in last if one.number >= 0]  # since the entry
    blocks: list[_Block] = []
    split: dict[tuple[int, int], tuple[list[int], list[bytes]]] = {}
    modes, at = events.modes, 0
    for executed in last:
        while at + 1 < len(modes) and modes[at + 1][0] <= executed.number:
            at += 1
        mode = modes[at][1]
        key = executed.block.number, mode.bits
        if key not in split:
            split[key] = _split(recording.code(executed.block), executed.block.linear, mode.bits)
        blocks.append(_Block(*split[key], mode))
        if len(blocks[-1].pcs) != executed.block.instructions:
            return None
    if recording.exact:
        for block, one, other in zip(blocks, last, last[1:], strict=False):
            block.began = min(max(other.number - one.number, 0), block.began)
    else:
        _cut_where_begun_again(blocks)
    places = _places(blocks, faults, handler, 1 if gap else 0)
    start = last[0].number if gap and last else number
    about = not recording.exact and (gap or len(places) < len(faults) or _misses_a_fault(blocks, {place for _, place in places}))
    found = Recent(start, about, [], [], [], [one for one in system if one.seq >= start], [])
    heads = []
    for block in blocks:
        heads.append(start + len(found.pcs))
        found.pcs.extend(block.pcs[: block.began])
        found.codes.extend(block.codes[: block.began])
        found.modes.extend([block.mode] * block.began)
    heads.append(start + len(found.pcs))
    found.faults.extend(replace(fault, seq=heads[place]) for fault, place in places)
    return found


def _cut_where_begun_again(blocks: list[_Block]) -> None:
    """QEMU leaves a block before an instruction that accesses a device under -icount, and begins it again in a block of its own."""
    for block, following in pairwise(blocks):
        came = following.pcs[0]
        if came in block.pcs[1:] and came not in block.leads[0] and not block.leads[1]:
            block.began = block.pcs.index(came)


def _misses_a_fault(blocks: list[_Block], handlers: set[int]) -> bool:
    """Whether a block does not lead to the next one, and no fault is known between them. QEMU's log may have come too fast for all of them."""
    for index, (block, following) in enumerate(pairwise(blocks), 1):
        came = following.pcs[0]
        if index in handlers or block.began < len(block.pcs) or came == block.pcs[-1]:  # the last: a REP instruction goes on
            continue
        leads, indirect = block.leads
        if came not in leads and not indirect and not block.goes_elsewhere:
            return True
    return False


def _places(
    blocks: list[_Block], faults: Iterable[Fault], handler: Callable[[Fault], int | None], first: int
) -> list[tuple[Fault, int]]:
    """Each fault with the index of its handler's first block, from the end on, each before the one behind it. Cuts the blocks.

    `first` is the lowest index that a handler can have: 0 where what ran before the blocks is known.
    """
    found: list[tuple[Fault, int]] = []
    last = len(blocks)
    handlers: dict[tuple[int | None, int | None], int | None] = {}
    for fault in reversed(tuple(faults)):
        if not fault.kind.has_handler:
            found.append((fault, len(blocks)))
            continue
        place = len(blocks) if last == len(blocks) and _ends_with(blocks, fault) else None
        if place is None:
            key = fault.vector, fault.state.get("idt_base")
            if key not in handlers:
                handlers[key] = handler(fault)
            known = handlers[key]
            # Faults of two vectors may have one handler's call in common, where the first one could not be delivered.
            behind = last - 1 if found and found[-1][0].vector == fault.vector else last
            tried = range(min(behind, len(blocks) - 1), first - 1, -1)
            place = next((at for at in tried if _was_taken(fault, blocks, at, known)), None)
        if place is None:
            break
        if place and fault.pc in blocks[place - 1].pcs and fault.kind is not FaultKind.INTERRUPT:
            cut = blocks[place - 1].pcs.index(fault.pc) + 1
            blocks[place - 1].began = min(blocks[place - 1].began, cut)
        found.append((fault, place))
        last = place
    return found[::-1]


def _was_taken(fault: Fault, blocks: list[_Block], at: int, known: int | None) -> bool:
    """Whether the block `at` can begin the fault's handler, which is at `known` where that is known."""
    came = blocks[at].pcs[0]
    if known is not None and came != known:
        return False
    if not at:
        return known is not None  # it was taken when the machine ran on
    before = blocks[at - 1]
    leads, indirect = before.leads
    whole = before.began == len(before.pcs)
    if whole and came in leads and came != known:
        return False
    reached = fault.pc in leads or (indirect and known is not None)
    if fault.kind is FaultKind.INTERRUPT:
        return reached
    hit = fault.pc in before.pcs if whole and known is not None else fault.pc in before.pcs[before.began - 1 : before.began]
    return hit or (fault.pc in before.pcs and not indirect) or reached


def _ends_with(blocks: list[_Block], fault: Fault) -> bool:
    """Whether the last block has the instruction that the fault hit, or leads to it: no handler was called."""
    return bool(blocks) and (fault.pc in blocks[-1].pcs or fault.pc in blocks[-1].leads[0])


def events_of(recording: Recording) -> RecordedEvents | None:
    """The system instructions and modes of a recording since its entry; None where that was not reached."""
    state = next((one for one in recording.states() if one.number == 0), None)
    return None if state is None else RecordedEvents(recording, decode(state.text))


def _split(code: bytes, pc: int, bits: int) -> tuple[list[int], list[bytes]]:
    """The addresses and the instructions of a block. QEMU reads no further in one that its CPU does not have: a block ends with such a part."""
    pcs, codes = list[int](), list[bytes]()
    while code:
        size = length(code, bits) or len(code)
        pcs.append(pc)
        codes.append(code[:size])
        code, pc = code[size:], pc + size
    return pcs, codes
