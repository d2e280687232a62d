"""The `breakpoints` engine: the milestones of a boot by stopping at them, for machines that have no log (KVM, another host).

It finds the mode switch by searching the code ahead (`next_stops`): it stops before each instruction that changes the system, steps
over it to see its effect, and searches again from there. It stops at each symbol once, at any of its addresses. An event is an
instruction at which it stopped: those in between are not seen, and sequence numbers count stops.

At most 20 hardware breakpoints are set (QEMU: an unhit one on a page of hot code makes a boot ten times slower). Where the machine
takes fewer (KVM has 4), they are a window that slides along the known order.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import CODE_32, CODE_64, Mode, interrupts_on, linear_pc, long_mode_active, mode_of
from pvhdbg.decode.paging import translate
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import MemoryUnreadable, TargetError, TargetLost
from pvhdbg.model import Registers, Unavailable
from pvhdbg.targets.run import RunEnd, leave_reset_vector, run
from pvhdbg.targets.target import GONE, RESET_RIP, RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.encoding import LONGEST, length
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd, end_at, halted
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.engines.next_stops import next_stops
from pvhdbg.tracing.event import Batch, Delta, EndReason, Fault, FaultKind
from pvhdbg.tracing.opcodes import Effect, effect_of, is_system

MOST = 20
_STEPS = 512  # stops at system instructions and unknown jumps; then only symbols get breakpoints
_CALLS = 4  # indirect calls whose returns are waited for
_FEW = 4  # slots; with so few, none is used to detect a reboot
_TURN = 0.1  # seconds between two reads of the fault log
_FAULTS = 4096  # that are kept of one run
_HIGHER_HALF = 1 << 63


class _Here(NamedTuple):
    """The machine's current instruction: `pc` as the stub shows it (an offset into CS), and its linear address."""

    pc: int
    linear: int
    mode: Mode
    code: bytes


class StateDelta(Delta):
    """The registers before and after an instruction."""

    __slots__ = ("_after", "_before")

    def __init__(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        self._before = before
        self._after = after

    def state(self) -> Mapping[str, int]:
        return self._before

    def decode(self) -> Mapping[str, int]:
        return {name: value for name, value in self._after.items() if name != "rip" and self._before.get(name, value) != value}


class BreakpointEngine(StopsWhenAsked):
    """See `Engine`. `addresses` holds the milestones with known addresses in the expected order, each with all of its addresses.

    `slots` is the number of breakpoints to use at most. From the reset vector it runs to `entry`: firmware is not searched. Without
    `walk` it runs from address to address, and does not search for instructions that change the system.
    """

    name: EngineKind = "breakpoints"

    def __init__(
        self,
        target: Target,
        addresses: Sequence[Sequence[int]] = (),
        *,
        slots: int = MOST,
        base: int = 0,
        entry: int | None = None,
        walk: bool = True,
    ) -> None:
        self._walk = walk
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self.stops = 0
        self._target = target
        self._milestones = [tuple(one) for one in addresses]
        self._slots = max(min(slots, MOST), 1)
        self._seq = base
        self._entry = entry
        self._faults: list[Fault] = []
        self._fault_log = FaultLog(target)
        self._steps = 0
        self._returns: list[int] = []  # return addresses of indirect calls that were stepped into
        self._cs: int | None = None  # the selector of 32-bit code
        self._set: set[int] = set()

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """Run from stop to stop, and yield one event for each. Raises TargetError."""
        with self._fault_log:
            self.warnings += self._fault_log.warnings
            try:
                yield from self._stops(bounds)
            finally:
                self._window((), reboots=False)

    def _stops(self, bounds: Bounds) -> Generator[Batch, None, None]:
        deadline = time.monotonic() + bounds.seconds
        ended = halted(self._target)
        if ended is not None:
            self.end = ended
            return
        self.end = TraceEnd(EndReason.ENOUGH)
        state, start = self._state(), True  # the first instruction is not a goal
        if state["rip"] == RESET_RIP:
            ended = self._through_firmware(bounds, deadline)
            state = state if ended else self._state()
            start = state["rip"] == self._entry
        last = None if bounds.count is None else self._seq + bounds.count
        while ended is None:
            here = self._here(state)
            ended = self._due(here, () if start else bounds.addresses, last)
            if ended is None:
                start = False
                batch, state, ended = self._one(here, state)
                yield batch
            if ended is None and not self._is_milestone(here, state):
                state, ended = self._to_next_stop(state, bounds, deadline)
        self.end = ended
        left = self._taken(self._seq)
        if left:
            yield Batch(self._seq, [], [], [], faults=left)

    def _through_firmware(self, bounds: Bounds, deadline: float) -> TraceEnd | None:
        """From the reset vector to the entry."""
        leave_reset_vector(self._target)
        self._set.add(RESET_VECTOR)
        return self._run([*bounds.addresses, *(() if self._entry is None else (self._entry,))], deadline)

    def _due(self, here: _Here, goals: Sequence[int], last: int | None) -> TraceEnd | None:
        """The end by the bounds, before the instruction here."""
        if here.linear in goals:
            return TraceEnd(EndReason.ADDRESS, None, here.pc)
        return TraceEnd(EndReason.COUNT) if last is not None and self._seq >= last else None

    def _one(self, here: _Here, before: Mapping[str, int]) -> tuple[Batch, Mapping[str, int], TraceEnd | None]:
        """Step over the instruction here: its event, the state afterwards, and the end if this is one."""
        self._pass(here.linear)
        effect = effect_of(here.code, here.mode.bits)
        if effect is Effect.HLT and not interrupts_on(before):
            return self._event(here, None), before, TraceEnd(EndReason.HALTED, None, here.pc + len(here.code))
        stop, after = self._step()
        faults = self._taken(self._seq + 1)
        ended = end_at(stop, after.get("rip"), reset=any(one.kind is FaultKind.RESET for one in faults))
        # A reset changes the registers; the instruction does not.
        observed = bool(after) and (ended is None or ended.why is not EndReason.RESET)
        if ended is None and effect is Effect.CALL:
            self._returns = [*self._returns, self._linear(here.pc + len(here.code), here.mode, before)][-_CALLS:]
        return replace(self._event(here, StateDelta(before, after) if observed else None), faults=faults), after, ended

    def _is_milestone(self, before: _Here, state: Mapping[str, int]) -> bool:
        """Whether the machine is at the first instruction in a mode, or at its virtual address: milestones without a breakpoint."""
        return self._mode(state) is not before.mode or state["rip"] >= _HIGHER_HALF > before.pc

    def _to_next_stop(self, state: Mapping[str, int], bounds: Bounds, deadline: float) -> tuple[Mapping[str, int], TraceEnd | None]:
        """Run to the next wanted address, unless the machine is there."""
        wanted = self._wanted(state, bounds)
        if self._linear(state["rip"], self._mode(state), state) in wanted:
            return state, None
        ended = self._run(wanted, deadline)
        return (state, ended) if ended else (self._state(), None)

    # --- the addresses to stop at ------------------------------------------------------------------------------------

    def _wanted(self, state: Mapping[str, int], bounds: Bounds) -> list[int]:
        """Linear addresses to stop at, the nearest in the known order first."""
        milestones = [address for one in self._milestones for address in one]
        return list(dict.fromkeys([*bounds.addresses, *self._next_stops(state), *self._returns, *milestones]))

    def _next_stops(self, state: Mapping[str, int]) -> list[int]:
        """The next system instructions, until the kernel runs at its virtual address: after that there are too many paths."""
        pc, mode = state["rip"], self._mode(state)
        if not self._walk or pc >= _HIGHER_HALF or self._steps >= _STEPS:
            return []
        base = 0 if mode is Mode.LONG else state.get("cs_base", 0)
        pages: dict[int, bytes] = {}

        def read(at: int, size: int) -> bytes:
            data = b""
            for page in dict.fromkeys((at & ~0xFFF, at + size - 1 & ~0xFFF)):
                if page not in pages:
                    pages[page] = self._read(page, 0x1000, state)
                data += pages[page][max(at - page, 0) : at + size - page]
                if len(data) < size and not pages[page]:
                    break
            return data

        found = next_stops(pc, mode.bits, read, base=base, most=MOST).found
        return [self._linear(one, mode, state) for one in found]

    def _pass(self, linear: int) -> None:
        """A milestone that was reached gets no breakpoint again, at any of its addresses."""
        self._returns = [one for one in self._returns if one != linear]
        self._milestones = [one for one in self._milestones if linear not in one]

    def _window(self, wanted: Sequence[int], *, reboots: bool = True) -> None:
        """Set as many breakpoints of `wanted` as fit, and the one that shows `reboots`; clear all others."""
        few = self._slots <= _FEW
        free = self._slots if few else self._slots - 1
        room = [*wanted[:free], *((RESET_VECTOR,) if reboots and not few else ())]
        for address in self._set - set(room):
            self._set.discard(address)
            with suppress(TargetError):  # the machine is gone, and its breakpoints with it
                self._target.clear_breakpoint(address)
        for address in room:
            if address in self._set:
                continue
            try:
                self._target.set_breakpoint(address)
            except TargetLost:
                raise
            except TargetError:
                if not self._set:
                    raise
                self._slots = len(self._set)  # the machine has no more
                break
            self._set.add(address)
        if len(wanted) > min(free, self._slots) and not any("sliding" in text for text in self.warnings):
            self.warnings.append(
                SafeText(
                    f"{len(wanted)} addresses share {min(free, self._slots)} breakpoints, a sliding window in the usual "
                    "order of a boot: milestones in another order are missed"
                )
            )

    # --- the machine ----------------------------------------------------------------------------------------------

    def _run(self, wanted: Sequence[int], deadline: float) -> TraceEnd | None:
        """Run to the next of `wanted`; None when it is there already."""
        self._window(wanted)
        left = max(deadline - time.monotonic(), 0.0)
        ran = run(self._target, left, enough=self._look, turn=_TURN, stopping=self._fault_log.drained, may_vanish=True)
        pc = None if ran.stop.kind is StopKind.EXITED else self._target.read_registers()["rip"]
        if ran.end is RunEnd.STOP:
            return end_at(ran.stop, pc)
        return TraceEnd(EndReason.INTERRUPTED if ran.end is RunEnd.ASKED else EndReason.TIME, ran.stop, pc)

    def _look(self) -> bool:
        """Read the fault log while the machine runs; whether to stop it."""
        self._faults = [*self._faults, *self._fault_log.faults(self._seq)][-_FAULTS:]
        return self._asked

    def _taken(self, begun: int) -> list[Fault]:
        taken, self._faults = self._faults, []
        return [*taken, *self._fault_log.faults(begun)]

    def _step(self) -> tuple[Stop, Mapping[str, int]]:
        self._steps += 1
        try:
            stop = self._target.step()
        except TargetLost:
            return GONE, {}
        return stop, {} if stop.kind is StopKind.EXITED else self._state()

    # --- what is read ---------------------------------------------------------------------------------------------

    def _here(self, state: Mapping[str, int]) -> _Here:
        pc, mode = state["rip"], self._mode(state)
        return _Here(pc, self._linear(pc, mode, state), mode, self._code(pc, mode, state))

    def _event(self, here: _Here, delta: Delta | None) -> Batch:
        seq = self._seq
        self._seq += 1
        self.stops += 1
        system = [0] if is_system(here.code, here.mode.bits) else []
        return Batch(seq, [here.pc], [here.mode], [here.code], [delta], None, system)

    def _state(self) -> Mapping[str, int]:
        """All registers, and the hidden state where there is a monitor to ask."""
        values = dict(self._target.read_registers().values)
        if not self._target.capabilities.monitor:
            return values
        text = self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace")
        return {**decode(text), **values}

    def _mode(self, state: Mapping[str, int]) -> Mode:
        flags = state.get("cs_flags")
        if flags is None and not long_mode_active(state):
            self._cs = state.get("cs")
        elif flags is None:
            # Without a monitor the descriptor is not observed: the jump out of compatibility mode loads another selector.
            flags = CODE_32 if state.get("cs") == self._cs else CODE_64
        return mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), flags, state.get("eflags", 0))

    def _linear(self, pc: int, mode: Mode, state: Mapping[str, int]) -> int:
        return linear_pc(pc, state.get("cs_base"), mode.bits)

    def _read(self, linear: int, size: int, state: Mapping[str, int]) -> bytes:
        """As many bytes as can be read there."""
        for part in (size, min(size, 0x1000 - (linear & 0xFFF))):  # the next page may not be mapped
            try:
                physical = translate(Registers(dict(state)), linear, self._target.read_memory).physical
                return b"" if physical is None else self._target.read_memory(physical, part)
            except (MemoryUnreadable, Unavailable):
                continue
        return b""

    def _code(self, pc: int, mode: Mode, state: Mapping[str, int]) -> bytes:
        data = self._read(self._linear(pc, mode, state), LONGEST, state)
        return data[: length(data, mode.bits)]
