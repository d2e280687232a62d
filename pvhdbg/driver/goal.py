"""The goal of a trace as the user gave it: an address, a mode, a number of instructions, a line on the serial port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvhdbg.driver.serial_milestones import pattern_of
from pvhdbg.machine.names import Names, goal_of
from pvhdbg.tracing.goal import Goal


@dataclass(frozen=True)
class TraceGoal(Goal):
    """A trace ends also after a number of instructions, or at a line on the serial port. `text` is what the user wrote."""

    count: int | None = None
    text: str = ""
    serial: re.Pattern[str] | None = None


def trace_goal_of(text: str | None, names: Names, option: str = "--until") -> TraceGoal:
    """Parse `--until` (or `--from`): a number of instructions, 0xADDRESS, a mode's name, or a symbol. Raises BadInput."""
    if text is None:
        return TraceGoal()
    if text.isdecimal() and text.isascii():
        return TraceGoal(count=int(text), text=text)
    if (serial := pattern_of(text, option)) is not None:
        return TraceGoal(text=text, serial=serial)
    goal = goal_of(text, names, option)
    return TraceGoal(goal.addresses, goal.modes, text=text)
