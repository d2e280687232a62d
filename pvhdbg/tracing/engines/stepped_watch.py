"""Watch a machine without a monitor until it dies, by single steps: the last instructions are known, and no exception is seen.

That is for stubs like Firecracker's. A guest that triple-faults ends such a VMM, and the connection with it: what is left is the path that
led there, with all general registers, and the control registers that were followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetError
from pvhdbg.targets.target import Target
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.step import StepEngine, leads_to_itself
from pvhdbg.tracing.event import EndReason, Event
from pvhdbg.tracing.opcodes import is_system

_PATH = 8  # instructions to show before a death
_SYSTEM = 256
_ZEROS = 8  # instructions of zeros in a row: code does not look so
_KINDS = {
    EndReason.SHUTDOWN: DeathKind.SHUTDOWN,
    EndReason.RESET: DeathKind.RESET,
    EndReason.HALTED: DeathKind.HALTED,
    EndReason.EXITED: DeathKind.EXITED,
}


class SteppedWatch:
    """Watches `target` from its current state."""

    def __init__(self, target: Target, progress: Callable[[str], None] = lambda _: None) -> None:
        self.warnings: list[SafeText] = []
        self._target = target
        self._progress = progress
        self._engine = StepEngine(target)

    def stop(self) -> None:
        """End soon; can be called from a signal handler."""
        self._engine.stop()

    def until_dead(self, seconds: float) -> Death:
        """The death; one of the kind ALIVE after `seconds`. The machine is stopped afterwards. Raises TargetError."""
        path: deque[Event] = deque(maxlen=_PATH + _ZEROS)
        system: deque[Event] = deque(maxlen=_SYSTEM)
        begun = zeros = 0
        kind: DeathKind | None = None
        for batch in self._engine.batches(Bounds(seconds=seconds)):
            self._progress(f"following the guest by steps, after {batch.seq:,} instructions")
            for event in batch:
                if kind is None:
                    begun += 1
                    path.append(event)
                    if is_system(event.code, event.mode.bits):
                        system.append(event)
                    zeros = zeros + 1 if event.code and not any(event.code) else 0
                    kind = self._hangs(event, zeros)
            if kind is not None:
                self._engine.stop()
        self.warnings += self._engine.warnings
        end = self._engine.end
        if kind is None:
            kind = _KINDS.get(end.why, DeathKind.ALIVE)
        shown = list(path)[: 1 - zeros if kind is DeathKind.ZEROS else None][-_PATH:]  # up to the first instruction of zeros
        loop = (path[-1].pc,) if kind is DeathKind.LOOP else ()
        gone = kind in (DeathKind.EXITED, DeathKind.RESET)
        state = _state_before(path[-1]) if gone and path else self._state()
        return Death(
            kind,
            state,
            path=() if kind is DeathKind.ALIVE else tuple(shown),
            system=tuple(system),
            begun=begun,
            loop=loop,
            blind=True,
        )

    def _hangs(self, event: Event, zeros: int) -> DeathKind | None:
        if zeros >= _ZEROS:
            return DeathKind.ZEROS
        if leads_to_itself(event.code) and interrupts_on(_state_before(event)) is False:
            return DeathKind.LOOP
        return None

    def _state(self) -> Mapping[str, int]:
        """The registers as the stub still shows them, with what was followed."""
        try:
            values = dict(self._target.read_registers().values)
        except TargetError:
            return {}
        return {**self._engine.followed(), **values}


def _state_before(event: Event) -> Mapping[str, int]:
    return {} if event.delta is None else event.delta.state()
