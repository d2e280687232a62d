"""What a trace is to come to, in the words of a user: a place, a mode, a number of instructions, a line on the serial port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvhdbg.commands.table import Request
from pvhdbg.driver.serial_milestones import pattern_of
from pvhdbg.errors import BadInput
from pvhdbg.machine.waiter import Names, addresses_of
from pvhdbg.tracing.event import Mode
from pvhdbg.tracing.mode_words import MODES

NOT_REACHED = 3  # exit code
_SECONDS = 60.0


@dataclass(frozen=True)
class Until:
    """Where a trace ends: at addresses, in a mode, after a number of instructions, or when words were written to the serial port."""

    addresses: tuple[int, ...] = ()
    modes: frozenset[Mode] = frozenset()
    count: int | None = None
    text: str = ""
    serial: re.Pattern[str] | None = None


def until(text: str | None, names: Names, option: str = "--until") -> Until:
    """What `--until` (or `--from`) means: a number of instructions, 0xADDRESS, a mode's name, or a symbol. Raises BadInput."""
    if text is None:
        return Until()
    if text.isdecimal() and text.isascii():
        return Until(count=int(text), text=text)
    if text in MODES:
        return Until(modes=MODES[text], text=text)
    if (serial := pattern_of(text, option)) is not None:
        return Until(text=text, serial=serial)
    return Until(addresses_of(text, names, option), text=text)


def seconds(request: Request) -> float:
    """How long to follow the guest. Raises BadInput."""
    wanted = _SECONDS if request.seconds is None else float(request.seconds)
    if not 0 < wanted < 1e6:
        raise BadInput(f"--for {wanted:g} is not a time", "give a number of seconds greater than 0")
    return wanted
