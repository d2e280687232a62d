"""Whether memory holds what the kernel's file says: which places are compared, and what the comparison amounts to.

Nothing here reads memory: `samples` says what to read, `compare` judges what was read. A gdbstub gives 2 KiB for a round trip,
so that not all of a large kernel is compared but the page of the entry, the ends of each segment, whole segments as far as
they fit, and pages at even distances of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pvhdbg.decode.elf import Buffer, ElfFile, phys32_entry
from pvhdbg.model import ImageComparison, ImageDifference
from pvhdbg.record import dataclass

PAGE = 4096
BOUND = 128 << 10  # bytes that are compared of one kernel


@dataclass(frozen=True)
class Sample:
    """A range of guest-physical memory to compare. `offset` is where the file has its bytes; None where it must be zero."""

    part: int
    address: int
    size: int
    offset: int | None


@dataclass(frozen=True)
class _Part:
    """The bytes that a PT_LOAD has in the file, or the zeros behind them."""

    address: int
    size: int
    offset: int | None

    @property
    def pages(self) -> int:
        return -(-self.size // PAGE)

    def sample(self, index: int, first: int, pages: int) -> Sample:
        at = first * PAGE
        size = min(pages * PAGE, self.size - at)
        return Sample(index, self.address + at, size, None if self.offset is None else self.offset + at)


def _parts(elf: ElfFile) -> list[_Part]:
    found = []
    for load in elf.loads:
        inside = min(load.p_filesz, load.p_memsz)
        found.append(_Part(load.p_paddr, inside, load.p_offset))
        found.append(_Part(load.p_paddr + inside, load.p_memsz - inside, None))
    return sorted((part for part in found if part.size), key=lambda part: part.address)


def samples(elf: ElfFile, bound: int = BOUND) -> tuple[Sample, ...]:
    """What to compare, `bound` bytes at most, in order of address. Segments that share memory are left out: what was loaded
    last wins there, and loaders differ."""
    parts = _parts(elf)
    shared = {index for index, _ in enumerate(parts) if _overlaps(parts, index)}
    chosen: dict[int, set[int]] = {index: set() for index in range(len(parts)) if index not in shared}
    left = bound // PAGE

    def take(index: int, page: int) -> None:
        nonlocal left
        if left and page not in chosen[index]:
            chosen[index].add(page)
            left -= 1

    entry = phys32_entry(elf)
    for index in chosen:
        if entry is not None and parts[index].offset is not None and 0 <= entry.address - parts[index].address < parts[index].size:
            take(index, (entry.address - parts[index].address) // PAGE)
    for index in chosen:
        take(index, 0)
        take(index, parts[index].pages - 1)
    for index in sorted(chosen, key=lambda index: parts[index].size):
        if parts[index].pages - len(chosen[index]) > left:
            break
        for page in range(parts[index].pages):
            take(index, page)
    rest = [index for index in chosen if len(chosen[index]) < parts[index].pages]
    all_pages, wanted = sum(parts[index].pages for index in rest), left
    for number in range(wanted):
        at = (2 * number + 1) * all_pages // (2 * wanted)
        for index in rest:
            if at < parts[index].pages:
                take(index, at)
                break
            at -= parts[index].pages
    return tuple(sample for index, pages in chosen.items() for sample in _runs(parts[index], index, sorted(pages)))


def _overlaps(parts: list[_Part], index: int) -> bool:
    """Whether a neighbour in order of address shares memory with it, or one that reaches as far."""
    one = parts[index]
    reach = max((part.address + part.size for part in parts[:index]), default=0)
    return reach > one.address or (index + 1 < len(parts) and parts[index + 1].address < one.address + one.size)


def _runs(part: _Part, index: int, pages: list[int]) -> list[Sample]:
    """Pages that follow one another as one sample."""
    found = []
    first = last = None
    for page in pages:
        if first is not None and last is not None and page == last + 1:
            last = page
            continue
        if first is not None and last is not None:
            found.append(part.sample(index, first, last - first + 1))
        first = last = page
    if first is not None and last is not None:
        found.append(part.sample(index, first, last - first + 1))
    return found


def compare(elf: ElfFile, data: Buffer, read: Mapping[Sample, bytes], booted: bool) -> ImageComparison:
    """What `read` (memory at each sample, as far as it could be read) has in common with the file.

    `booted` says that this file was handed to the VMM. Otherwise a user named it, and where a page holds other content than the file's
    nothing tells an overwritten kernel from another one. Pages of one byte repeated do not count: they were cleared.
    """
    differences: dict[int, ImageDifference] = {}
    compared, zeros, other = 0, 0, 0
    for sample, found in read.items():
        expected = bytes(sample.size) if sample.offset is None else bytes(data[sample.offset : sample.offset + sample.size])
        if sample.offset is None:
            zeros += sample.size
        else:
            compared += sample.size
            for at in range(0, sample.size, PAGE):
                one, there = expected[at : at + PAGE], found[at : at + PAGE]
                other += one != there and there.count(there[:1]) != len(there)
        if found != expected and sample.part not in differences:
            at = next(index for index, byte in enumerate(expected) if found[index] != byte)
            differences[sample.part] = ImageDifference(sample.address + at, expected[at], found[at], sample.offset is None)
    parts = _parts(elf)
    return ImageComparison(
        compared,
        sum(part.size for part in parts if part.offset is not None),
        zeros,
        sum(part.size for part in parts if part.offset is None),
        tuple(differences.values()),
        not booted and other > 0,
    )


def within(all_samples: Iterable[Sample], areas: Iterable[tuple[int, int]] | None) -> list[Sample]:
    """The samples cut to `areas`, [start, end) in order of address, which hold RAM; all of them where that is not known."""
    if areas is None:
        return list(all_samples)
    known, found = list(areas), []
    for sample in all_samples:
        for start, end in known:
            low, high = max(start, sample.address), min(end, sample.address + sample.size)
            if low < high:
                offset = None if sample.offset is None else sample.offset + low - sample.address
                found.append(Sample(sample.part, low, high - low, offset))
    return found
