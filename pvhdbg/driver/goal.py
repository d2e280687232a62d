"""The goal of a trace as the user gave it: an address, a mode, a number of instructions, a line on the serial port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.driver.serial_milestones import pattern_of
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.tracing.mode_words import MODES


@dataclass(frozen=True)
class TraceGoal:
    """Where a trace ends: at addresses, in a mode, after a number of instructions, or at a line on the serial port."""

    addresses: tuple[int, ...] = ()
    modes: frozenset[Mode] = frozenset()
    count: int | None = None
    text: str = ""
    serial: re.Pattern[str] | None = None


def goal_of(text: str | None, names: Names, option: str = "--until") -> TraceGoal:
    """Parse `--until` (or `--from`): a number of instructions, 0xADDRESS, a mode's name, or a symbol. Raises BadInput."""
    if text is None:
        return TraceGoal()
    if text.isdecimal() and text.isascii():
        return TraceGoal(count=int(text), text=text)
    if text in MODES:
        return TraceGoal(modes=MODES[text], text=text)
    if (serial := pattern_of(text, option)) is not None:
        return TraceGoal(text=text, serial=serial)
    return TraceGoal(addresses_of(text, names, option), text=text)
