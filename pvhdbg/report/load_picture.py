"""A picture of a kernel file's PT_LOADs in physical memory, in order of address, with the holes between them."""

from __future__ import annotations

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.report.kernel_document import EntryPlace, overlaps
from pvhdbg.report.sizes import human
from pvhdbg.report.style import Style
from pvhdbg.spec.elf import PT_LOAD

_DRAWN = 64  # segments of a picture
_ONE_MIB, _FOUR_GIB = 1 << 20, 1 << 32
_RIGHTS = ((4, "R"), (2, "W"), (1, "X"))


def rights(flags: int) -> str:
    """p_flags as readelf writes them, without blanks: "RWX", "R-X"."""
    return "".join(letter if flags & bit else "-" for bit, letter in _RIGHTS)


def render(kernel: KernelFile, entry: EntryPlace | None, paddr_offset: int, style: Style) -> list[str]:
    """The picture as lines; with a PADDR_OFFSET other than 0, followed by Draft A's reading of p_paddr."""
    loads = [(index, one) for index, one in enumerate(kernel.elf.segments) if one.p_type == PT_LOAD and one.p_memsz]
    loads.sort(key=lambda pair: pair[1].p_paddr)
    if not loads:
        return [f"  {style('bad', 'nothing is loaded: there is no PT_LOAD with a size')}"]
    lines, reached = [], 0
    for index, load in loads[:_DRAWN]:
        start, end = load.p_paddr, load.p_paddr + load.p_memsz
        if start > reached:
            lines.append(style("dim", f"     {reached:#014x} - {start:#014x}  {human(start - reached):>10}  not loaded"))
        filled = min(load.p_filesz, load.p_memsz) * 8 // load.p_memsz
        bar = style("good", "█" * filled) + style("dim", "░" * (8 - filled))
        line = f"  {index:>2} {start:#014x} - {end:#014x}  {human(load.p_memsz):>10}  {rights(load.p_flags)} {bar}"
        parts = [f"file {load.p_offset:#x}", f"p_vaddr {load.p_vaddr:#x}"]
        if load.p_filesz < load.p_memsz:
            parts.append(f"{human(load.p_memsz - load.p_filesz)} of zeros")
        if load.p_filesz > load.p_memsz:
            parts.append(f"p_filesz {load.p_filesz:#x} is more than p_memsz")
        lines.append(f"{line} {', '.join(parts)}")
        lines += [style("bad", f"     └ {remark}") for remark in _remarks(start, end)]
        if entry is not None and entry.segment == index:
            lines.append(style("note", f"     └ {entry.address:#x} the PVH entry"))
        reached = max(reached, end)
    if len(loads) > _DRAWN:
        lines.append(f"  … and {len(loads) - _DRAWN} more")
    for one in overlaps(kernel)[:_DRAWN]:
        what = f"program headers {one.first} and {one.second} overlap at {one.start:#x} - {one.end:#x}: the later one is loaded over the other"
        lines.append(style("warn", f"  {what}"))
    return lines + _draft_a(loads[0][1].p_paddr, loads[-1][1].p_paddr, paddr_offset, style)


def _remarks(start: int, end: int) -> list[str]:
    found = []
    if end > _FOUR_GIB:
        found.append("above 4 GiB, which 32-bit code at the entry cannot reach")
    if start < _ONE_MIB:
        found.append("below 1 MiB, where firmware, the hand-off's structures and holes of the memory map are")
    return found


def _draft_a(first: int, last: int, offset: int, style: Style) -> list[str]:
    """Draft A's reading of p_paddr, which the mails of 2015 discuss. No shipped loader uses it for PVH."""
    if not offset:
        return []
    moved = [(address - offset) % (1 << 64) for address in dict.fromkeys((first, last))]
    shown = " … ".join(f"{address:#x}" for address in moved)
    what = (
        f"Draft A reads p_paddr - PADDR_OFFSET ({offset:#x}): {shown}; loaders use p_paddr unchanged, since for PVH the offset is 0"
    )
    return [style("note", f"  {what}")]
