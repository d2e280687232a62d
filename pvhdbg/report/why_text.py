"""Why a boot died, as text and as JSON (pvhdbg/why/1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from pvhdbg.decode.paging import Walk
from pvhdbg.decode.text import SafeText, printable
from pvhdbg.report import trace_text
from pvhdbg.report.json_text import written
from pvhdbg.report.last_words import told_lines, words_of
from pvhdbg.report.style import PLAIN, Style
from pvhdbg.tracing.calls import Call, LastFunctions
from pvhdbg.tracing.causes.draft import Disassemble
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.explain import Explanation
from pvhdbg.tracing.last_words import Told
from pvhdbg.tracing.symbol_text import SafeName
from pvhdbg.tracing.unwinding import By

_REGISTERS = (
    ("rax", "rbx", "rcx", "rdx"), ("rsi", "rdi", "rbp", "rsp"), ("rip", "eflags", "cs", "ss"), ("cr0", "cr2", "cr3", "cr4"),
    ("efer", "gdt_base", "idt_base", "idt_limit"),
)  # fmt: skip


# Deaths that no way led to, which could have been recorded.
_NO_PATH = (DeathKind.ALIVE, DeathKind.LEFT, DeathKind.SHUTDOWN, DeathKind.EXITED, DeathKind.RESET, DeathKind.PANIC)
_TIMES = 3  # equal faults in a row that become one line


def render(
    death: Death,
    why: Explanation,
    name: SafeName,
    disassemble: Disassemble,
    serial: Sequence[SafeText] = (),
    warnings: Sequence[SafeText] = (),
    style: Style = PLAIN,
    told: Sequence[Told] = (),
    calls: Sequence[Call] = (),
    ran: Sequence[LastFunctions] = (),
) -> str:
    """The verdict first, then the evidence for it; with a brief style the verdict alone."""
    lines = [*(style("bad", line) for line in wrap(printable(why.verdict), max(min(style.width, 110), 40))), ""]
    if style.brief:
        return "\n".join(lines)

    def part(title: str, found: Iterable[str]) -> None:
        found = list(found)
        if found:
            lines.extend([style("head", title), *found, ""])

    part("Its last words", (line for one in told for line in told_lines(one)))
    for title, found in _path(death, name, disassemble, style):
        part(title, found)
    if not death.path and not death.there and death.kind not in _NO_PATH:
        lines += [
            style("dim", "The last instructions were not recorded: the guest died after those that are traced one by one."),
            "",
        ]
    if len(calls) > 1:
        part(_CALLS[_mostly(calls)], _chain(calls))
    for one in ran:
        part(f"The last functions of CPU {one.cpu}, by the flight recorder", _functions(one))
    part("The faults", _numbered(why.chain))
    if why.address is not None:
        words = (printable(why.address.words), *walk(why.address.walk))
        part(f"The address {why.address.address:#x}", _indented(words))
    if death.state:
        part("Registers, at the fault" if death.reported else "Registers", registers(death))
    part("What the ABI promises", _indented(map(printable, why.promises)))
    part("What was wrong with the hand-off", _indented(map(printable, why.complaints)))
    part("Last lines of the serial port", _indented(map(printable, serial)))
    lines += [style("warn", f"note: {warning}") for warning in warnings]
    if why.next:
        lines.append(f"{style('head', 'next:')} {printable(why.next)}")
    return "\n".join(lines).rstrip("\n") + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _path(death: Death, name: SafeName, disassemble: Disassemble, style: Style) -> list[tuple[str, list[str]]]:
    """The instructions that led to the death, with a title; else those that are there."""
    if not death.path:
        return [("The code there", _code(death, disassemble))]
    before = "The last instructions before the fault" if death.after else "The last instructions that matter"
    parts = [(before, death.path), ("The end of its handler", death.after)]
    return [(title, [trace_text.events(part, name, disassemble, style).rstrip("\n")]) for title, part in parts if part]


_CALLS = {
    By.PC: "Where it was",
    By.ORC: "The calls that led there (by the kernel's ORC tables)",
    By.CFI: "The calls that led there (by DWARF's call frame tables)",
    By.FRAME: "The calls that led there (by frame pointers)",
    By.DEBUGGER: "The calls that led there (as GDB unwinds the stack)",
    By.WORDS: "The calls that led there (by the kernel's own trace)",
    By.STACK: "Return addresses on the stack, some perhaps of calls that had ended",
}


def _code(death: Death, disassemble: Disassemble) -> list[str]:
    """The instructions from the pc on."""
    return [
        f"  {'=>' if not index else '  '} {one.pc:#x}  {disassemble(one.code, one.pc, one.mode.bits)}"
        for index, one in enumerate(death.there)
    ]


def _chain(calls: Sequence[Call]) -> list[str]:
    """The calls; equal ones in a row on one line."""
    lines = []
    mostly = _mostly(calls)
    for (beyond, text), group in groupby((one.by is By.DEBUGGER and mostly is not By.DEBUGGER, _call(one)) for one in calls):
        if beyond and _BEYOND not in lines:
            lines.append(_BEYOND)
        count = len(list(group))
        lines.append(text if count == 1 else f"{text}  ({count} times)")
    return lines


_BEYOND = "  then, as GDB unwinds the stack:"


def _mostly(calls: Sequence[Call]) -> By:
    """How the callers are known, without those that only a debugger found behind them."""
    return next((one.by for one in reversed(calls[1:]) if one.by is not By.DEBUGGER), By.DEBUGGER)


def _call(one: Call) -> str:
    held = "".join(f'  "{printable(text)}"' for text in one.strings)
    line = "" if one.line is None else f"  {one.line}"
    return f"  {one.pc:#x}  {printable(one.name or '?')}{line}{held}"


def _functions(one: LastFunctions) -> list[str]:
    return wrap(" > ".join(printable(name) for name in one.functions), 110, initial_indent="  ", subsequent_indent="  ")


def _numbered(links: Sequence[str]) -> list[str]:
    """The faults, one on a line; of many equal ones in a row, one line."""
    lines, number = [], 1
    for link, group in groupby(links):
        count = len(list(group))
        if count > _TIMES:
            lines.append(f"  {number}. {printable(link)} (and so on)")
        else:
            lines += [f"  {number + index}. {printable(link)}" for index in range(count)]
        number += count
    return lines


def walk(way: Walk | None) -> list[str]:
    """The page walk, one level on a line; empty if paging is off."""
    if way is None or way.scheme is None:
        return []
    lines = [f"{way.scheme.name}:"]
    for level in way.levels:
        entry = "cannot be read" if level.entry is None else f"{level.entry:#x} {level.words() or 'not present'}"
        lines.append(f"  {level.name}[{level.index}] at {level.address:#x}: {entry}")
    lines.append(f"  {way.problem}" if way.physical is None else f"  physical {way.physical:#x}")
    return lines


def registers(death: Death) -> list[str]:
    """The registers that matter for a death, four on a line."""
    rows = []
    for row in _REGISTERS:
        shown = [f"{name} {death.state[name]:#x}" for name in row if name in death.state]
        if shown:
            rows.append("  " + "  ".join(f"{part:<26}" for part in shown).rstrip())
    return rows


def document(
    death: Death, why: Explanation, name: Callable[[int], str | None], serial: Sequence[SafeText] = (), warnings: Sequence[SafeText] = (),
    told: Sequence[Told] = (), calls: Sequence[Call] = (), ran: Sequence[LastFunctions] = (),
) -> str:  # fmt: skip
    """The answer as JSON."""
    return written(_document(death, why, name, serial, warnings, told, calls, ran))


def _document(
    death: Death, why: Explanation, name: Callable[[int], str | None], serial: Sequence[SafeText], warnings: Sequence[SafeText],
    told: Sequence[Told], calls: Sequence[Call], ran: Sequence[LastFunctions],
) -> dict[str, Any]:  # fmt: skip
    return {
        "schema": "pvhdbg/why/1",
        "kind": death.kind.value,
        "cause": why.cause,
        "vmm_bug": None if death.vmm_bug is None else death.vmm_bug.key,
        "verdict": why.verdict,
        "instructions": death.begun,
        "pc": None if death.pc is None else hex(death.pc),
        "symbol": None if death.pc is None else name(death.pc),
        "mode": None if death.mode is None else death.mode.value,
        "path": [{"seq": one.seq, "pc": hex(one.pc), "mode": one.mode.value, "code": one.code.hex()} for one in death.path],
        "there": [{"pc": hex(one.pc), "mode": one.mode.value, "code": one.code.hex()} for one in death.there],
        "after": [{"seq": one.seq, "pc": hex(one.pc), "mode": one.mode.value, "code": one.code.hex()} for one in death.after],
        "cpu": death.cpu,
        "faults": [
            {"kind": one.kind.value, "vector": one.vector, "error": one.error, "cr2": None if one.cr2 is None else hex(one.cr2), "words": words}
            for one, words in zip(death.reported, why.chain, strict=False)
        ],
        "address": None if why.address is None else {
            "address": hex(why.address.address), "class": why.address.kind.value, "words": why.address.words, "walk": walk(why.address.walk),
        },
        "registers": {key: hex(value) for key, value in death.state.items()},
        "promises": list(why.promises),
        "handoff": list(why.complaints),
        "calls": [{"pc": hex(one.pc), "symbol": one.name, "by": one.by.value, "strings": list(one.strings), "line": one.line} for one in calls],
        "last_functions": [{"cpu": one.cpu, "functions": list(one.functions), "blocks": one.blocks} for one in ran],
        "words": words_of(told),
        "serial": list(serial),
        "next": why.next,
        "warnings": list(warnings),
    }  # fmt: skip
