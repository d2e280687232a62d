"""`boot show`, `boot profile`, `boot coverage`, `boot timeline`: look at a boot that `boot` has recorded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from pvhdbg.commands.boot import recorded_how
from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.commands.output import open_output
from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.decode.text import printable
from pvhdbg.driver.recorded_machine import names_of
from pvhdbg.errors import BadInput
from pvhdbg.kernel.debug_info import DebugInfo
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.record import NamedTuple
from pvhdbg.report import boot_text
from pvhdbg.report.answers.boots import (
    BlockRun,
    BootBlocksAnswer,
    BootCoverageAnswer,
    BootFunctionsAnswer,
    BootProfileAnswer,
    ChapterCost,
    FileCoverage,
    FunctionCost,
)
from pvhdbg.report.boot_timeline import page
from pvhdbg.report.exports.chrome import of_boot
from pvhdbg.report.exports.drcov import of_blocks
from pvhdbg.report.exports.lcov import Executions, SourceLine, by_file, lcov
from pvhdbg.report.flame_graph import flame_graph
from pvhdbg.report.style import Style
from pvhdbg.tracing.boot_file import BootInfo
from pvhdbg.tracing.chapters import Chapter, ChapterProfile, chapters, events_of, runs_within
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recorded_parts import RecordedBlock
from pvhdbg.tracing.recorder.file import read_boot
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.story import Node, Started, folded, folded_text, functions, profile, profiles, tree
from pvhdbg.tracing.symbol_text import base
from pvhdbg.tracing.trace_file import Head, Load


class BootShowOptions(NamedTuple):
    """The options of `boot show`. `kernel` is the file with the names, if it is no longer where it was; `start` is --from, `to` --to."""

    subject: str
    kernel: str | None = None
    grep: str | None = None
    most: int = 200
    start: str | None = None
    to: str | None = None
    tree: bool = False


class BootProfileOptions(NamedTuple):
    """The options of `boot profile`; with `output` it is written in the format `format_name`. `chapter` is a name, or "all"."""

    subject: str
    kernel: str | None = None
    grep: str | None = None
    most: int = 200
    chapter: str | None = None
    format_name: str | None = None
    output: str | None = None


class BootBlocksOptions(NamedTuple):
    """The options of `boot blocks`; `start` is --from."""

    subject: str
    kernel: str | None = None
    start: str | None = None
    most: int = 200
    vcpu: int = 0


class BootExportOptions(NamedTuple):
    """The options of `boot coverage` and `boot timeline`."""

    subject: str
    kernel: str | None = None
    format_name: str | None = None
    output: str | None = None


class SavedBoot:
    """A saved boot with the kernel that was booted; everything is worked out when it is asked for."""

    def __init__(self, path: str, info: BootInfo, recording: Recording, image: KernelImage) -> None:
        self.path, self.info, self.recording, self.image = path, info, recording, image
        self.name = names_of(image)
        self.executed = recording.executed()
        last = min((mark.first for mark in recording.marks), default=1 << 63)  # the machine ran on for some milliseconds
        self.blocks = [block for block in self.executed if 0 <= (block.first or 0) <= last]
        self.functions = functions(self.blocks, self.name)

    def story(self) -> tuple[list[Chapter], list[Milestone]]:
        """The chapters and the milestones."""
        found, modes = events_of(self.recording)
        return chapters(self.recording, self.executed, self.functions, modes), found

    def number(self, text: str | None, option: str) -> int | None:
        """An instruction's number, given as one or as a function. Raises BadInput."""
        if text is None:
            return None
        digits = text.replace(",", "")
        if digits.lstrip("-").isdecimal():
            return int(digits)
        found = next((one.number for one in self.functions if one.name == text), None)
        if found is None:
            raise BadInput(
                f"{option} {text} is neither a number nor a function of this boot", "see which there are: pvhdbg boot show"
            )
        return found


@contextmanager
def saved_boot(path: str, kernel: str | None) -> Iterator[SavedBoot]:
    """A saved boot, and names by the kernel that was booted. Raises BadInput."""
    info, recording = read_boot(path)
    file = kernel or info.kernel
    with open_kernel(file) as image:
        given = image.with_hash()
        if given.sha256 != info.kernel_hash and not (info.build_id and given.build_id == info.build_id):
            raise BadInput(f"{printable(file)} is not the kernel that {path} was recorded of", "name that one: --kernel FILE")
        yield SavedBoot(path, info, recording, image)


@takes(BootShowOptions)
def show(options: BootShowOptions, context: Context) -> Answer:
    """`boot show`: the chapters of a saved boot, and its functions in the order of their first execution, or as a tree."""
    wanted = _pattern(options.grep)
    with saved_boot(options.subject, options.kernel) as boot:
        first, last = boot.number(options.start, "--from"), boot.number(options.to, "--to")

        def chosen(one: Started) -> bool:
            return (
                (wanted is None or bool(wanted.search(one.name)))
                and (first is None or one.number >= first)
                and (last is None or one.number <= last)
            )

        parts, _ = boot.story()
        nodes: list[Node] = []
        if options.tree:
            nodes = [node for node in tree(boot.functions) if chosen(node.started)]
            rows = [node.started for node in nodes]
        else:
            rows = [one for one in boot.functions if chosen(one)]
        info, exact, most = boot.info, boot.recording.exact, options.most
    document = BootFunctionsAnswer(recorded_how(info), exact, tuple(parts), tuple(rows[:most]), max(len(rows) - most, 0))

    def text(style: Style) -> str:
        shown = boot_text.tree(info, exact, parts, nodes, most, style) if options.tree else None
        return boot_text.story(info, exact, parts, rows, most, style) if shown is None else shown

    return shows(text, document)


@takes(BootBlocksOptions)
def blocks(options: BootBlocksOptions, context: Context) -> Answer:
    """`boot blocks`: the blocks that a CPU executed, in order, of a boot that was recorded with --flow."""
    with saved_boot(options.subject, options.kernel) as boot:
        flow = boot.recording.flows.get(options.vcpu)
        if flow is None:
            raise BadInput(f"{options.subject} holds no flow of CPU {options.vcpu}", "record it with: pvhdbg boot --flow")
        first = boot.number(options.start, "--from")
        try:
            runs = list(
                islice(
                    flow.since(
                        flow.numbers[0] if first is None and flow.numbers else first or 0, boot.recording.blocks(), options.vcpu
                    ),
                    options.most,
                )
            )
        except BadRecording as error:
            raise BadInput(f"{options.subject} is damaged: {error}", "record it again") from error
        known = {one.block: boot.recording.block(one.block) for one in runs}
        rows = tuple(
            BlockRun(one.number, block.linear, None if block.physical is None else boot.name(block.physical), block.instructions)
            for one in runs
            for block in (known[one.block],)
        )
        info, exact, full = boot.info, boot.recording.exact, flow.full
    document = BootBlocksAnswer(recorded_how(info), exact, rows, full)
    return shows(lambda style: boot_text.blocks(info, rows, full, style), document)


@takes(BootProfileOptions)
def show_profile(options: BootProfileOptions, context: Context) -> Answer:
    """`boot profile`: the instructions of each function, also within a chapter; or folded stacks, or a flame graph."""
    wanted = _pattern(options.grep)
    _need_both(options.format_name, options.output)
    most = options.most

    def chosen(rows: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        return [one for one in rows if wanted is None or wanted.search(one[0])]

    with saved_boot(options.subject, options.kernel) as boot:
        parts, _ = boot.story()
        within = [] if options.chapter is None else _within(boot, _chapters(parts, options.chapter), parts)
        within = [replace(one, functions=chosen(one.functions)) for one in within]
        rows = chosen(profile(boot.blocks, boot.name)) if not (within and options.format_name) else []
        if options.format_name is not None and options.output is not None:
            if options.chapter not in (None, _ALL) and not within[0].known:
                raise BadInput(_unknown(within[0].chapter.name), _AGAIN)
            stacks = (
                [
                    ((f"chapter {one.chapter.name}", *path), spent)
                    for one in within
                    for path, spent in folded(boot.functions, one.functions)
                ]
                if within
                else folded(boot.functions, rows)
            )
            if options.format_name == "folded":
                return _written(options.output, "folded", [folded_text(stacks)])
            title = f"{boot.info.kernel.rpartition('/')[2]}: instructions, each function below the one that reached it first"
            return _written(options.output, "svg", [flame_graph(stacks, title).encode()])
    info, exact, complete = boot.info, boot.recording.exact, wanted is None and boot.recording.cpus == 1
    document = BootProfileAnswer(
        recorded_how(info), exact, tuple(parts), _costs(rows, most), max(len(rows) - most, 0),
        tuple(ChapterCost(one.chapter.name, one.known, _costs(one.functions, most), max(len(one.functions) - most, 0)) for one in within),
    )  # fmt: skip
    if within:
        return shows(lambda style: boot_text.profile_within(info, exact, complete, within, most, style), document)
    return shows(lambda style: boot_text.profile(info, exact, complete, parts, rows, most, style), document)


_ALL = "all"
_AGAIN = "record the boot again; a chapter that begins with more than 131,072 blocks has no counts of its own"


def _unknown(name: str) -> str:
    return f"the recording does not hold the counts of the chapter {name}"


def _chapters(parts: list[Chapter], text: str) -> list[Chapter]:
    """The chapters that --chapter means; "long-mode" is "long mode". Raises BadInput."""
    found = [one for one in parts if text in (_ALL, one.name, one.name.replace(" ", "-"))]
    if not found:
        names = ", ".join(one.name.replace(" ", "-") for one in parts)
        raise BadInput(f"--chapter {text} is not a chapter of this boot", f"its chapters are: {names}; or give: all")
    return found


def _within(boot: SavedBoot, chosen: list[Chapter], parts: list[Chapter]) -> list[ChapterProfile]:
    """The functions of some of a boot's chapters."""
    pairs = [(part, runs) for part, runs in zip(parts, runs_within(boot.recording, parts), strict=True) if part in chosen]
    rows = profiles(boot.executed, boot.name, [runs or {} for _, runs in pairs])
    return [ChapterProfile(part, runs is not None, spent) for (part, runs), spent in zip(pairs, rows, strict=True)]


def _costs(rows: list[tuple[str, int]], most: int) -> tuple[FunctionCost, ...]:
    return tuple(FunctionCost(*one) for one in rows[:most])


@takes(BootExportOptions)
def coverage(options: BootExportOptions, context: Context) -> Answer:
    """`boot coverage`: how much of each source file a boot executed, or a file for Lighthouse (drcov) or genhtml (lcov)."""
    _need_both(options.format_name, options.output)
    with saved_boot(options.subject, options.kernel) as boot:
        loads = tuple(Load(one.p_vaddr, one.p_paddr, one.p_memsz, bool(one.p_flags & 1)) for one in boot.image.elf.loads)
        if options.format_name == "drcov" and options.output is not None:
            head = Head("recorder", "calls", kernel=boot.info.kernel, loads=loads)
            return _written(options.output, "drcov", of_blocks(head, _blocks_by_address(boot.blocks)))
        files = _lines(boot, loads)
        if options.format_name is not None and options.output is not None:
            if not files:
                raise BadInput(
                    f"{printable(boot.image.path)} has no debug info, and lcov is about source lines",
                    "record a kernel that was built with -g, or export drcov",
                )
            return _written(options.output, "lcov", lcov(files))
        # Only a stripped Linux' own table says which symbols are functions.
        known = {
            base(raw.decode("utf-8", "surrogateescape")) for letter, raw, _ in boot.image.symbols().lettered() if letter in "tTwW"
        }
        names = {one.name for one in boot.functions}
        reached = len(known & names) if known else len(names)
    covered = [FileCoverage(name, len(lines), sum(1 for runs in lines.values() if runs)) for name, lines in sorted(files.items())]
    document = BootCoverageAnswer(recorded_how(boot.info), reached, len(known) or None, tuple(covered))
    return shows(lambda style: boot_text.coverage(boot.info, files, reached, len(known), style), document)


@takes(BootExportOptions)
def timeline(options: BootExportOptions, context: Context) -> Answer:
    """`boot timeline`: the boot on a scale of instructions, as an HTML file or for Perfetto."""
    if options.output is None:
        raise BadInput("boot timeline has no file to write to", "name one: -o boot.html")
    with saved_boot(options.subject, options.kernel) as boot:
        milestones, modes = events_of(boot.recording)
        parts = chapters(boot.recording, boot.executed, boot.functions, modes)
        if options.format_name == "perfetto":
            rows = of_boot(boot.info.kernel.rpartition("/")[2], parts, modes, milestones, boot.functions)
            return _written(options.output, "perfetto", (row.encode() for row in rows))
        return _written(options.output, "html", [page(boot.info, parts, modes, milestones, tree(boot.functions)).encode()])


def _blocks_by_address(blocks: Iterable[RecordedBlock]) -> dict[int, int]:
    """The size of each block, by the linear address that it was executed at."""
    found: dict[int, int] = {}
    for block in blocks:
        found[block.linear] = max(found.get(block.linear, 1), block.size)
    return found


def _lines(boot: SavedBoot, loads: tuple[Load, ...]) -> dict[str, dict[int, int]]:
    """The source lines with their executions; none without debug info. Raises BadInput for damaged debug info."""
    debug = DebugInfo(boot.image.data)
    return by_file((SourceLine(*row) for row in debug.lines()), Executions(boot.blocks, loads)) if debug else {}


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return compiled(text)
    except BadPattern as error:
        raise BadInput(f"--grep {text} is not a regular expression: {error}", "see Python's re for how one is written") from None


def _need_both(format_name: str | None, output: str | None) -> None:
    if (format_name is None) != (output is None):
        raise BadInput("--as and -o belong together", "give both, or none of them for text")


def _written(output: str, format_name: str, pieces: Iterable[bytes]) -> Answer:
    size = 0
    with open_output(output) as file:
        for piece in pieces:
            file.write_bytes(piece)
            size += len(piece)
    return Answer(lambda _: "" if output == "-" else f"{printable(os.fspath(output))}: {size:,} bytes, {format_name}\n")
