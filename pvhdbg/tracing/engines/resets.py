"""A trace through the resets of its machine: each is reported with the last instruction before it; by option it ends the trace.

An engine ends at a reset. To continue, another engine begins at the reset vector with the next sequence number, so this works with
every engine. QEMU's own `-no-reboot` makes a reset a stop (or QEMU's end): then `ended` gives the reason.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace

from pvhdbg.decode.cpu_mode import Mode, pc_in
from pvhdbg.decode.text import SafeText
from pvhdbg.model import GuestEnd
from pvhdbg.targets.run import reset_machine
from pvhdbg.targets.target import RESET_RIP, Target
from pvhdbg.tracing import faults
from pvhdbg.tracing.block_coverage import Block
from pvhdbg.tracing.death import chain_of
from pvhdbg.tracing.engines.block_coverage import BlockCoverageEngine
from pvhdbg.tracing.engines.engine import Bounds, Engine, StopsWhenAsked, TraceEnd
from pvhdbg.tracing.event import Batch, EndReason, Fault, FaultKind, Reset

NOTHING_LEFT = SafeText("the VMM stops or ends when its guest resets (QEMU's -no-reboot), so the trace cannot continue")
_KEPT = 256  # faults: a chain is the last of them

WhyEnded = Callable[[], GuestEnd | None]


class ThroughResets(StopsWhenAsked):
    """See `Engine`. `make` makes the engine that begins with a sequence number; `go` says whether the trace continues after a reset.

    `watched` is held meanwhile and gives QEMU's own term for why the guest ended, "" where QEMU does not answer.
    """

    def __init__(
        self, target: Target, make: Callable[[int], Engine], *, go: bool = False,
        watched: Callable[[], AbstractContextManager[WhyEnded]] = lambda: nullcontext(lambda: None),
    ) -> None:  # fmt: skip
        self._target = target
        self._make = make
        self._go = go
        self._watched = watched
        self._engine = make(0)
        self._resets = 0
        self._last: tuple[int, Mode] | None = None
        self._faults: deque[Fault] = deque(maxlen=_KEPT)
        self.name = self._engine.name
        self.warnings: list[SafeText] = []

    @property
    def end(self) -> TraceEnd:
        return self._engine.end

    def stop(self) -> None:
        """See `StopsWhenAsked`."""
        super().stop()
        self._engine.stop()

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """The engine's batches, with a batch of its own for each reset. Raises TargetError."""
        deadline = time.monotonic() + bounds.seconds
        begun = 0
        with self._watched() as ended:
            while True:
                left = None if bounds.count is None else bounds.count - begun
                try:
                    part = replace(bounds, count=left, seconds=max(deadline - time.monotonic(), 0.001))
                    with closing(self._engine.batches(part)) as batches:
                        for batch in batches:
                            begun = batch.seq + len(batch)
                            self._note(batch)
                            yield batch
                finally:
                    self.warnings += [text for text in self._engine.warnings if text not in self.warnings]
                if not self._was_reset(ended):
                    return
                reset = self._reset(begun, self._goes_on(deadline, bounds, begun))
                yield Batch(begun, [], [], [], reset=reset)
                if not reset.goes_on:
                    return
                self._back_to_the_vector()
                self._engine = self._make(begun)
                if self._asked:
                    self._engine.stop()

    def _note(self, batch: Batch) -> None:
        if len(batch):
            self._last = batch.pcs[-1], batch.modes[-1]
        self._faults.extend(batch.faults)

    def _was_reset(self, ended: WhyEnded) -> bool:
        return was_reset(self._engine.end, self._faults, ended)

    def _goes_on(self, deadline: float, bounds: Bounds, begun: int) -> bool:
        if not self._go:
            return False
        if self._engine.end.why is not EndReason.RESET:
            self.warnings.append(NOTHING_LEFT)
            return False
        return not self._asked and time.monotonic() < deadline and (bounds.count is None or begun < bounds.count)

    def _reset(self, begun: int, goes_on: bool) -> Reset:
        self._resets += 1
        pc, mode = self._last or (None, None)
        why = why_reset(chain_of(self._faults))
        self._last = None
        self._faults.clear()
        return Reset(begun, self._resets, pc, mode, why, goes_on)

    def _back_to_the_vector(self) -> None:
        """QEMU: a step that resets the machine ends one instruction too late. Another reset corrects this."""
        if self._target.read_registers()["rip"] != RESET_RIP:
            reset_machine(self._target)


def blocks_through_resets(
    engine: BlockCoverageEngine, bounds: Bounds, *, go: bool, ended: WhyEnded
) -> Iterator[list[Block] | Reset]:
    """The same for blocks. The pc of a reset is that of the CPU at that moment, because a block is logged once only."""
    deadline = time.monotonic() + bounds.seconds
    begun = number = 0
    while True:
        left = None if bounds.count is None else bounds.count - begun
        for blocks in engine.blocks(replace(bounds, count=left, seconds=max(deadline - time.monotonic(), 0.001))):
            begun += len(blocks)
            yield blocks
        if not was_reset(engine.end, engine.faults, ended):
            return
        number += 1
        goes_on = (
            go
            and engine.end.why is EndReason.RESET
            and time.monotonic() < deadline
            and (bounds.count is None or begun < bounds.count)
        )
        if go and engine.end.why is not EndReason.RESET:
            engine.warnings.append(NOTHING_LEFT)
        yield Reset(begun, number, _stood(engine), None, why_reset(chain_of(engine.faults)), goes_on)
        if not goes_on:
            return
        engine.faults.clear()


def _stood(engine: BlockCoverageEngine) -> int | None:
    if engine.end.why is EndReason.SHUTDOWN:
        return engine.end.pc
    state = next((fault.state for fault in engine.faults if fault.kind is FaultKind.RESET), {})
    return pc_in(state)


def was_reset(end: TraceEnd, faults: Iterable[Fault], ended: WhyEnded) -> bool:
    """Whether an engine ended because the guest reset its machine; a QEMU with -no-reboot stops or ends instead."""
    if end.why in (EndReason.SHUTDOWN, EndReason.EXITED):
        return bool(chain_of(faults)) or ended() is GuestEnd.RESET
    return end.why is EndReason.RESET


def why_reset(chain: tuple[Fault, ...]) -> SafeText:
    """A chain of faults that reset the machine, in words; "" for none."""
    first = next((one for one in chain if one.kind.has_handler), None)
    if first is None:
        return SafeText("a triple fault" if chain else "")
    where = "" if first.pc is None else f" at {first.pc:#x}"
    what = f" ({faults.page_fault(first)})" if first.vector == faults.PF else ""
    return SafeText(f"a triple fault, begun by {faults.name(first.vector)}{where}{what}")
