"""Where `goto` goes: an instruction by its number or clock, a place, a mode, a milestone of the boot, or the guest's death.

A mode, a milestone and the death cost one more boot by the deterministic clock, which finds the number; on several CPUs a place, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.recorded_machine import RecordedMachine, deterministic, recorded_machine, stopped_at
from pvhdbg.errors import BadInput, EntryNotReached, TargetError
from pvhdbg.kernel.image import KernelImage
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.recorder import counts_by_calls
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.engines.recorded import RecorderEngine
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.milestones import TITLES, Finder
from pvhdbg.tracing.mode_words import MODES, first_in
from pvhdbg.vmm.options import RecorderOptions


@dataclass(frozen=True)
class AtNumber:
    """The instruction of this number: 0 is the entry, all iterations of a REP are one."""

    number: int


@dataclass(frozen=True)
class AtClock:
    """The state when this many instructions have run since the entry, where each iteration of a REP counts."""

    ticks: int


@dataclass(frozen=True)
class AtPlace:
    """The `times`-th execution of a symbol or address."""

    text: str
    times: int = 1


@dataclass(frozen=True)
class InMode:
    """The first instruction in one of these modes."""

    text: str
    modes: frozenset[Mode]


@dataclass(frozen=True)
class AtMilestone:
    """A milestone by its name in `tracing.milestones.TITLES`."""

    name: str


@dataclass(frozen=True)
class AtDeath:
    """The last instruction that began before the guest ended, or one that many before it."""

    before: int = 0


Destination = AtNumber | AtClock | AtPlace | InMode | AtMilestone | AtDeath
_DEATH = re.compile(r"death(?:-(\d{1,18}))?", re.ASCII)
_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+|\d{1,18}", re.ASCII)
USAGE = "N, clock:N, SYMBOL, 0xADDRESS, SYMBOL#K, a mode, a milestone, death or death-N"


def destination(text: str) -> Destination:
    """The destination that the user's words mean. SYMBOL#1 is a symbol that has the name of a mode or a milestone. Raises BadInput."""
    word = text.strip()
    if _DIGITS.fullmatch(word):
        return AtNumber(int(word.replace(",", "")))
    if word.startswith("clock:"):
        ticks = word.removeprefix("clock:")
        if not _DIGITS.fullmatch(ticks):
            raise BadInput(f"{text} is not a value of the clock", "give a number of instructions: clock:5787564")
        return AtClock(int(ticks.replace(",", "")))
    if (found := _DEATH.fullmatch(word)) is not None:
        return AtDeath(int(found[1] or 0))
    if word in MODES:
        return InMode(word, MODES[word])
    name = next((title for title in TITLES if word in (title, title.replace(" ", "-"))), None)
    if name is not None:
        return AtMilestone(name)
    place, mark, times = word.partition("#")
    if not place or (mark and not (times.isdecimal() and 0 < int(times) < 1 << 63)):
        raise BadInput(f"{text} does not say which time", "count from 1: SYMBOL#2 is the second time")
    return AtPlace(place, int(times) if mark else 1)


@contextmanager
def arrived(
    options: SubjectOptions,
    wanted: Destination,
    progress: Progress,
    seconds: float | None,
    *,
    image: KernelImage | None = None,
    tied: bool = True,
) -> Iterator[RecordedMachine]:
    """A machine that stands there. Raises EntryNotReached where the boot does not lead there, BadInput for an unknown symbol."""
    if isinstance(wanted, AtPlace) and not counts_by_calls(deterministic(options)):
        with _stopped_there(options, wanted, progress, seconds, image=image, tied=tied) as machine:
            yield machine
        return
    clock = isinstance(wanted, AtClock)
    number = wanted.ticks if isinstance(wanted, AtClock) else number_of(options, wanted, progress, seconds, image=image)
    with stopped_at(options, number, progress, seconds, clock=clock, image=image, tied=tied) as machine:
        yield machine


@contextmanager
def _stopped_there(
    options: SubjectOptions, wanted: AtPlace, progress: Progress, seconds: float | None, *, image: KernelImage | None, tied: bool
) -> Iterator[RecordedMachine]:
    """A machine that the recorder stops before this execution. Raises EntryNotReached, BadInput for an unknown symbol."""

    def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
        return replace(plain, exact=True, halts=addresses_of(wanted.text, names, "goto"), times=wanted.times)

    with recorded_machine(deterministic(options), told, progress, image=image, tied=tied) as machine:
        number = _place(machine, wanted, time_limit(seconds))
        if machine.recording.begun_at_a_stop != number:
            raise TargetError("this QEMU exports nothing that stops it at an instruction", "name another QEMU: --qemu BINARY")
        yield machine


def number_of(
    options: SubjectOptions, wanted: Destination, progress: Progress, seconds: float | None, *, image: KernelImage | None = None
) -> int:
    """The number of the instruction there; a boot finds it. Raises as `arrived`."""
    if isinstance(wanted, AtNumber):
        return wanted.number
    if isinstance(wanted, AtClock):
        with stopped_at(options, wanted.ticks, progress, seconds, clock=True, image=image) as stopped:
            return stopped.begun
    limit = time_limit(seconds)

    def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
        if isinstance(wanted, AtPlace):
            return replace(plain, exact=True, marks=addresses_of(wanted.text, names, "goto"), times=wanted.times)
        return replace(plain, exact=True)

    with recorded_machine(deterministic(options), told, progress, image=image) as machine:
        if isinstance(wanted, AtPlace):
            return _place(machine, wanted, limit)
        if isinstance(wanted, AtDeath):
            return _death(machine, wanted, limit)
        return _first_seen(machine, wanted, limit)


def _place(machine: RecordedMachine, wanted: AtPlace, limit: float) -> int:
    end = machine.run(limit)
    if machine.marked is None:
        seen = sum(mark.seen for mark in machine.recording.marks)
        text = wanted.text if wanted.times == 1 else f"{wanted.text}#{wanted.times}"
        raise EntryNotReached(
            f"{text} was not reached: {end.words}, after {machine.begun:,} instructions; it was executed {seen:,} times",
            "see what was: pvhdbg boot",
        )
    return machine.marked.first


def _death(machine: RecordedMachine, wanted: AtDeath, limit: float) -> int:
    end = machine.run(limit, lambda: False)
    if not end.final or end.why is EndReason.KILLED:
        raise EntryNotReached(
            f"the guest did not die: {end.words}, after {machine.begun:,} instructions", "name the place instead, as in: goto panic"
        )
    last = machine.last_begun()
    if last is None:
        raise EntryNotReached("QEMU did not say which instruction was the last", "name a place instead")
    if wanted.before > last:
        raise EntryNotReached(f"the guest had begun {last + 1:,} instructions when it died", "give a smaller number")
    return last - wanted.before


class _Seen:
    """What the recorder has seen of modes and milestones."""

    def __init__(self, machine: RecordedMachine, wanted: InMode | AtMilestone) -> None:
        self._machine, self._wanted = machine, wanted
        self._engine: RecorderEngine | None = None
        self._finder = Finder()
        self.number: int | None = None

    def look(self) -> bool:
        """Whether it is found now."""
        recording = self._machine.recording
        if self._engine is None:
            state = next((one for one in recording.states() if one.number == 0), None) if recording.entered else None
            if state is None:
                return False
            at_entry = decode(state.text)
            self._engine = RecorderEngine(self._machine.target, recording, at_entry, Names(self._machine.image).code)
            self._finder = Finder(start=at_entry)
        for batch in self._engine.seen(recording.begun()):
            if isinstance(self._wanted, InMode):
                at = first_in(batch.modes, self._wanted.modes)
                found = None if at is None else batch.seq + at
            else:
                found = next((one.seq for one in self._finder.feed(batch) if one.name == self._wanted.name), None)
            if found is not None and self.number is None:
                self.number = found
        return self.number is not None


def _first_seen(machine: RecordedMachine, wanted: InMode | AtMilestone, limit: float) -> int:
    seen = _Seen(machine, wanted)
    end = machine.run(limit, seen.look)
    if not seen.look() or seen.number is None:
        text = wanted.text if isinstance(wanted, InMode) else wanted.name
        raise EntryNotReached(
            f"{text} was not reached: {end.words}, after {machine.begun:,} instructions", "see what was: pvhdbg trace"
        )
    return seen.number
