"""Milestones that are lines on the serial port: `serial:REGEX`, for a guest whose QEMU is started here.

Serial output and the engine's events arrive on two channels. So a line gets two numbers: the minimum and the maximum of
instructions that had begun when it was complete.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from pvhdbg.decode.pattern import BadPattern, compiled
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.driver.bounded_search import PATIENCE, TooSlow, search
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import BadInput
from pvhdbg.tracing.engines.engine import EngineKind
from pvhdbg.tracing.milestones import Milestone
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess
from pvhdbg.vmm.serial import SerialLines

PREFIX = "serial:"
_BUDGET = 5.0  # seconds for one expression in total; the 100 KB of a boot take a hundredth of that
_HELD = 2  # events that QEMU may have logged and the log's reader still holds: one incomplete, one whose effect is not known yet


def pattern_of(text: str, option: str) -> re.Pattern[str] | None:
    """The expression in `serial:REGEX`; None for another kind of milestone. Raises BadInput."""
    if not text.startswith(PREFIX):
        return None
    words = text.removeprefix(PREFIX)
    if not words:
        raise BadInput(f"{option} {text} has no regular expression", f"write it after the colon: {option} 'serial:login:'")
    try:
        return compiled(words)
    except BadPattern as error:
        raise BadInput(f"{option} {text} is not a regular expression: {error}", "see Python's re for how one is written") from None


def need_own_serial(qemu: QemuProcess | None) -> QemuProcess:
    """The QEMU whose serial port we read. Raises BadInput for a machine without one."""
    if qemu is None:
        raise BadInput("a milestone of the serial port needs a machine that is started here", "give the kernel, not a gdbstub")
    if "serial" in option_names(qemu.command[qemu.command.index("-S") :]) and not qemu.serial_log.exists():
        raise BadInput(
            "a milestone of the serial port needs COM1, which -serial redirects", "leave out -serial, or add: --serial FILE"
        )
    return qemu


def looked_for(options: TraceOptions, machine: TracedMachine, engine: EngineKind, until: str | None) -> SerialMilestones:
    """The milestones on the serial port for a trace with the engine of that name; `until` is its goal. Raises BadInput."""
    if until is not None and engine == "breakpoints":
        raise BadInput(
            "--engine breakpoints does not watch the serial port between its stops",
            "give --milestone, or another --engine",
        )
    wanted = {}
    for text, option in (*((one, "--milestone") for one in options.milestone), (until or "", "--until")):
        pattern = pattern_of(text, option)
        if pattern is not None:
            wanted[text] = pattern
    return SerialMilestones(machine, wanted, ahead=engine == "log")


class SerialMilestones:
    """Call `look` after each batch; `ahead` says that the machine runs on while its events are read."""

    def __init__(self, machine: TracedMachine, wanted: Mapping[str, re.Pattern[str]], *, ahead: bool) -> None:
        self._wanted = dict(wanted)
        self._lines = SerialLines(need_own_serial(machine.qemu).serial_log, from_now=True) if wanted else None
        self._ahead = ahead
        self._begun = 0
        self._waiting: list[Milestone] = []
        self._spent: defaultdict[str, float] = defaultdict(float)  # seconds, by expression
        self.warnings: list[SafeText] = []

    @property
    def complete(self) -> bool:
        """Whether no milestone is left."""
        return not self._wanted and not self._waiting

    def look(self, begun: int) -> list[Milestone]:
        """The milestones that are complete after `begun` events."""
        if self._lines is None or self.complete:
            return []
        done = self._stamped(begun + _HELD) if self._ahead else []
        self._find(self._lines.read(), begun)
        if not self._ahead:
            done = self._stamped(begun)
        self._begun = begun
        return done

    def finish(self, begun: int) -> list[Milestone]:
        """The milestones in the last line, which counts at the end of the trace even without a line end."""
        if self._lines is None:
            return []
        while self._wanted and (lines := self._lines.read()):
            self._find(lines, begun)
        self._find([self._lines.unfinished()], begun)
        return self._stamped(begun)

    def _stamped(self, until: int) -> list[Milestone]:
        done = [replace(one, until=max(until, one.seq)) for one in self._waiting]
        self._waiting = []
        return done

    def _find(self, lines: list[SafeText], begun: int) -> None:
        for line in lines:
            if not self._wanted:
                return
            for name, wanted in tuple(self._wanted.items()):
                since = time.monotonic()
                try:
                    met = search(wanted, line)
                except TooSlow:
                    self._give_up(name, f"takes more than {PATIENCE:g} s on a line of the guest's")
                    continue
                self._spent[name] += time.monotonic() - since
                if met:
                    del self._wanted[name]
                    self._waiting.append(Milestone(name, self._begun, None, line))
                elif self._spent[name] > _BUDGET:
                    self._give_up(name, f"has taken {_BUDGET:g} s on the guest's output")

    def _give_up(self, name: str, why: str) -> None:
        del self._wanted[name]
        self.warnings.append(safe(f"{name} {why}: pvhdbg stopped looking for it"))
