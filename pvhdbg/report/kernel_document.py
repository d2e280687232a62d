"""A kernel file's report as data: the file, its entry, what each loader would do with it, and the verdicts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.decode.toolchain import Tool, maker
from pvhdbg.loaders.loading import EntryProtocol, Loading
from pvhdbg.record import NamedTuple, dataclass
from pvhdbg.report.findings import CONFORMS, VIOLATED, count, summary, violates
from pvhdbg.rules.declare import Outcome, Verdict
from pvhdbg.spec.elf import PT_LOAD, SHT_NOBITS


class CodeLine(NamedTuple):
    """One disassembled instruction."""

    address: int
    data: bytes
    text: str


@dataclass(frozen=True)
class EntryPlace:
    """The place of the entry: its symbol (and the offset from it), its segment and file offset, and its code."""

    address: int
    symbol: str | None = None
    symbol_offset: int = 0
    segment: int | None = None
    offset: int | None = None
    code: tuple[CodeLine, ...] = ()


@dataclass(frozen=True)
class FileReport:
    """The answer of `pvhdbg elf`. `build_id` is in hexadecimal, `symbols` the number of entries of the table `symbols_from`."""

    path: str
    kernel: KernelFile
    verdicts: tuple[Verdict, ...]
    loadings: tuple[Loading, ...]
    entry: EntryPlace | None = None
    build_id: str | None = None
    symbols: int = 0
    symbols_from: str | None = None
    strict: bool = False

    @property
    def maker(self) -> Tool | None:
        """The tool that made the file, or None if the file does not show it."""
        return maker(self.kernel)

    @property
    def summary(self) -> dict[Outcome, int]:
        """The number of verdicts of each outcome, for all outcomes."""
        return summary(self.verdicts)

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 violated."""
        return VIOLATED if any(violates(verdict, self.strict) for verdict in self.verdicts) else CONFORMS

    @property
    def conclusion(self) -> str:
        """The verdict in one sentence, with the number of loaders that would enter the file by PVH."""
        entered = [loading for loading in self.loadings if loading.protocol is EntryProtocol.PVH]
        who = (
            f"{len(entered)} of {count(len(self.loadings), 'loader')} would enter it by PVH"
            if self.loadings
            else "no loader was selected"
        )
        failed = self.summary[Outcome.FAIL]
        if self.exit_code == VIOLATED:
            return f"the kernel file VIOLATES the PVH boot ABI; {who}"
        advice = f", with {count(failed, 'recommendation')} not followed" if failed else ""
        return f"the kernel file conforms to the PVH boot ABI{advice}; {who}"


class Overlap(NamedTuple):
    """Two PT_LOADs, by index, that share physical addresses from `start` to `end` (exclusive)."""

    first: int
    second: int
    start: int
    end: int


def overlaps(kernel: KernelFile) -> tuple[Overlap, ...]:
    """PT_LOADs that are loaded over each other, each with its nearest neighbours: the later one in the file wins."""
    loads = sorted(
        (segment.p_paddr, segment.p_paddr + segment.p_memsz, index)
        for index, segment in enumerate(kernel.elf.segments)
        if segment.p_type == PT_LOAD and segment.p_memsz
    )
    found = []
    reach: tuple[int, int] | None = None  # end and index of the PT_LOAD with the highest end so far
    for start, end, index in loads:
        if reach is not None and start < reach[0]:
            found.append(Overlap(reach[1], index, start, min(end, reach[0])))
        if reach is None or end > reach[0]:
            reach = end, index
    return tuple(found)


def sections_of_notes(kernel: KernelFile) -> Mapping[int, str]:
    """For the file offset of a note the name of the first section that holds it, if one does; one pass over the sections."""
    left = sorted({note.offset for note in (*kernel.elf.notes, *kernel.section_notes)})
    found: dict[int, str] = {}
    for section in kernel.sections:
        if section.type != SHT_NOBITS and section.name:
            low, high = bisect_left(left, section.offset), bisect_left(left, section.offset + section.size)
            found.update(dict.fromkeys(left[low:high], section.name))
            del left[low:high]
    return found
