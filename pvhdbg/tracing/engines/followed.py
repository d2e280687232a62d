"""The instructions of a machine that were followed one by one, and the facts in them about a death: the path, the handlers, the culprit."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import groupby

from pvhdbg.decode.cpu_mode import Mode, mode_of
from pvhdbg.decode.text import SafeText
from pvhdbg.targets.target import Target
from pvhdbg.tracing.death import DeathKind, unreturned
from pvhdbg.tracing.engines.engine import Bounds, TraceEnd
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.registers import Recorder, RegisterEngine
from pvhdbg.tracing.event import Batch, Event, Fault, FaultKind
from pvhdbg.tracing.opcodes import Effect, effect_of, is_effect_in_any_width, is_system
from pvhdbg.tracing.recent import recent

_PATH = 8  # instructions to show before a death
_KEPT = 4096  # faults, and system instructions
_STATES = 1 << 15  # instructions whose registers are kept, about 1 KiB each
_SWITCHES_PAGING = (Effect.WRITE_CR0, Effect.WRITE_CR4, Effect.LMSW)
_NOTHING_WENT_WRONG = (DeathKind.ALIVE, DeathKind.PANIC)
_AFTER = 4  # instructions of a handler's end to show
UNPLACED, LONG_AGO = (
    -1,
    -2,
)  # instead of the number of events before a fault: it is not known yet; it lies before those that are known
_CHANGES_TABLES = frozenset(("cr0", "cr3", "cr4", "efer"))


class Followed:
    """The instructions of a watch, as long as they are `counted`: all from its beginning, or with a `recorder` the last ones, from number
    `start` on; and the last faults, also those seen later.

    `code` gives the kernel file's bytes at a linear address.
    """

    def __init__(self, target: Target, code: Callable[[int], bytes] = lambda _: b"", recorder: Recorder | None = None) -> None:
        self.start = 0
        self.about = False  # `start` is a sum over blocks, or a block may have been cut short by a fault that was not seen
        self._head = 0  # blocks that the CPU had begun by then
        self.settled = False  # what the machine does from now on does not matter: it is in a loop, say
        self._forgotten: Followed | None = None  # what was forgotten
        self.pcs: list[int] = []
        self.modes: list[Mode] = []
        self.codes: list[bytes] = []
        self.faults: deque[Fault] = deque(maxlen=_KEPT)
        self.system: deque[Event] = deque(maxlen=_KEPT)
        self.counted = True
        self.warnings: list[SafeText] = []
        self._target = target
        self._code = code
        self._recorder = recorder
        self._with_states = 0  # instructions from the first on whose registers were seen
        self._starts: list[int] = []
        self._batches: list[Batch] = []  # those with registers

    def __len__(self) -> int:
        return self.start + len(self.pcs)

    @property
    def begun(self) -> int | None:
        """How many instructions have begun since the entry, on a machine that stands; None where they were not counted one by one."""
        recorder = self._recorder
        if recorder is not None and recorder.recording.exact and not self.settled:
            return recorder.recording.begun_at_a_stop
        known = self.counted and not self.about and (recorder is None or self.settled or self._head_now() == self._head)
        return len(self) if known else None

    @property
    def whole(self) -> bool:
        """Whether the last instructions that are known are the machine's last ones, too."""
        return self.counted and (self._recorder is None or self._head_now() == self._head)

    @property
    def roughly(self) -> int | None:
        """About how many instructions have begun since the entry, by the recorder's sums."""
        return None if self._recorder is None else self._recorder.recording.begun_at_a_stop

    def follow(self, bounds: Bounds, *, states: bool, enough: Callable[[Batch], bool]) -> TraceEnd:
        """Follow the machine on, until a batch is `enough` or to the bounds. Raises TargetError.

        A guest that died while it was being stopped is dead: the end that is returned is its death.
        """
        if self._recorder is not None:
            return self._recorded(RegisterEngine(self._target, self._recorder), bounds, enough)
        engine = LogEngine(self._target, states=states, base=len(self.pcs), peek=self._code, overrun=True)
        for batch in engine.batches(bounds):
            self._record(batch)
            if enough(batch):
                engine.stop()
        self.warnings += [warning for warning in engine.warnings if warning not in self.warnings]
        if engine.beyond is None:
            return engine.end
        batch, end = engine.beyond
        self._record(batch)
        return end

    def catch_up(self, handler: Callable[[Fault], int | None] = lambda _: None) -> None:
        """Add the instructions that ran since, by the recorder's last blocks, of a machine that stands. Where these do not reach back so
        far, the ones before are forgotten; with several CPUs, whose faults QEMU's log does not tell apart, the count is lost.

        `handler` gives the linear address of a fault's handler, None where it is not known.
        """
        if self._recorder is None or not self.counted or self.settled:
            return
        recording = self._recorder.recording
        new = [one for one in self.faults if one.seq == UNPLACED]
        if self._head_now() == self._head and not new:
            return
        found = recent(recording, self._head, len(self), new, handler) if sum(map(bool, recording.heads)) == 1 else None
        if found is None:
            self.counted = False
            return
        self._head = self._head_now()
        if found.start != len(self):
            self._forgotten = copy(self)
            self.start, self._starts, self._batches = found.start, [], []
            self.pcs, self.modes, self.codes = [], [], []
        self.about = self.about or found.about
        self.pcs += found.pcs
        self.modes += found.modes
        self.codes += found.codes
        self.system.extend(found.system)
        kept = [one for one in self.faults if one.seq != UNPLACED]
        older = [replace(one, seq=LONG_AGO) for one in new[: len(new) - len(found.faults)]]
        self.faults.clear()
        self.faults.extend([*kept, *older, *found.faults])

    def _head_now(self) -> int:
        """How many blocks the CPU that reached the entry has begun."""
        assert self._recorder is not None
        recording = self._recorder.recording
        cpu = recording.header.entry_cpu
        return recording.cpu(cpu).head if recording.entered and cpu < recording.cpus else 0

    def _recorded(self, engine: RegisterEngine, bounds: Bounds, enough: Callable[[Batch], bool]) -> TraceEnd:
        self.catch_up()
        for batch in engine.batches(bounds):
            if len(batch) and batch.seq != len(self):
                self.counted = False
            self._record(batch)
            if enough(batch):
                engine.stop()
        self._head = self._head_now()
        self.warnings += [warning for warning in engine.warnings if warning not in self.warnings]
        return engine.end

    def _record(self, batch: Batch) -> None:
        self.pcs += batch.pcs
        self.modes += batch.modes
        self.codes += batch.codes
        self.faults.extend(batch.faults)
        if batch.deltas is not None and len(self.pcs) <= _STATES:
            self._starts.append(len(self.pcs) - len(batch))
            self._batches.append(batch)
        if batch.deltas is not None:
            self._with_states = len(self.pcs)
            self.system.extend(map(batch.event, _system(batch)))

    def stepped(self, pc: int, mode: Mode, code: bytes) -> None:
        """Somebody else executed this instruction, which comes next. The recorder saw it."""
        if self.counted and self._recorder is None:
            self.pcs.append(pc)
            self.modes.append(mode)
            self.codes.append(code)

    def lose_count(self) -> None:
        """From now on the machine runs without being traced; the recorder goes on."""
        if self._recorder is None:
            self.counted = False

    # --- facts about a death -------------------------------------------------------------------------------------

    def last_exception(self) -> Fault | None:
        """The last exception that was seen."""
        return next((one for one in reversed(self.faults) if one.kind is FaultKind.EXCEPTION), None)

    def handling(self, chain: Sequence[Fault] = ()) -> tuple[Fault, ...]:
        """The faults whose handlers were called and did not reach their iret; none where the code since then is not all known.

        Those of `chain`, at the end, had no handler.
        """
        unhandled = set(map(_identity, chain))
        taken = [one for one in self.faults if one.kind.has_handler and one.seq >= self.start and _identity(one) not in unhandled]
        if not self.counted or not taken or b"" in self.codes[taken[0].seq - self.start :]:
            return ()
        irets = {code for code in set(self.codes) if is_effect_in_any_width(code, Effect.IRET)}
        return unreturned(taken, (index for index, code in enumerate(self.codes, self.start) if code in irets))

    def departure(self, is_code: Callable[[int], bool | None], *, gone: bool) -> tuple[Event, Event] | None:
        """The last instruction in the kernel's own code, and the one after it, outside; None where the CPU is in its code, or never was.

        `is_code` says whether a pc is in the kernel's code. `gone` says that the CPU is believed not to have come back since the
        instructions that were forgotten.
        """
        known: dict[int, bool] = {}

        def inside(pc: int) -> bool:
            if pc not in known:
                known[pc] = bool(is_code(pc))
            return known[pc]

        if not self.pcs or inside(self.pcs[-1]):
            return None
        index = next((index for index in range(len(self.pcs) - 2, -1, -1) if inside(self.pcs[index])), None)
        if index is None and gone and self._forgotten is not None:
            return self._forgotten.departure(is_code, gone=gone)
        return None if index is None else (self._event(index), self._event(index + 1))

    def ran_before(self, pc: int) -> int | None:
        """The number of the last instruction that ran in the page of `pc` since the page tables were chosen; None where there is none."""
        if not self.counted or len(self) > self._with_states:
            return None
        chosen = max((one.seq for one in self.system if _CHANGES_TABLES & set(one.changes or ())), default=-1)
        return next((index for index in range(len(self.pcs) - 1, chosen, -1) if self.pcs[index] >> 12 == pc >> 12), None)

    def after(self, seq: int) -> tuple[Event, ...]:
        """The last instructions, of those from number `seq` on."""
        if not self.counted:
            return ()
        return tuple(self._event(index) for index in range(max(seq - self.start, len(self.pcs) - _AFTER), len(self.pcs)))

    def _event(self, index: int) -> Event:
        at = bisect_right(self._starts, index) - 1
        if at >= 0 and index < self._starts[at] + len(self._batches[at]):
            return self._batches[at].event(index - self._starts[at])
        return Event(self.start + index, self.pcs[index], self.modes[index], self.codes[index])

    def struck(self, fault: Fault) -> Event | None:
        """The instruction that had begun when the fault was taken."""
        index = fault.seq - 1 - self.start
        if not self.counted or not 0 <= index < len(self.pcs) or self.pcs[index] != fault.pc:
            return None
        return self._event(index)

    def path(
        self,
        kind: DeathKind,
        loop: Sequence[int],
        state: Mapping[str, int],
        has_memory: Callable[[int], bool],
        fault: Fault | None = None,
    ) -> tuple[Event, ...]:
        """The instructions that lead to the death: the last ones, or those before the CPU went astray, or before `fault`.

        `loop` holds the pcs of an endless loop, `state` the registers now; `has_memory` says whether memory is behind a pc.
        """
        if not self.counted or kind in _NOTHING_WENT_WRONG:
            return ()
        end = self._end_of_path(kind, loop, has_memory) if fault is None else fault.seq - self.start
        end = min(end, len(self.pcs))
        start = max(end - _PATH, 0)
        modes = self._modes_since(start, end, state)
        return tuple(self._event(index)._replace(mode=mode) for index, mode in zip(range(start, end), modes, strict=True))

    def _end_of_path(self, kind: DeathKind, loop: Sequence[int], has_memory: Callable[[int], bool]) -> int:
        """The index behind the path. It takes in the first instruction in the loop, in zeros, or where there is no memory."""
        if kind is DeathKind.LOOP:
            return self._last_index(lambda index: self.pcs[index] not in loop) + 2
        if kind is DeathKind.ZEROS:
            return self._last_index(lambda index: any(self.codes[index])) + 2
        if kind is DeathKind.NOWHERE:
            return next((index for index in range(len(self.pcs) - 1, -1, -1) if has_memory(self.pcs[index])), -1) + 2
        return len(self.pcs)

    def _last_index(self, sound: Callable[[int], bool]) -> int:
        return next((index for index in range(len(self.pcs) - 1, -1, -1) if sound(index)), -1)

    def _modes_since(self, start: int, end: int, state: Mapping[str, int]) -> list[Mode]:
        """The modes of some last events. Addresses alone do not show paging in 32-bit code: there the last state shows it."""
        modes = self.modes[start:end]
        last = mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"))
        if last in (Mode.PAGED, Mode.PAE) and not any(effect_of(code, 32) in _SWITCHES_PAGING for code in self.codes[start:]):
            return [last if mode is Mode.PROTECTED else mode for mode in modes]
        return modes


def _identity(fault: Fault) -> tuple[object, ...]:
    """What tells two faults apart. To compare thousands of them with all their registers takes seconds."""
    return fault.seq, fault.kind, fault.vector, fault.pc, fault.state.get("rsp")


def _system(batch: Batch) -> Iterator[int]:
    """The indexes of instructions that may change segments, tables, control registers or MSRs."""
    start = 0
    for mode, run in groupby(batch.modes):
        codes = batch.codes[start : start + len(list(run))]
        bits = mode.bits
        system = {code for code in set(codes) if is_system(code, bits)}
        yield from (index for index, code in enumerate(codes, start) if code in system)
        start += len(codes)
