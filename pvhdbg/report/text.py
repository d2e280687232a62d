"""The report as text for a terminal or a log: what was handed over, what is wrong with it, and the verdict last.

All text from outside passes through `printable`, so that a guest's command line cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pvhdbg.decode import acpi
from pvhdbg.decode.boot_state import BootState, StartInfo, Text, Unread
from pvhdbg.decode.text import printable, shorten
from pvhdbg.model import Registers
from pvhdbg.report import machine, memory_picture, verdict_text
from pvhdbg.report.document import Passed, Report, is_64_bit, register_names
from pvhdbg.report.sizes import human
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.rules.catalogue import CHAPTERS
from pvhdbg.rules.declare import Rule
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.spec.start_info import flag_names
from pvhdbg.spec.x86 import BIT_WORDS, REGISTER_BITS, bit_names

_LINE = 120  # characters of a guest's string that the report shows; `info` shows all


def render(report: Report, style: Style = PLAIN) -> str:
    """The whole report; with a brief style what fails, and the conclusion."""
    boot = report.boot
    if style.brief:
        failing = verdict_text.failing(report.verdicts, style)
        return "".join(
            f"{line}\n" for line in (*failing, verdict_text.conclusion(report.conclusion, report.summary, report.exit_code, style))
        )
    blocks = [
        _header(boot, report.warnings, style),
        _titled("Registers", registers(boot), style),
        _titled("Segments", segments(boot), style),
        _titled("start_info", info(boot, style, _LINE), style),
        verdict_text.checks(report.verdicts, CHAPTERS, f"Checks by {boot.revision.title}", style),
        _milestones(report.milestones, style),
    ]
    other = boot.other_protocol
    if not boot.snapshot.entry.is_entry:
        blocks.append(
            [
                style(
                    "warn",
                    "This was judged where the machine is stopped, which need not be its entry: a kernel that runs has left its entry state.",
                )
            ]
        )
    last = verdict_text.conclusion(report.conclusion, report.summary, report.exit_code, style)
    advice = f"\n{other.advice}" if other is not None else ""
    if report.failure is not None and report.failure.todo:
        advice += f"\n  next: {printable(report.failure.todo)}"
    return "\n".join("\n".join(block) + "\n" for block in blocks if block) + f"\n{last}{advice}\n"


def render_registers(boot: BootState, style: Style = PLAIN, before: Registers | None = None, bits: bool = False) -> str:
    """The output of `pvhdbg regs`. A `*` marks registers that changed since the stop `before`; `bits` adds a line for each bit."""
    shown = [_titled("Registers", registers(boot, before), style), _titled("Segments", segments(boot), style)]
    if bits:
        shown.append(_titled("Bits", _bits(boot), style))
    blocks = [_header(boot, (), style), *shown]
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def render_info(boot: BootState, style: Style = PLAIN) -> str:
    """The output of `pvhdbg info`."""
    blocks = [_header(boot, (), style), _titled("start_info", info(boot, style, 1 << 16), style)]
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def _milestones(passed: Sequence[Passed], style: Style) -> list[str]:
    """The milestones of `--until` and of expectations, in seconds since the entry; empty if there were none."""
    if not passed:
        return []
    rows = [
        f"  {one.seconds:8.3f} s  {printable(one.name)}"
        + (f", before instruction {one.instructions:,}" if one.instructions is not None else "")
        + (f"  {style('bad', printable(one.missed))}" if one.missed else "")
        for one in passed
    ]
    return _titled("Milestones", rows, style)


def _titled(title: str, lines: list[str], style: Style) -> list[str]:
    return [style("head", title), *lines]


# --- the machine --------------------------------------------------------------------------------------------------


def _header(boot: BootState, warnings: Iterable[str], style: Style) -> list[str]:
    snapshot = boot.snapshot
    lines = [f"{style('head', f'{name:<9}')} {text}" for name, text in machine.rows(boot)]
    if not snapshot.entry.is_entry:
        lines.append(style("warn", "caution   decoded where the machine is stopped (--here): this need not be its entry"))
    return lines + [style("warn", f"note      {warning}") for warning in warnings]


def registers(boot: BootState, before: Registers | None = None) -> list[str]:
    """General registers four to a line, then the system registers with the names of their bits."""
    names = register_names(boot)
    digits = 16 if is_64_bit(boot) else 8
    cells = [f"{_mark(boot.registers, before, name)}{name:>3} {_value(boot.registers.get(name), digits)}" for name in names]
    lines = [" " + " ".join(cells[index : index + 4]) for index in range(0, len(cells), 4)]
    for name in ("eflags", "cr0", "cr3", "cr4", "efer"):
        value = boot.registers.get(name)
        bits = " ".join(bit_names(name, value)) if value is not None and name in REGISTER_BITS else ""
        mark = _mark(boot.registers, before, name)
        was = f"  (was {_value(before.get(name), 8)})" if mark == "*" and before is not None else ""
        lines.append(f" {mark}{name:>6} {_value(value, 8)}  {bits}".rstrip() + was)
    if any(boot.registers.get(name) is None for name in ("cr0", "cr4", "eflags")):
        lines.append(f"  (not observed: {printable(boot.registers.missing)})")
    return lines


def _bits(boot: BootState) -> list[str]:
    """A line for each bit that is set in a system register."""
    return [
        f"  {name:>6}.{bit:<10} {BIT_WORDS[name].get(bit, 'reserved')}"
        for name in REGISTER_BITS
        for bit in bit_names(name, boot.registers.get(name) or 0)
    ]


def _mark(now: Registers, before: Registers | None, name: str) -> str:
    """A star for a register that changed since the stop before; one that was not observed then gets no star."""
    known = None if before is None else before.get(name)
    return "*" if known is not None and now.get(name) != known else " "


def _value(value: int | None, digits: int) -> str:
    return "?" * digits if value is None else f"{value:0{digits}x}"


def segments(boot: BootState) -> list[str]:
    """A row for each segment register, then the descriptor tables."""
    if not boot.segments.by_name:
        return [f"  not observed: {printable(boot.segments.missing)}"]
    lines = ["       sel   base      limit     flags     meaning"]
    for name in ("cs", "ds", "es", "ss", "fs", "gs", "tr", "ldt"):
        one = boot.segments[name]
        row = f"  {name:<3}  {_value(one.selector, 4)}  {_value(one.base, 8)}  {_value(one.limit, 8)}  {_value(one.flags, 8)}"
        lines.append(f"{row}  {machine.segment_meaning(one)}")
    for name, table in (("gdt", boot.segments.gdt), ("idt", boot.segments.idt)):
        lines.append(f"  {name}        " + (f"{table.base:08x}  {table.limit:08x}" if table else "not observed"))
    if boot.snapshot.a20 is not None:
        lines.append(f"  A20 gate   {'enabled' if boot.snapshot.a20 else 'disabled'}")
    return lines


# --- start_info ---------------------------------------------------------------------------------------------------


def info(boot: BootState, style: Style, width: int) -> list[str]:
    """start_info as a tree, and the memory map as a picture."""
    if not isinstance(boot.start_info_part, Unread):
        return _tree(boot, boot.start_info, style, width)
    if not isinstance(boot.draft_a_part, Unread):
        draft = boot.draft_a
        return [
            f"  Draft A, {draft.width}-bit layout, at {draft.address:#x}",
            f"  magic         {printable(draft.raw.magic.split(bytes(1), 1)[0])}",
            f"  console       {draft.raw.console:#x}, {draft.raw.console_detail:#x}",
            f"  module        {draft.raw.mod_start:#x}, {draft.raw.mod_len:#x} bytes ({draft.module_kind})",
            f"  command line  {shorten(printable(draft.raw.cmd_line.split(bytes(1), 1)[0]), width)}",
        ]
    return [f"  {printable(boot.start_info_part.reason)}"]


def _tree(boot: BootState, start: StartInfo, style: Style, width: int) -> list[str]:
    raw, v1 = start.raw, start.v1
    lines = [
        f"  magic 0x{raw.magic:08x}, version {raw.version}, flags {raw.flags:#x} {' '.join(flag_names(raw.flags))}".rstrip(),
        f"  ├ command line   {_pointer(raw.cmdline_paddr)}{_string(start.command_line, width)}",
        f"  ├ RSDP           {_pointer(raw.rsdp_paddr)}{_rsdp(start.rsdp)}",
    ]
    if not isinstance(start.root_tables, Unread):
        for table in start.root_tables:
            state = f"{len(table.entries)} tables" if table.sound else f"WRONG: {printable(table.problem)}"
            lines.append(f"  │   └ {table.expected.decode()}       {table.address:#x}  {state}")
    lines.append(f"  ├ modules        {_pointer(raw.modlist_paddr)}{raw.nr_modules} of them")
    lines += _modules(start, width)
    if v1 is None:
        return [*lines, "  └ memory map     none: a version 0 structure ends at byte 40"]
    lines.append(f"  └ memory map     {_pointer(v1.memmap_paddr)}{v1.memmap_entries} entries; reserved {v1.reserved:#x}")
    if isinstance(start.memory_map, Unread):
        lines.append(f"      {printable(start.memory_map.reason)}")
    elif start.memory_map is not None:
        if len(start.memory_map) < v1.memmap_entries:
            lines.append(f"      only the first {len(start.memory_map)} were read")
        lines += memory_picture.render(start.memory_map, memory_picture.parts(boot, start), style)
    return lines


def _pointer(address: int) -> str:
    return f"{address:#x}  " if address else "absent  "


def _string(text: Text | Unread | None, width: int) -> str:
    if text is None:
        return ""
    if isinstance(text, Unread):
        return printable(text.reason)
    shown = f"“{shorten(printable(text.data[: 2 * width]), width)}”"
    return shown if text.terminated else f"{shown} (no NUL found)"


def _rsdp(rsdp: acpi.Rsdp | Unread | None) -> str:
    if rsdp is None:
        return ""
    if isinstance(rsdp, Unread):
        return printable(rsdp.reason)
    if rsdp.head.signature != acpi.RSDP_SIGNATURE:
        return f"not an RSDP: {printable(rsdp.head.signature)}"
    return f"revision {rsdp.revision}, OEM “{printable(rsdp.head.oem_id)}”"


def _modules(start: StartInfo, width: int) -> list[str]:
    if isinstance(start.modules, Unread):
        return [f"  │   {printable(start.modules.reason)}"]
    lines = []
    for index, module in enumerate(start.modules):
        entry = module.entry
        line = f"  │   └ [{index}] {entry.paddr:#x}, {human(entry.size)} ({module.kind})"
        if module.command_line is not None:
            line += f", command line {entry.cmdline_paddr:#x} {_string(module.command_line, width)}"
        if entry.reserved:
            line += f", reserved {entry.reserved:#x}"
        lines.append(line)
    if len(start.modules) < start.raw.nr_modules:
        lines.append(f"  │   only the first {len(start.modules)} were read")
    return lines


# --- rules --------------------------------------------------------------------------------------------------------


def render_rule(rule: Rule, style: Style = PLAIN) -> str:
    """The output of `pvhdbg explain`: the whole declaration."""
    lines = [
        f"{style('head', rule.id)}  {rule.title}",
        "",
        f"  severity   {rule.severity.value}",
        f"  judged by  {', '.join(sorted(rule.revisions))}",
        f"  clause     {rule.clause}",
        f"             {rule.clause.document.url}  ({rule.clause.document.state})",
        "",
        *(f"  {line}" for line in rule.why.splitlines()),
    ]
    for deviation in DEVIATIONS:
        if deviation.rule == rule.id:
            lines += ["", f"  on record  {deviation.key}: {deviation.whose()}"]
            lines.append(f"             found {deviation.values()}: {deviation.why}")
            lines.append(f"             {deviation.source}")
    return "\n".join(lines) + "\n"


def render_rules(chapters: Iterable[tuple[str, tuple[Rule, ...]]], style: Style = PLAIN) -> str:
    """The output of `pvhdbg rules`: one line for each rule, by chapter."""
    lines = []
    for title, rules in chapters:
        lines.append(style("head", title))
        for rule in rules:
            lines.append(f"  {rule.id:<20} {rule.severity.value:<7} {rule.title}")
    return "\n".join(lines) + "\n"
