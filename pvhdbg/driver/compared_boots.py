"""Boots by the deterministic clock that are compared: recorded now, and which option makes two of them differ."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from pvhdbg.driver.recorded_machine import deterministic, names_of, recorded_machine
from pvhdbg.errors import BadInput
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.machine.recorder import counts_by_calls
from pvhdbg.targets.run import Progress
from pvhdbg.tracing.boot_file import BootInfo
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.story import NameOf, Parting, Started, functions, parting
from pvhdbg.vmm.options import RecorderOptions


@dataclass(frozen=True)
class Side:
    """One boot: what was booted, and its functions in the order of their first execution.

    `cut` is the instruction before which the recording was ended, by the time limit or a number of instructions: the guest went on. None where
    the guest ended or reached the goal, and with several CPUs, which have a count each.
    """

    info: BootInfo
    functions: list[Started]
    cut: int | None = None


@dataclass(frozen=True)
class InputDifference:
    """One option, or one change of the command line's words, that distinguishes two boots. `a` and `b` are its words on each side."""

    option: str
    a: str
    b: str
    at: int = 0  # of the command line's changes: which

    @property
    def words(self) -> str:
        """As text: "--append: consol=ttyS0 instead of console=ttyS0"."""
        if not self.a:
            return f"{self.option}: {self.b}"
        return f"{self.option}: without {self.a}" if not self.b else f"{self.option}: {self.b} instead of {self.a}"


@dataclass(frozen=True)
class Culprit:
    """What makes two boots differ. `alone` says that it does so without the others; `boots` is how many boots told that."""

    difference: InputDifference
    alone: bool
    boots: int


_CUT = frozenset(TraceEnd(why).words for why in (EndReason.TIME, EndReason.COUNT, EndReason.INTERRUPTED))


def side_of(info: BootInfo, recording: Recording, name: NameOf) -> Side:
    """One boot, as it was recorded."""
    cut = recording.begun_at_a_stop if info.end in _CUT and recording.cpus == 1 else None
    return Side(info, functions(recording.first_executions(), name), cut)


def comparable(a: Side, b: Side) -> tuple[Side, Side, int | None]:
    """Both boots up to the instruction before which the shorter recording was cut; None where none was."""
    cut = min((one.cut for one in (a, b) if one.cut is not None), default=None)
    if cut is None:
        return a, b, None
    one, other = (replace(side, functions=[each for each in side.functions if each.number < cut]) for side in (a, b))
    return one, other, cut


class Booting:
    """Boots kernels to the same goal, and keeps what they executed."""

    def __init__(self, until: str | None, seconds: float, progress: Progress) -> None:
        self._until, self._seconds, self._progress = until, seconds, progress
        self._stop = threading.Event()

    def both(self, a: SubjectOptions, b: SubjectOptions) -> tuple[Side, Side]:
        """Two boots at the same time. Raises PvhdbgError."""
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.submit(self.boot, a), pool.submit(self.boot, b)
            try:
                return one.result(), other.result()
            except BaseException:  # also Ctrl-C
                self._stop.set()
                raise

    def boot(self, about: SubjectOptions) -> Side:
        """One boot, to the goal, its end or the time limit. Raises PvhdbgError."""

        def told(plain: RecorderOptions, names: Names) -> RecorderOptions:
            goal = addresses_of(self._until, names) if self._until else ()
            return replace(plain, exact=not counts_by_calls(deterministic(about)), halts=tuple(goal))

        with recorded_machine(deterministic(about), told, self._progress, tied=False) as machine:
            began = time.monotonic()
            end = machine.run(self._seconds, self._stop.is_set)
            info = BootInfo(
                os.path.abspath(about.subject),
                machine.image.with_hash().sha256 or "",
                f"QEMU {machine.qemu.version}",
                machine.qemu.command,
                True,
                time.monotonic() - began,
                end.words,
            )
            return side_of(info, machine.recording, names_of(machine.image))


def differences(a: SubjectOptions, b: SubjectOptions) -> list[InputDifference]:
    """What distinguishes the two, one by one: the kernel, each option, each change in the words of the command line."""
    found = [] if a.subject == b.subject else [InputDifference("kernel", a.subject, b.subject)]
    for name, one, other in zip(LaunchOptions._fields, a.launch, b.launch, strict=True):
        if name != "append" and one != other:
            found.append(InputDifference(f"--{name}" if name != "extra" else "words after --", _said(one), _said(other)))
    ours, theirs = (a.launch.append or "").split(), (b.launch.append or "").split()
    for at, (low, high, start, end) in enumerate(_changes(ours, theirs)):
        found.append(InputDifference("--append", " ".join(ours[low:high]), " ".join(theirs[start:end]), at))
    return found


def with_some(a: SubjectOptions, b: SubjectOptions, chosen: Sequence[InputDifference]) -> SubjectOptions:
    """A, with some of the differences to B."""
    names = {one.option.removeprefix("--") for one in chosen}
    launch = a.launch._replace(
        **{name: getattr(b.launch, name) for name in LaunchOptions._fields if name in names and name != "append"}
    )
    if "words after --" in names:
        launch = launch._replace(extra=b.launch.extra)
    at = {one.at for one in chosen if one.option == "--append"}
    if at:
        ours, theirs, words, done = (a.launch.append or "").split(), (b.launch.append or "").split(), list[str](), 0
        for index, (low, high, start, end) in enumerate(_changes(ours, theirs)):
            words += ours[done:low] + (theirs[start:end] if index in at else ours[low:high])
            done = high
        launch = launch._replace(append=" ".join(words + ours[done:]))
    return a._replace(subject=b.subject if "kernel" in names else a.subject, launch=launch)


def culprit(a: SubjectOptions, b: SubjectOptions, sides: tuple[Side, Side], boot: Callable[[SubjectOptions], Side]) -> Culprit:
    """Which difference makes the boots part as they do, by bisecting with further boots. Raises BadInput where none was given."""
    found, given = parting(sides[0].functions, sides[1].functions), differences(a, b)
    if not given:
        raise BadInput("--which-option: nothing distinguishes A and B", "give B options of its own, as in: --b-append STRING")
    boots = 0

    def parts(chosen: Sequence[InputDifference]) -> bool:
        nonlocal boots
        boots += 1
        one, other, _ = comparable(sides[0], boot(with_some(a, b, chosen)))
        return _like(found, parting(one.functions, other.functions))

    low, high = 0, len(given)  # with the first `low` the boots are as A's, with the first `high` they part
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if parts(given[:middle]) else (middle, high)
    last = given[high - 1]
    return Culprit(last, len(given) == 1 or high == 1 or parts([last]), boots)


def _like(wanted: Parting, found: Parting) -> bool:
    """Whether boots part where the others do, or before; where those differ in numbers of instructions only, whether these do."""
    return bool(found.a or found.b) and found.index <= wanted.index if wanted.a or wanted.b else not found.identical


def _changes(ours: list[str], theirs: list[str]) -> list[tuple[int, int, int, int]]:
    """The changes from one list of words to the other: from where to where in each. `crash=a` and `crash=b` are one change."""
    found: list[tuple[int, int, int, int]] = []
    for tag, low, high, start, end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        names_a, names_b = ([word.partition("=")[0] for word in words] for words in (ours[low:high], theirs[start:end]))
        for part, from_a, to_a, from_b, to_b in SequenceMatcher(None, names_a, names_b, autojunk=False).get_opcodes():
            whole = (low + from_a, low + to_a, start + from_b, start + to_b)
            found += [whole] if part == "replace" else _word_by_word(*whole)
    return found


def _word_by_word(low: int, high: int, start: int, end: int) -> list[tuple[int, int, int, int]]:
    return [
        (min(low + at, high), min(low + at + 1, high), min(start + at, end), min(start + at + 1, end))
        for at in range(max(high - low, end - start))
    ]


def _said(value: object) -> str:
    if value is None or value is False:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
