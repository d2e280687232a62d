"""The context of a stop: mode and place, the registers that changed, the code, its source line, the stack, the last serial line."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from pvhdbg.decode.cpu_mode import observed_mode
from pvhdbg.decode.text import SafeText, printable, safe
from pvhdbg.errors import PvhdbgError, TargetLost
from pvhdbg.machine import disassemble
from pvhdbg.machine.stop_text import position
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS, Unavailable
from pvhdbg.report.answers.memory import MachineCode
from pvhdbg.report.answers.prompt import ChangedRegister, ContextAnswer, StackWord
from pvhdbg.report.style import PLAIN, Style

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.machine.source_line import SourceLines, SourcePlace

_NAMES = (*GENERAL, *EXTENDED, "eflags", *SELECTORS, *CONTROL)
T = TypeVar("T")
_INSTRUCTIONS = 6
_WORDS = 6  # of the stack
_GAP = 2  # columns between two registers


class Part(Enum):
    """The parts of the view, in their order; the place and the mode are always shown."""

    REGISTERS = "registers"
    CODE = "code"
    SOURCE = "source"
    STACK = "stack"
    SERIAL = "serial"


ALL = frozenset(Part)


def context(session: Session, parts: Collection[Part] = ALL, lines: SourceLines | None = None,
            serial: SafeText | None = None) -> ContextAnswer:  # fmt: skip
    """The context of the current stop, compared with the one that was shown before. A part that cannot be read is told in `unread`.
    Raises TargetLost.
    """
    pc = disassemble.linear_pc(session)
    unread: list[str] = []
    source = _tried(Part.SOURCE, lambda: lines.at(session, pc), None, []) if lines is not None and Part.SOURCE in parts else None
    return ContextAnswer(
        pc,
        *position(session),
        session.before is None,
        _registers(session) if Part.REGISTERS in parts else (),
        _tried(Part.CODE, lambda: _code(session, pc), (), unread) if Part.CODE in parts else (),
        *_place_and_text(source),
        _tried(Part.STACK, lambda: _stack(session), (), unread) if Part.STACK in parts else (),
        serial if Part.SERIAL in parts else None,
        tuple(unread),
    )  # fmt: skip


def _place_and_text(source: SourcePlace | None) -> tuple[str | None, str | None]:
    return (None, None) if source is None else (source.place, source.text)


def _tried(part: Part, read: Callable[[], T], otherwise: T, unread: list[str]) -> T:
    try:
        return read()
    except TargetLost:
        raise
    except Unavailable as gap:
        unread.append(f"{part.value}: {safe(gap.reason)}")
    except PvhdbgError as gap:
        unread.append(f"{part.value}: {safe(gap.what)}")
    return otherwise


def _registers(session: Session) -> tuple[ChangedRegister, ...]:
    """The registers that differ; the general ones and the flags where there is nothing to compare with."""
    now, before = session.registers(), session.before
    wide = observed_mode(*session.cpu()).code == 64
    short = {} if wide else {whole: half for half, whole in LOW_HALVES.items()}
    return tuple(
        ChangedRegister(short.get(name, name), value, None if before is None else before.get(name))
        for name in (_NAMES if before is not None else (*GENERAL, "eflags"))
        if (value := now.get(name)) is not None and (before is None or before.get(name) != value)
    )


def _code(session: Session, pc: int) -> tuple[MachineCode, ...]:
    _, found = disassemble.instructions(session, pc, _INSTRUCTIONS)
    return tuple(MachineCode(*one) for one in found)


def _stack(session: Session) -> tuple[StackWord, ...]:
    registers = session.registers()
    top = registers.get("rsp")
    if top is None:
        return ()
    size = (observed_mode(*session.cpu()).code or 32) // 8
    data = session.linear(top, _WORDS * size)
    words = (int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size))
    return tuple(StackWord(top + at * size, size, word, session.name_of(word) if word else None) for at, word in enumerate(words))


def text(found: ContextAnswer, parts: Collection[Part] = ALL, style: Style = PLAIN) -> list[str]:
    """The view as lines, for a terminal of the style's width."""
    lines = [_title(f"{found.place}, {found.mode}", style)]
    if Part.REGISTERS in parts:
        lines += [style("head", "registers" if found.first else "changed"), *_cells(found, style.width)]
    if found.source is not None:
        said = f"  {printable(found.source_text)}" if found.source_text else ""
        lines += [f"{style('head', 'source')}  {printable(found.source)}{said}"]
    if found.code:
        code = disassemble.lines("", [disassemble.Line(*one) for one in found.code])[1:]
        lines += [style("head", "code"), *(f"  {line}" for line in code)]
    if found.stack:
        lines += [style("head", "stack"), *(f"  {_word(one)}" for one in found.stack)]
    lines += [style("dim", one) for one in found.unread]
    if found.serial is not None:
        lines += [f"{style('head', 'serial')}  {style('dim', '|')} {printable(found.serial)}"]
    return lines


def _title(words: str, style: Style) -> str:
    line = f"── {words} "
    return style("note", (line + "─" * (min(style.width, 100) - len(line))).rstrip())


def _cells(found: ContextAnswer, width: int) -> list[str]:
    cells = [f"{one.name} {one.value:#x}" for one in found.registers]
    if not cells:
        return ["  nothing"]
    column = max(max(map(len, cells)) + _GAP, 20)
    count = max((min(width, 100) - _GAP) // column, 1)
    return ["  " + "".join(f"{one:<{column}}" for one in cells[at : at + count]).rstrip() for at in range(0, len(cells), count)]


def _word(one: StackWord) -> str:
    return f"{one.address:#x}: {one.value:0{2 * one.size}x}" + (f"  <{printable(one.symbol)}>" if one.symbol else "")
