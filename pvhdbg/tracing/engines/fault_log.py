"""The fault log: QEMU's log `int,cpu_reset` in parallel to an engine that does not read the log. Its cost is not measurable.

It shows resets that a step hides (QEMU ends a step that resets the machine one instruction too late), and their reason.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetError, TargetLost
from pvhdbg.targets.target import Target
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.event import Fault
from pvhdbg.tracing.qemu_log import LogReader

FAULT_ITEMS = "int,cpu_reset"  # QEMU's log items for exceptions, interrupts and resets
_BLOCK_LINES = re.compile(rb"^(?:(?:0x|IN:|---)[^\n]*)?\n", re.MULTILINE)
_KEPT = 6 << 20  # bytes of the log that were not looked at yet: a fault has about 1.2 KB
_LINE_BOUND = 1 << 16  # bytes of a line without an end


class FaultLines:
    """Faults among other lines of QEMU's log, in any pieces. The disassembly between them is skipped."""

    def __init__(self) -> None:
        self._reader = LogReader(states=False)
        self._rest = b""

    def feed(self, data: bytes, begun: int) -> list[Fault]:
        """The faults that `data` completes, after `begun` events. Raises ProtocolError for data that is not such a log."""
        text = self._rest + data
        cut = text.rfind(b"\n") + 1
        self._rest = text[cut:][:_LINE_BOUND]
        return self._reader.faults_in(_BLOCK_LINES.sub(b"", text[:cut]), begun)


class FaultLog:
    """A context manager for a stopped machine. Where there is no such log (KVM, no monitor), `open` is False.

    With `required` it raises TargetError there instead. A log that is not entered is not open, and reads nothing.
    """

    def __init__(self, target: Target, *, required: bool = False) -> None:
        self._target = target
        self._required = required
        self._stack = ExitStack()
        self._switch: LogSwitch | None = None
        self._lines = FaultLines()
        self._read: deque[bytes] = deque()  # and not looked at yet
        self._size = 0  # bytes of that
        self.warnings: list[SafeText] = []

    @property
    def open(self) -> bool:
        """Whether faults are observed."""
        return self._switch is not None

    def __enter__(self) -> FaultLog:
        if not self._target.capabilities.monitor and not self._required:
            return self
        try:
            self._switch = self._stack.enter_context(LogSwitch(self._target, FAULT_ITEMS, single=False))
        except TargetLost:
            raise
        except TargetError:
            if self._required:
                raise
            return self  # the engine was chosen for that reason, and reports it
        self.warnings += self._switch.warnings
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        self._switch = None

    @contextmanager
    def drained(self) -> Iterator[None]:
        """Reads the log meanwhile, for `faults`. QEMU: a CPU that waits for room in the FIFO cannot be stopped."""
        if self._switch is None:
            yield
            return
        with self._switch.drained() as pieces:
            yield
        for data in pieces:
            self._add(data)

    def read(self, patience: float) -> None:
        """Read what QEMU has written, for `faults`; wait for some so many seconds, open or not. Of very much, the end is kept."""
        if self._switch is None:
            time.sleep(patience)
        else:
            self._add(self._switch.read(patience))

    def _add(self, data: bytes) -> None:
        self._read.append(data)
        self._size += len(data)
        while self._size > _KEPT:
            self._size -= len(self._read.popleft())
            self._lines = FaultLines()  # what follows does not continue what was before

    def faults(self, begun: int) -> list[Fault]:
        """The faults since the last call, after `begun` events."""
        if self._switch is not None:
            self._add(self._switch.rest())
        data = b"".join(self._read)
        self._read.clear()
        self._size = 0
        return self._lines.feed(data, begun) if data else []
