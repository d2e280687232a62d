"""The chapters of a recorded boot: firmware, option ROM, entry, long mode, start_kernel, initcalls, userland. Pure.

Each chapter begins with a first execution that was recorded: of a symbol, of an instruction in a new mode, of code in a ROM. A chapter
whose beginning was not observed is left out. Before the entry nothing names functions, and what is there is distinguished by its address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.model import Hex
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.event import Batch
from pvhdbg.tracing.milestones import Finder, Milestone
from pvhdbg.tracing.recorded_events import RecordedEvents
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recorded_parts import RecordedBlock
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.story import Started

_OPTION_ROMS = range(0xC0000, 0xE0000)
_ROM = 2048  # bytes: option ROMs begin at multiples of that; QEMU's for PVH has 1.5 KiB
# Linear addresses of Linux' programs, on a 64-bit and on a 32-bit CPU; below 1 MiB lies the start-up code of further CPUs.
_PROGRAMS, _PROGRAMS_32 = range(1 << 20, 1 << 47), range(1 << 20, 0xC0000000)
# The symbols that begin a chapter, the first one that was executed, in the order of a boot.
_SYMBOLS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("start_kernel", ("start_kernel",)),
    ("initcalls", ("do_one_initcall", "do_initcalls", "do_basic_setup")),
)


SYMBOLS = tuple(symbol for _, symbols in _SYMBOLS for symbol in symbols)


class Chapter(NamedTuple):
    """A part of a boot: instructions `first` to the one before `behind`; `pc` is the linear address of the first one.

    Negative numbers lie before the entry.
    """

    name: str
    first: int
    behind: int
    pc: Hex


@dataclass(frozen=True)
class ChapterProfile:
    """The instructions of each function within a chapter, most first. `known`: the recording holds what that takes."""

    chapter: Chapter
    known: bool
    functions: list[tuple[str, int]]


def chapters(
    recording: Recording, blocks: Sequence[RecordedBlock], started: Sequence[Started], modes: Sequence[tuple[int, Mode]]
) -> list[Chapter]:
    """The chapters in order. `blocks` are all that were executed, in the order of their first execution, `started` the functions among
    them, `modes` the CPU's modes from the entry on."""
    found: list[tuple[str, int, int]] = []
    early = [block for block in blocks if (block.first or 0) < 0]
    if early and recording.header.base != NEVER:
        found.append(("firmware", -recording.header.base, early[0].linear))
        found += _option_rom(early)
    after = [block for block in blocks if (block.first or 0) >= 0]
    if recording.entry is not None and recording.entered:
        found.append(("entry", 0, recording.entry))
    long = next((number for number, mode in modes if mode is Mode.LONG), None)
    if long is not None:
        at = bisect_right(after, long, key=lambda block: block.first or 0) - 1
        found.append(("long mode", long, after[at].linear if at >= 0 else 0))
    by_name = {one.name: one for one in reversed(started)}
    for name, symbols in _SYMBOLS:
        begins = min((by_name[symbol] for symbol in symbols if symbol in by_name), default=None)
        if begins is not None:
            found.append((name, begins.number, begins.pc))
    if "initcalls" in (name for name, _, _ in found):
        found += _userland(after, found[-1][1], _PROGRAMS_32 if long is None else _PROGRAMS)
    end = max(recording.begun_at_a_stop, *(first + 1 for _, first, _ in found), 0)
    found.sort(key=lambda one: one[1])
    behind = [*(first for _, first, _ in found[1:]), end]
    return [Chapter(name, first, last, pc) for (name, first, pc), last in zip(found, behind, strict=True)]


def runs_within(recording: Recording, parts: Sequence[Chapter]) -> list[dict[int, int] | None]:
    """How often each chapter executed which block, by the block's number; None where the counts at its beginning or end were not kept."""
    found: list[dict[int, int] | None] = []
    base = recording.header.base
    for place, part in enumerate(parts):
        from_start = base == NEVER or part.first == -base
        before = [] if from_start else recording.counts_before(part.first)
        behind = recording.counts_before(part.behind) if place + 1 < len(parts) else recording.counts_now()
        if before is None or behind is None:
            found.append(None)
            continue
        earlier = chain(before, repeat(0))
        found.append({number: more - less for number, (more, less) in enumerate(zip(behind, earlier, strict=False)) if more > less})
    return found


def _option_rom(early: Sequence[RecordedBlock]) -> Iterable[tuple[str, int, int]]:
    """The option ROM that hands over: the one that ran last."""
    last = next((block for block in reversed(early) if block.linear in _OPTION_ROMS), None)
    if last is not None:
        rom = last.linear // _ROM
        first = next(block for block in early if block.linear // _ROM == rom)
        yield "option ROM", first.first or 0, first.linear


def _userland(after: Sequence[RecordedBlock], since: int, programs: range) -> Iterable[tuple[str, int, int]]:
    for block in after:
        if (block.first or 0) > since and block.linear in programs:
            yield "userland", block.first or 0, block.linear
            return


def events_of(recording: Recording) -> tuple[list[Milestone], list[tuple[int, Mode]]]:
    """The milestones from the entry on, and the CPU's modes, each with the number of its first instruction."""
    state = next((decode(one.text) for one in recording.states() if one.number == 0 and one.pc == recording.entry), {})
    events = RecordedEvents(recording, state)
    finder = Finder({}, state)
    found: list[Milestone] = []
    for event in events.before():
        found += finder.feed(Batch(event.seq, [event.pc], [event.mode], [event.code], [event.delta], None, [0]))
    return found, events.modes
