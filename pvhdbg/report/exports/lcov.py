"""Coverage of source lines by the blocks that a boot executed: per file, and as an lcov tracefile (geninfo(1)). Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from pvhdbg.tracing.recorded_parts import RecordedBlock
from pvhdbg.tracing.symbol_text import label
from pvhdbg.tracing.trace_file import Load


class SourceLine(NamedTuple):
    """The code of a source line, or of a part of it: link-time addresses from `start` to before `end`."""

    start: int
    end: int
    file: str
    line: int


class Executions:
    """How often the code at a link-time address was executed."""

    def __init__(self, blocks: Iterable[RecordedBlock], loads: Iterable[Load]) -> None:
        code = [one for one in loads if one.execute]
        changes: defaultdict[int, int] = defaultdict(int)
        for block in blocks:
            at = linked(block, code)
            if at is not None:
                changes[at] += block.runs
                changes[at + block.size] -= block.runs
        self._starts = sorted(changes)
        self._runs = list(accumulate(changes[at] for at in self._starts))

    def at(self, address: int) -> int:
        """Executions of the instruction there; 0 where there was none."""
        index = bisect_right(self._starts, address) - 1
        return self._runs[index] if index >= 0 else 0


def linked(block: RecordedBlock, code: Iterable[Load]) -> int | None:
    """The link-time address of a block; None outside of the kernel's file."""
    for one in code:
        if block.physical is not None and one.physical <= block.physical < one.physical + one.size:
            return block.physical - one.physical + one.virtual
    return None


def by_file(lines: Iterable[SourceLine], runs: Executions) -> dict[str, dict[int, int]]:
    """For each source file its lines that have code, each with its executions: those of the part that ran most often."""
    found: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for one in lines:
        known = found[one.file]
        known[one.line] = max(known.get(one.line, 0), runs.at(one.start))
    return dict(found)


def lcov(files: Mapping[str, Mapping[int, int]]) -> Iterator[bytes]:
    """The tracefile, a record for each source file."""
    for name in sorted(files):
        lines = files[name]
        rows = "".join(f"DA:{line},{runs}\n" for line, runs in sorted(lines.items()))
        hit = sum(1 for runs in lines.values() if runs)
        yield f"TN:\nSF:{label(name)}\n{rows}LF:{len(lines)}\nLH:{hit}\nend_of_record\n".encode()
