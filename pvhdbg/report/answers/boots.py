"""The answers about recorded boots."""

from __future__ import annotations

from typing import NamedTuple

from pvhdbg.model import Hex
from pvhdbg.report.answers.declare import answer
from pvhdbg.tracing.chapters import Chapter
from pvhdbg.tracing.story import Started


class RecordedHow(NamedTuple):
    """How a boot was recorded."""

    kernel: str
    vmm: str
    deterministic: bool
    seconds: float
    ended: str


@answer("boot-recorded")
class BootAnswer(NamedTuple):
    """A boot that was recorded. `exact`: instructions were counted one by one; `lost` blocks did not fit into the table."""

    recorded: RecordedHow
    instructions: int
    exact: bool
    blocks: int
    lost: int


@answer("boot-show")
class BootFunctionsAnswer(NamedTuple):
    """The functions of a recorded boot in the order of their first execution; `more` were left out. `parent` reached a function first.

    `exact`: instructions were counted one by one. Chapters go from instruction `first` to the one before `behind`.
    """

    recorded: RecordedHow
    exact: bool
    chapters: tuple[Chapter, ...]
    functions: tuple[Started, ...]
    more: int


class FunctionCost(NamedTuple):
    """The instructions that a function executed."""

    name: str
    instructions: int


class ChapterCost(NamedTuple):
    """The instructions of each function within a chapter, most first; `more` functions were left out.

    `known` is false where the recording does not hold the counts at the chapter's beginning or end.
    """

    name: str
    known: bool
    functions: tuple[FunctionCost, ...]
    more: int


@answer("boot-profile")
class BootProfileAnswer(NamedTuple):
    """How many instructions each function of a recorded boot executed, most first; `more` functions were left out.

    `by_chapter` has the chapters that --chapter asks for.
    """

    recorded: RecordedHow
    exact: bool
    chapters: tuple[Chapter, ...]
    functions: tuple[FunctionCost, ...]
    more: int
    by_chapter: tuple[ChapterCost, ...] = ()


class BlockRun(NamedTuple):
    """A block that was executed, from instruction `number` on."""

    number: int
    pc: Hex
    symbol: str | None
    instructions: int


@answer("boot-blocks")
class BootBlocksAnswer(NamedTuple):
    """Blocks that a CPU executed, in order; `full`: the recording of them ended before the boot."""

    recorded: RecordedHow
    exact: bool
    blocks: tuple[BlockRun, ...]
    full: bool


class FileCoverage(NamedTuple):
    """A source file: its lines that have code, and how many of them were executed."""

    file: str
    lines: int
    executed: int


@answer("boot-coverage")
class BootCoverageAnswer(NamedTuple):
    """How many functions of its kernel a boot executed, `of` how many (null: not known), and its source files, with debug info."""

    recorded: RecordedHow
    functions: int
    of: int | None
    files: tuple[FileCoverage, ...]


@answer("boot-diff")
class BootDiffAnswer(NamedTuple):
    """Where two deterministic boots part: after so many `functions` that are the same, and at which function numbers first differ.

    `moved` are functions of both that come in another order; `cause` is the answer to --which-option. Of several CPUs each is compared by its
    own count: `cpu` is the one that this is about, null for one CPU and for boots that are the same.
    """

    a: RecordedHow
    b: RecordedHow
    same: bool
    functions: int
    common: tuple[str, ...]
    next_a: tuple[Started, ...]
    next_b: tuple[Started, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shifted_a: Started | None
    shifted_b: Started | None
    moved: tuple[str, ...]
    cause: str | None
    cpu: int | None = None
