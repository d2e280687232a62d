"""The memory map as a picture in the terminal: a bar of the ranges, and below each range the parts of the hand-off in it."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.decode.boot_state import BootState, StartInfo, Text, Unread
from pvhdbg.record import NamedTuple
from pvhdbg.report.sizes import human
from pvhdbg.report.style import Style
from pvhdbg.spec.start_info import MEMORY_TYPES, MemoryMapEntry

_FILL = {1: "█", 2: "░", 3: "▒", 4: "▓", 5: "x", 6: "-", 7: "▚"}
_MEANING = {1: "good", 2: "dim", 3: "note", 4: "note", 7: "warn"}
_DRAWN = 64  # ranges that a picture shows; of the others it gives the number


class PicturePart(NamedTuple):
    """A part of the hand-off in memory: `start` and `end` are physical addresses, end exclusive."""

    name: str
    start: int
    end: int


def parts(boot: BootState, info: StartInfo) -> list[PicturePart]:
    """start_info and what it points to, the kernel's segments and the modules, in order of address."""
    raw, found = info.raw, [PicturePart("start_info", info.address, info.address + info.raw.sizeof())]
    if isinstance(info.command_line, Text):
        found.append(PicturePart("command line", raw.cmdline_paddr, raw.cmdline_paddr + len(info.command_line.data) + 1))
    if raw.nr_modules and raw.modlist_paddr:
        found.append(PicturePart("module list", raw.modlist_paddr, raw.modlist_paddr + 32 * min(raw.nr_modules, 1 << 20)))
    if info.v1 is not None and info.v1.memmap_paddr:
        end = info.v1.memmap_paddr + 24 * min(info.v1.memmap_entries, 1 << 20)
        found.append(PicturePart("memory map", info.v1.memmap_paddr, end))
    if not isinstance(info.modules, Unread):
        for index, module in enumerate(info.modules):
            found.append(PicturePart(f"module {index}", module.entry.paddr, module.entry.paddr + module.entry.size))
    if raw.rsdp_paddr:
        found.append(PicturePart("RSDP", raw.rsdp_paddr, raw.rsdp_paddr + 36))
    kernel = boot.snapshot.kernel
    if kernel is not None and kernel.loads:
        found.append(PicturePart("kernel", min(load.start for load in kernel.loads), max(load.end for load in kernel.loads)))
    return sorted(found, key=lambda part: part.start)


def render(entries: Iterable[MemoryMapEntry], things: Iterable[PicturePart], style: Style) -> list[str]:
    """The picture as lines. Ranges are in order of address; in the bar, the width of each grows with the logarithm of its size."""
    ordered = sorted(entries, key=lambda entry: (entry.addr, entry.size))
    shown = ordered[:_DRAWN]
    lines = [_bar(shown, style)] if shown else []
    left = list(things)
    reached = 0
    for entry in shown:
        end = entry.addr + entry.size
        if entry.addr > reached:
            lines += _under([part for part in left if reached <= part.start < entry.addr], "outside the map", style)
            left = [part for part in left if not reached <= part.start < entry.addr]
        kind = MEMORY_TYPES.get(entry.type, f"type {entry.type}")
        fill = style(_MEANING.get(entry.type, "bad"), _FILL.get(entry.type, "?") * 2)
        lines.append(f"  {fill} {entry.addr:#014x} - {end:#014x}  {human(entry.size):>10}  {kind}")
        inside = [part for part in left if entry.addr <= part.start < end]
        left = [part for part in left if part not in inside]
        lines += _under(inside, "", style)
        reached = max(reached, end)
    if len(ordered) > _DRAWN:
        lines.append(f"  … and {len(ordered) - _DRAWN} more ranges")
    return lines + _under(left, "outside the map", style)


def _bar(entries: list[MemoryMapEntry], style: Style) -> str:
    cells = []
    for entry in entries:
        width = max(entry.size.bit_length() // 4, 1)
        cells.append(style(_MEANING.get(entry.type, "bad"), _FILL.get(entry.type, "?") * width))
    legend = "  ".join(f"{_FILL[kind]} {MEMORY_TYPES[kind]}" for kind in sorted({e.type for e in entries} & set(_FILL)))
    return f"  {''.join(cells)}   {style('dim', legend)}"


def _under(things: list[PicturePart], remark: str, style: Style) -> list[str]:
    note = f"  ({remark})" if remark else ""
    return [
        style("warn" if remark else "note", f"     └ {part.start:#x} {part.name}, {human(part.end - part.start)}{note}")
        for part in things
    ]
