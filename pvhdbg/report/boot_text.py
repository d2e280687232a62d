"""A recorded boot as text: its summary, its functions, its profile, and where two boots part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pvhdbg.decode.text import printable, safe
from pvhdbg.report.answers.boots import BlockRun
from pvhdbg.report.style import Style
from pvhdbg.tracing.boot_file import BootInfo
from pvhdbg.tracing.chapters import Chapter, ChapterProfile
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.story import Node, Parting, Started

_DEEPEST = 30  # levels of the tree that are indented
_NAMES = 20  # functions that are named of those that one boot alone executed


def summary(info: BootInfo, recording: Recording, begun: int) -> str:
    """One line on what was recorded."""
    about = "" if recording.exact else "about "
    rate = f", {begun / info.seconds:,.0f} a second" if info.seconds else ""
    lost = recording.header.lost
    note = f"note: the table is full: {lost:,} further blocks were counted, and not kept\n" if lost else ""
    blocks = recording.header.block_count
    return f"{note}{about}{begun:,} instructions in {info.seconds:.2f} s{rate}, {blocks:,} blocks; ended: {info.end}\n"


def story(info: BootInfo, exact: bool, parts: Sequence[Chapter], rows: Sequence[Started], most: int, style: Style) -> str:
    """The chapters, each with its functions in the order of their first execution, `most` in all."""
    lines = [_heading(exact)]
    waiting = list(parts)
    for one in rows[:most]:
        while waiting and waiting[0].first <= one.number:
            lines.append(_chapter(waiting.pop(0), style))
        lines.append(f"{one.number:>14,}  {style('note', printable(one.name))}")
    if len(rows) <= most:
        lines += [_chapter(part, style) for part in waiting]
    return "\n".join([*lines, *_more(len(rows), most, "functions"), _said(info)]) + "\n"


def tree(info: BootInfo, exact: bool, parts: Sequence[Chapter], rows: Sequence[Node], most: int, style: Style) -> str:
    """The chapters, and below them the functions, each indented below the one that reached it first."""
    lines = [_heading(exact), *(_chapter(part, style) for part in parts)]
    lines += [
        f"{row.started.number:>14,}  {'  ' * min(row.depth, _DEEPEST)}{style('note', printable(row.started.name))}"
        for row in rows[:most]
    ]
    return "\n".join([*lines, *_more(len(rows), most, "functions"), _said(info)]) + "\n"


def _heading(exact: bool) -> str:
    return (
        f"{'instruction':>14}  function"
        if exact
        else f"{'instruction':>14}  function (the numbers are about right: record with --exact)"
    )


def _chapter(part: Chapter, style: Style) -> str:
    return f"{part.first:>14,}  {style('head', f'— {part.name}: {part.behind - part.first:,} instructions')}"


def profile(
    info: BootInfo, exact: bool, complete: bool, parts: Sequence[Chapter], rows: Sequence[tuple[str, int]], most: int, style: Style
) -> str:
    """Instructions by chapter, and by function, most first. `complete`: `rows` are all functions, of the only CPU."""
    whole = sum(part.behind - part.first for part in parts) or 1
    lines = [f"{'' if exact else 'about ':>6}{'instructions':>10}  {'':>6}  chapter"]
    lines += [
        f"{part.behind - part.first:>16,}  {(part.behind - part.first) / whole:>6.1%}  {style('head', part.name)}" for part in parts
    ]
    lines += ["", f"{'instructions':>16}  {'':>6}  function", *_functions(rows, most, style)]
    lines += _too_many(rows, sum(part.behind - part.first for part in parts if part.first >= 0)) if exact and complete else []
    return "\n".join([*lines, _said(info)]) + "\n"


def profile_within(info: BootInfo, exact: bool, complete: bool, parts: Sequence[ChapterProfile], most: int, style: Style) -> str:
    """Instructions by function within each of some chapters, most first. `complete`: see `profile`."""
    lines = [f"{'' if exact else 'about ':>6}{'instructions':>10}  {'':>6}  function"]
    for part in parts:
        lines.append(_chapter(part.chapter, style))
        lines += _functions(part.functions, most, style)
        if exact and complete and part.known:
            lines += _too_many(part.functions, part.chapter.behind - part.chapter.first)
        lines += [] if part.known else ["note: the recording does not hold the counts at this chapter's beginning or end"]
    return "\n".join([*lines, _said(info)]) + "\n"


def _functions(rows: Sequence[tuple[str, int]], most: int, style: Style) -> list[str]:
    total = sum(spent for _, spent in rows) or 1
    lines = [f"{spent:>16,}  {spent / total:>6.1%}  {style('note', printable(name))}" for name, spent in rows[:most]]
    return [*lines, *_more(len(rows), most, "functions")]


def _too_many(rows: Sequence[tuple[str, int]], executed: int) -> list[str]:
    """The difference between the sums over blocks and the exact count, for a recording that has both."""
    more = sum(spent for _, spent in rows) - executed
    if not more:
        return []
    words = f"{abs(more):,} instructions {'more' if more > 0 else 'fewer'} than the {executed:,} that were executed"
    return [f"note: blocks are counted whole, also where a fault or an interrupt cut one short: the functions sum up to {words}"]


def blocks(info: BootInfo, rows: Sequence[BlockRun], full: bool, style: Style) -> str:
    """Executed blocks, one a line."""
    lines = [f"{'instruction':>14}  {'address':<18}  instructions  where"]
    lines += [
        f"{one.number:>14,}  {one.pc:#018x}  {one.instructions:>12,}  {style('note', printable(one.symbol or '?'))}" for one in rows
    ]
    lines += ["note: the flow ends before the boot: its file was full"] if full else []
    return "\n".join([*lines, _said(info)]) + "\n"


def coverage(info: BootInfo, files: Mapping[str, Mapping[int, int]], reached: int, known: int, style: Style) -> str:
    """Executed lines by source file, where there is debug info; functions otherwise."""
    lines = []
    if files:
        lines.append(f"{'executed':>10}  {'lines':>8}  {'':>6}  file")
        for name, rows in sorted(files.items()):
            hit = sum(1 for runs in rows.values() if runs)
            lines.append(f"{hit:>10,}  {len(rows):>8,}  {hit / len(rows):>6.1%}  {style('note', printable(name))}")
    lines.append(f"{reached:,} of {known:,} functions were executed" if known else f"{reached:,} functions were executed")
    return "\n".join([*lines, _said(info)]) + "\n"


def difference(a: BootInfo, b: BootInfo, found: Parting, cut: int | None, style: Style) -> str:
    """Where two boots part, with what distinguishes the two machines. `cut`: they are compared up to this instruction."""
    told = [f"{name}: {one} | {other}" for name, one, other in _distinguished(a, b)]
    told += ["several CPUs: each is compared by its own count of instructions, a sum over blocks"] if found.cpus > 1 else []
    if cut is not None:
        told.append(f"compared up to instruction {cut:,}, where a recording was cut: A: {safe(a.end)}; B: {safe(b.end)}")
    if found.identical:
        return (
            "\n".join([*told, f"the boots are the same: {found.index:,} functions in the same order, each at the same instruction"])
            + "\n"
        )
    lines = [*told]
    cpu = "" if found.cpu is None else f"CPU {found.cpu}: "
    if found.shifted is not None:
        one, other = found.shifted
        lines.append(f"{cpu}from {printable(one.name)} on at other instructions: {one.number:,} | {other.number:,}")
    if found.a or found.b:
        lines.append(f"{cpu}the boots part after {found.index:,} functions:")
        lines += [f"  both  {'':>14}  {printable(name)}" for name in found.common]
    lines += [style("bad", f"  A     {one.number:>14,}  {printable(one.name)}") for one in found.a]
    lines += [style("good", f"  B     {one.number:>14,}  {printable(one.name)}") for one in found.b]
    for what, names in (("only in A", found.only_a), ("only in B", found.only_b), ("in another order", found.moved)):
        shown = ", ".join(printable(name) for name in names[:_NAMES])
        more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
        lines.append(f"{what}: {len(names):,} functions{': ' if shown else ''}{shown}{more}")
    return "\n".join(lines) + "\n"


def _distinguished(a: BootInfo, b: BootInfo) -> list[tuple[str, str, str]]:
    """What differs between the two set-ups: VMM, kernel, arguments."""
    found: list[tuple[str, str, str]] = [("VMM", safe(a.vmm), safe(b.vmm))] if a.vmm != b.vmm else []
    if a.kernel_hash != b.kernel_hash:
        found.append(("kernel", safe(a.kernel), safe(b.kernel)))
    ours, theirs = _arguments(a), _arguments(b)
    only_a, only_b = [word for word in ours if word not in theirs], [word for word in theirs if word not in ours]
    if only_a or only_b:
        found.append(("arguments", safe(" ".join(only_a)) or "-", safe(" ".join(only_b)) or "-"))
    return found


_PRIVATE = ("-gdb", "-qmp", "-serial", "-plugin", "-kernel")  # whose values are paths that differ from run to run


def _arguments(info: BootInfo) -> list[str]:
    """The arguments, program and private paths left out; a value together with its option."""
    words, found = info.command[1:], list[str]()
    for word in words:
        if found and not word.startswith("-") and " " not in found[-1]:
            found[-1] += f" {word}"
        else:
            found.append(word)
    return [one for one in found if one.split(" ")[0] not in _PRIVATE]


def _more(count: int, most: int, what: str) -> list[str]:
    return [f"… {count - most:,} more {what}: --most {count}"] if count > most else []


def _said(info: BootInfo) -> str:
    clock = ", by a deterministic clock" if info.deterministic else ""
    return f"{safe(info.vmm)}{clock}; ended: {safe(info.end)}"
