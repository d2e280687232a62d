"""The fault tap beside an engine that does not read QEMU's log itself: `int,cpu_reset`, which costs a guest nothing that can be measured.

It tells of resets that a step hides (QEMU ends a step that resets the machine one instruction too late), and why they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType

from pvhdbg.errors import TargetError, TargetLost
from pvhdbg.targets.target import Target
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.event import Fault
from pvhdbg.tracing.qemu_log import LogReader

_BLOCK_LINES = re.compile(rb"^(?:(?:0x|IN:|---)[^\n]*)?\n", re.MULTILINE)
_LINE_BOUND = 1 << 16  # bytes of a line that is not ended


class FaultLines:
    """Faults among other lines of QEMU's log, in any pieces. What is disassembled between them is passed over."""

    def __init__(self) -> None:
        self._reader = LogReader(states=False)
        self._rest = b""

    def feed(self, data: bytes, begun: int) -> list[Fault]:
        """The faults that `data` completes, `begun` events having begun before them. Raises ProtocolError for what is no log."""
        text = self._rest + data
        cut = text.rfind(b"\n") + 1
        self._rest = text[cut:][:_LINE_BOUND]
        return [replace(fault, seq=begun) for fault in self._reader.tap(_BLOCK_LINES.sub(b"", text[:cut]))]


class Tap:
    """A context manager for a machine that stands still. Where there is no such log (KVM, no monitor) it sees nothing: `open` is False."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stack = ExitStack()
        self._switch: LogSwitch | None = None
        self._lines = FaultLines()
        self.warnings: list[str] = []

    @property
    def open(self) -> bool:
        """Whether faults are seen."""
        return self._switch is not None

    def __enter__(self) -> Tap:
        if not self._target.capabilities.monitor:
            return self
        try:
            self._switch = self._stack.enter_context(LogSwitch(self._target, "int,cpu_reset", single=False))
        except TargetLost:
            raise
        except TargetError:
            return self  # the engine was chosen because of that, and says so
        self.warnings += self._switch.warnings
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        self._switch = None

    @contextmanager
    def drained(self) -> Iterator[None]:
        """Reads meanwhile: a CPU that waits for room in the FIFO cannot be stopped. What is read is lost."""
        if self._switch is None:
            yield
            return
        with self._switch.drained():
            yield

    def faults(self, begun: int) -> list[Fault]:
        """What was taken since the last look."""
        data = b"" if self._switch is None else self._switch.rest()
        return self._lines.feed(data, begun) if data else []
