"""Find the lines of the guest `probe` in a log, and make a Snapshot of the best boot in it.

The log is not trusted: it may be truncated, mixed with other output, damaged, repeated, from another version, or endless. A
line counts when its checksum holds. A warning names what cannot be used, and the use of memory is bounded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

from pvhdbg.decode.probe_snapshot import snapshot_of
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadLog
from pvhdbg.model import Snapshot
from pvhdbg.record import dataclass, field
from pvhdbg.spec.probe_format import BY_NAME, KINDS, LINE_LIMIT, LINES_LIMIT, MARK, VERSION

_LINE = re.compile(rb"PVHPROBE([0-9]{1,4}) ([0-9a-f]{8}) ([0-9a-f]{4}) ([a-z]{1,16})((?: [0-9a-z]{1,128}){0,12}) \*([0-9a-f]{8})")
_WORDS = {kind.name: re.compile("".join(f" ({word.form.pattern})" for word in kind.words)) for kind in KINDS}
_HEAD = re.compile(rb"PVHPROBE[0-9]{1,4} [0-9a-f]{4}")  # a damaged line too; the guest's image holds only the mark
_MARK = MARK.encode()
_LINES_KEPT = 2 * LINES_LIMIT  # of all boots together: one line takes less than 400 bytes
_BOOTS_KEPT = 64
_NAMED = 8  # of the missing lines
_EMPTY = ("begin", "end")  # kinds without information about the machine

LineWords = tuple[str, ...]


@dataclass
class LoggedBoot:
    """The sound lines of one boot, by number."""

    id: str
    lines: dict[int, tuple[str, LineWords]] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)  # the number of lines before each `end`

    def missing(self) -> list[int]:
        """The numbers of the missing lines, up to the last line that is there."""
        last = max(min(max(self.ends, default=0), LINES_LIMIT), max(self.lines, default=-1) + 1)
        return [number for number in range(last) if number not in self.lines]

    @property
    def complete(self) -> bool:
        return bool(self.ends) and not self.missing()

    @property
    def useful(self) -> bool:
        return any(kind not in _EMPTY for kind, _ in self.lines.values())

    def of_kind(self, kind: str) -> Iterator[LineWords]:
        """The words of its lines of that kind, in order."""
        for number in sorted(self.lines):
            if self.lines[number][0] == kind:
                yield self.lines[number][1]


@dataclass(frozen=True)
class ProbeLog:
    """The content of a log: the machine, and warnings about what could not be used."""

    snapshot: Snapshot
    warnings: tuple[SafeText, ...] = ()


def holds_line(data: bytes) -> bool:
    """Whether `data` holds a line of any version of the format, sound or damaged."""
    return _MARK in data and _LINE.search(data) is not None


def decode(chunks: Iterable[bytes]) -> ProbeLog:
    """The Snapshot of the best boot in a log: the last complete one, else the last with information about the machine.

    Raises BadLog if the log has no usable line.
    """
    reader = _Reader()
    for line in _candidates(chunks):
        reader.take(line)
    return reader.result()


def _candidates(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that begin with the mark. Other bytes are dropped at once."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        at = data.find(_MARK)
        while at >= 0:
            following = data.find(_MARK, at + len(_MARK))
            if following < 0 and len(data) - at < LINE_LIMIT:
                break  # its end may be in the next chunk
            yield data[at : min(at + LINE_LIMIT, following if following >= 0 else len(data))]
            at = following
        rest = data[at:] if at >= 0 else data[max(len(data) - len(_MARK) + 1, 0) :]
    if rest.startswith(_MARK):
        yield rest


class _Reader:
    def __init__(self) -> None:
        self.boots: dict[str, LoggedBoot] = {}
        self.kept = 0
        self.dropped = 0
        self.damaged = 0
        self.odd: dict[str, int] = {}  # sound lines that this version does not understand
        self.versions: set[int] = set()
        self.conflicts = 0

    def take(self, data: bytes) -> None:
        match = _LINE.match(data)
        if match is None or zlib.crc32(data[: match.end() - len(" *00000000")]) != int(match[6], 16):
            self.damaged += _HEAD.match(data) is not None
            return
        if int(match[1]) != VERSION:
            self.versions.add(int(match[1]))
            return
        boot, number, kind, text = match[2].decode(), int(match[3], 16), match[4].decode(), match[5].decode()
        words = _WORDS[kind].fullmatch(text) if kind in _WORDS else None
        if words is None:
            if kind in self.odd or len(self.odd) < _NAMED:
                self.odd[kind] = self.odd.get(kind, 0) + 1
            return
        self._keep(boot, number, kind, words.groups())

    def _keep(self, id: str, number: int, kind: str, words: LineWords) -> None:
        boot = self.boots.get(id)
        if boot is None:
            boot = self.boots[id] = LoggedBoot(id)
        if number in boot.lines:  # printed on two ports into one file, or logged twice
            self.conflicts += boot.lines[number] != (kind, words)
            return
        boot.lines[number] = kind, words
        if kind == "end":
            boot.ends.add(int(words[0], 16))
        self.kept += 1
        while self.kept > _LINES_KEPT or len(self.boots) > _BOOTS_KEPT:
            self._drop()

    def _drop(self) -> None:
        oldest = next(iter(self.boots))
        self.kept -= len(self.boots.pop(oldest).lines)
        self.dropped += 1

    def result(self) -> ProbeLog:
        useful = [boot for boot in self.boots.values() if boot.useful]
        if not useful:
            raise self._nothing()
        complete = [boot for boot in useful if boot.complete]
        boot = (complete or useful)[-1]
        lines = {kind: list(boot.of_kind(kind)) for kind in BY_NAME}
        return ProbeLog(snapshot_of(lines), tuple(map(safe, self._warnings(boot))))

    def _warnings(self, boot: LoggedBoot) -> Iterator[str]:
        boots = len(self.boots) + self.dropped
        if boots > 1:
            yield f"the log holds {boots} boots; the last one that is complete, or else the last, is shown ({boot.id})"
        missing = boot.missing()
        if missing:
            names = ", ".join(f"{number:04x}" for number in missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
            yield f"{len(missing)} of {len(missing) + len(boot.lines)} lines are missing or damaged ({names}): their content is UNKNOWN"
        if not boot.ends:
            yield "the log ends before the probe's report is complete: the rest is UNKNOWN"
        if self.damaged:
            yield f"{self.damaged} lines with a wrong checksum were ignored"
        if self.conflicts:
            yield f"{self.conflicts} lines have the number of an earlier line and other content; the earlier line was used"
        for kind, count in self.odd.items():
            yield f"{count} lines of the kind {kind!r} have a form that this version of pvhdbg does not know, and were ignored"
        if self.versions:
            yield f"lines of the format's {_versions(self.versions)} were ignored; this pvhdbg reads version {VERSION}"

    def _nothing(self) -> BadLog:
        if self.versions:
            return BadLog(
                f"the probe's lines are of the format's {_versions(self.versions)}, and this pvhdbg reads version {VERSION}",
                "read it with the pvhdbg that the guest came with, or boot the probe.elf of this pvhdbg",
            )
        if self.damaged:
            what = f"the log holds {self.damaged} lines of a probe, all with a wrong checksum"
            return BadLog(what, "boot it again with nothing else on the same port, or log the debug console (port 0xe9) instead")
        if self.boots:
            return BadLog(
                "the log holds the first or last line of a probe and nothing in between", "boot it again and log all of it"
            )
        return BadLog("the log holds no line of the guest `probe`", "boot probe.elf and log COM1 or port 0xe9; see docs/probe.md")


def _versions(versions: set[int]) -> str:
    numbers = sorted(versions)
    return ("version " if len(numbers) == 1 else "versions ") + ", ".join(str(number) for number in numbers[:_NAMED])
