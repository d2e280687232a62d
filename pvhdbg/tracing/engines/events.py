"""An engine's batches as an iterator over single events, for Python: the machine runs only during the iteration."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType

from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import SafeText
from pvhdbg.tracing.engines.engine import Bounds, Engine, TraceEnd
from pvhdbg.tracing.event import Batch, Event, Fault
from pvhdbg.tracing.mode_words import first_in


class Events:
    """The instructions and faults of a trace, in order. A context manager: leaving it stops the machine and restores QEMU's log.

    `modes` end it with the first instruction in one of them. Between two events the machine may run ahead of the reader; after the
    end it is stopped, and `end` says why.
    """

    def __init__(self, engine: Engine, bounds: Bounds, modes: frozenset[Mode] = frozenset()) -> None:
        self._engine = engine
        self._batches = engine.batches(bounds)
        self._modes = modes
        self._waiting: deque[Event | Fault] = deque()
        self._over = False

    def __iter__(self) -> Iterator[Event | Fault]:
        return self

    def __next__(self) -> Event | Fault:
        while not self._waiting:
            if self._over:
                raise StopIteration
            batch = next(self._batches, None)
            if batch is None:
                self._over = True
            else:
                self._take(batch)
        return self._waiting.popleft()

    def _take(self, batch: Batch) -> None:
        first = first_in(batch.modes, self._modes)
        if first is not None:
            batch, self._over = batch.cut(first + 1), True
        faults = deque(batch.faults)
        for event in batch:
            while faults and faults[0].seq <= event.seq:
                self._waiting.append(faults.popleft())
            self._waiting.append(event)
        self._waiting.extend(faults)
        if self._over:
            self._halt()

    @property
    def end(self) -> TraceEnd:
        """Why it ended; "enough" for a reader that left before."""
        return self._engine.end

    @property
    def warnings(self) -> list[SafeText]:
        """Doubts about the events, as sentences."""
        return self._engine.warnings

    def close(self) -> None:
        """Stop the machine. Safe to call twice."""
        self._over = True
        self._waiting.clear()
        self._halt()

    def _halt(self) -> None:
        self._batches.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self._halt()
