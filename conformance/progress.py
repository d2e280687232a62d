"""Progress: one live line on a terminal, otherwise a line every few seconds; failures are reported at once."""

from __future__ import annotations

import time
from typing import TextIO

from conformance.boots import PVH, Boot
from pvhdbg.decode.text import printable
from pvhdbg.rules.declare import Outcome

_EVERY = 0.2  # seconds between two live lines
_SELDOM = 5.0  # and between two plain ones


class Progress:
    """Counts boots as they end. `total` 0 is "not known yet": failures of such test boots are expected, and not reported."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._known: set[tuple[str, str, str]] = set()
        self.begin("")

    def begin(self, what: str, total: int = 0) -> None:
        """A new part of the work, of `total` boots."""
        self._what, self._total, self._done, self._bad = what, total, 0, 0
        self._began = self._shown = time.monotonic()

    def boot(self, boot: Boot) -> None:
        """A boot has ended. A failure is reported once for each QEMU, machine and rule."""
        self._done += 1
        if not self._total:
            return
        failing = [v.rule.id for v in boot.verdicts if v.outcome is Outcome.FAIL] if boot.protocol == PVH else []
        if boot.failure:
            failing.append(boot.failure)
        self._bad += bool(failing)
        setup = boot.case.setup
        for one in failing:
            if (setup.qemu, setup.options, one) not in self._known:
                self._known.add((setup.qemu, setup.options, one))
                self.line(f"{setup.qemu}: {boot.case}: {'' if boot.failure else 'fails '}{one}")
        now = time.monotonic()
        if now - self._shown > (_EVERY if self._live else _SELDOM) or self._done == self._total:
            self._shown = now
            self._count(now)

    def line(self, text: str) -> None:
        """A line that stays."""
        clean = "\n".join(printable(line) for line in text.split("\n"))
        self._write(f"\r\x1b[K{clean}\n" if self._live else f"{clean}\n")

    def _count(self, now: float) -> None:
        rate = self._done / max(now - self._began, 1e-3)
        text = f"{self._what} {self._done} of {self._total}, {rate:.0f} a second, {self._bad} with failures"
        self._write(f"\r\x1b[K{text}" + ("\n" if self._done == self._total else "") if self._live else f"{text}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            pass
