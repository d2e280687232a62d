"""The diagrams in docs/images as SVG, drawn from the JSON of real runs: a hand-off, a death, a timeline. `make_pictures.py` runs them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from textwrap import wrap
from typing import Any

WIDE, LINE, LETTER, ROOM = 960, 18, 7.3, 10  # the picture, a line of text, a letter of it, the room around text in a box
_HEAD = """<svg viewBox="0 0 {wide} {high}" xmlns="http://www.w3.org/2000/svg" font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="12">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#5b6472"/></marker></defs>
<rect width="{wide}" height="{high}" fill="#ffffff"/>
"""
_COLOURS = {"plain": "#f3f5f8", "given": "#e3eefc", "bad": "#fbe6e6", "good": "#e5f5e8", "warn": "#fdf3dc"}
_ABOVE_LINES = ' paint-order="stroke" stroke="#ffffff" stroke-width="5"'  # a text that lines pass below
_MODES = {"real": "plain", "protected": "given", "paged": "warn", "pae": "warn", "compatibility": "warn", "long": "good"}


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" xml:space="preserve"{style}>{escape(words)}</text>\n'


def _box(x: float, y: float, width: float, title: str, lines: list[str], colour: str = "plain") -> tuple[str, float]:
    """A box with a title and lines, and the y of its lower edge. Lines that are too long are wrapped."""
    fitting = int((width - 2 * ROOM) / LETTER)
    rows = [row for line in lines for row in wrap(line, fitting, subsequent_indent="  ") or [""]]
    high = ROOM * 2 + LINE * (len(rows) + 1) - 4
    drawn = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{high:g}" rx="5" fill="{_COLOURS[colour]}" stroke="#5b6472"/>\n'
    drawn += _text(x + ROOM, y + ROOM + 9, title, ' font-weight="bold"')
    for number, row in enumerate(rows, 1):
        drawn += _text(x + ROOM, y + ROOM + 9 + LINE * number, row)
    return drawn, y + high


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    path = f"M{x1:g},{y1:g} C{middle:g},{y1:g} {middle:g},{y2:g} {x2:g},{y2:g}"
    return f'<path d="{path}" fill="none" stroke="#5b6472" marker-end="url(#tip)"/>\n'


def _svg(pieces: Iterator[str], high: float) -> str:
    return _HEAD.format(wide=WIDE, high=int(high)) + "".join(pieces) + "</svg>\n"


def handoff(report: dict[str, Any]) -> str:
    """What the kernel gets, of a report of `check`: the CPU, start_info, and what that points to."""
    registers, start = report["registers"], report["start_info"]
    names = ("eip", "ebx", "cr0", "cr4", "eflags")
    cpu, _ = _box(
        10, 40, 220, "the CPU at the entry", [f"{name:<7} {registers[name]}" for name in names] + ["protected mode, paging off"]
    )
    fields = (
        "magic",
        "version",
        "flags",
        "nr_modules",
        "modlist_paddr",
        "cmdline_paddr",
        "rsdp_paddr",
        "memmap_paddr",
        "memmap_entries",
    )
    info, low = _box(300, 40, 250, f"start_info at {start['address']}", [f"{name:<15} {start[name]}" for name in fields], "given")
    drawn = [
        _text(10, 24, f"A PVH hand-off: {report['vmm']['name']} {report['vmm']['version']}", ' font-size="15" font-weight="bold"'),
        cpu,
        info,
    ]
    drawn.append(_arrow(230, 40 + ROOM + 9 + LINE * 2 - 4, 300, 50))
    modules = [f"module at {one['paddr']}, {int(one['size'], 16)} bytes" for one in start["modules"]]
    tables = [f"{one['signature']} at {one['address']}, {len(one['tables'])} tables" for one in start["rsdp"]["root_tables"]]
    ranges = [f"{one['addr']:<14} {_size(one['size']):>10}  {one['type_name']}" for one in start["memory_map"]]
    targets = {
        "modlist_paddr": (f"the module list at {start['modlist_paddr']}", modules),
        "cmdline_paddr": (f"the command line at {start['cmdline_paddr']}", [start["command_line"]]),
        "rsdp_paddr": (f"the RSDP at {start['rsdp_paddr']}", tables),
        "memmap_paddr": (f"the memory map at {start['memmap_paddr']}", ranges),
    }
    y = 40.0
    for field, (title, lines) in targets.items():
        box, end = _box(630, y, 320, title, lines)
        drawn += [box, _arrow(550, 40 + ROOM + 5 + LINE * (fields.index(field) + 1), 630, y + 12)]
        y = end + 12
    return _svg(iter(drawn), max(low, y) + 10)


def _size(text: str) -> str:
    size = int(text, 16)
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def death(why: dict[str, Any]) -> str:
    """How a guest died, of the answer of `why`: its last instructions, the faults that followed, what they come from, and what to do."""
    last = why["path"][-4:]
    steps = [f"{one['seq']:>7,}  {one['pc']}  {one['mode']:<10} {one['code']}" for one in last]
    drawn = [_text(10, 24, f"Why it died: {why['kind']}", ' font-size="15" font-weight="bold"')]
    box, y = _box(10, 40, 450, f"the last of {why['instructions']:,} instructions, in {why['symbol']}", steps)
    drawn.append(box)
    for number, fault in enumerate(why["faults"]):
        box, end = _box(10, y + 26, 450, f"fault {number + 1}", [fault["words"]], "bad")
        drawn += [f'<path d="M235,{y:g} L235,{y + 25:g}" stroke="#5b6472" marker-end="url(#tip)"/>\n', box]
        y = end
    low, right = y, 40.0
    parts = (
        ("the address", [why["address"]["words"], *why["address"]["walk"]], "plain"),
        ("what the ABI promises", why["promises"], "given"),
        ("the cause", [why["cause"], why["verdict"]], "warn"),
        ("what to do", [why["next"]], "good"),
    )
    for title, lines, colour in parts:
        box, right = _box(490, right, 460, title, lines, colour)
        drawn.append(box)
        right += 12
    return _svg(iter(drawn), max(low, right) + 10)


def timeline(answer: dict[str, Any]) -> str:
    """A boot from mode to mode, of the answer of `timeline`: the same width for each milestone, since most of a boot is one loop."""
    found = answer["milestones"]
    step = (WIDE - 60) / len(found)
    drawn = [_text(10, 24, f"A boot to long mode: {answer['instructions']:,} instructions", ' font-size="15" font-weight="bold"')]
    for span in answer["modes"]:
        inside = [number for number, one in enumerate(found) if span["first"] <= one["seq"] < span["behind"]]
        if not inside:
            continue
        x, width = 20 + step * inside[0], step * len(inside)
        colour = _COLOURS[_MODES[span["mode"]]]
        drawn.append(f'<rect x="{x:g}" y="44" width="{width:g}" height="30" fill="{colour}" stroke="#5b6472"/>\n')
        drawn.append(_text(x + 4, 63, span["mode"][: int(width / LETTER)], ' font-weight="bold"'))
    words = []
    for number, one in enumerate(found):
        x, y = 20 + step * number, 110 + LINE * 2.6 * number
        lines = (f"{one['seq']:,}  {one['milestone']}  {one['detail']}".rstrip(), f"{one['pc']} {one['symbol'] or ''}".rstrip())
        fits = max(map(len, lines)) * LETTER < WIDE - x - 30
        drawn.append(
            f'<path d="M{x + 8:g},74 L{x + 8:g},{y - 4:g} L{x + 22:g},{y - 4:g}" fill="none" stroke="#5b6472" marker-end="url(#tip)"/>\n'
        )
        for row, line in enumerate(lines):
            side = "" if fits else ' text-anchor="end"'
            grey = ' fill="#5b6472"' if row else ""
            words.append(_text(x + (26 if fits else 4), y + 15 * row, line, side + grey + _ABOVE_LINES))
    drawn += words
    return _svg(iter(drawn), 110 + LINE * 2.6 * len(found))
