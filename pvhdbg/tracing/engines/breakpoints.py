"""The `breakpoints` engine: the milestones of a boot by stopping at them, for machines that have no log (KVM, another host).

The mode switch is found by walking the code ahead (`sites`): each instruction that changes the system is stopped before and stepped
over, so that its effect is seen, and the way is walked again from behind it. Symbols are stopped at under each of their addresses,
once. An event is an instruction that was stopped at: what lies between is not seen, and sequence numbers count stops.

Breakpoints are hardware breakpoints, at most 20 (each unhit one on a page of hot code costs a boot dearly); where the machine has
fewer (KVM has 4), as many as it takes, those that come first in the known order, and the next ones as those are passed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable, TargetError, TargetLost, TargetTimeout
from pvhdbg.model import Registers, Unavailable
from pvhdbg.spec.x86 import EFER, EFLAGS
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target, leave_reset_vector
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.encoding import LONGEST, length
from pvhdbg.tracing.engines.engine import Bounds, End, halted
from pvhdbg.tracing.engines.sites import next_sites
from pvhdbg.tracing.engines.tap import Tap
from pvhdbg.tracing.event import Batch, Delta, Fault, Mode, mode_of
from pvhdbg.tracing.opcodes import is_system, kind_of

MOST = 20
_STEPS = 512  # system instructions and unknown jumps that are stopped at before symbols alone are waited for
_CALLS = 4  # indirect calls whose returns are waited for
_FEW = 4  # slots, of which none is spent on telling a reboot
_TURN = 0.1  # seconds
_FAULTS = 4096  # that are kept of one run
_HIGHER_HALF = 1 << 63


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


class BreakpointEngine:
    """See `Engine`. `places` are the milestones with known addresses, in the order that is expected, each with all its addresses;
    `slots` is how many breakpoints are used at most. From the reset vector it runs to `entry`: firmware is not walked. Without `walk`
    it goes from place to place, and looks for no instructions that change the system.
    """

    name = "breakpoints"

    def __init__(
        self,
        target: Target,
        places: Sequence[Sequence[int]] = (),
        *,
        slots: int = MOST,
        base: int = 0,
        entry: int | None = None,
        walk: bool = True,
    ) -> None:
        self._walk = walk
        self.end = End("stopped")
        self.warnings: list[str] = []
        self.stops = 0
        self._target = target
        self._places = [tuple(place) for place in places]
        self._slots = max(min(slots, MOST), 1)
        self._seq = base
        self._entry = entry
        self._faults: list[Fault] = []
        self._tap = Tap(target)
        self._asked = False
        self._steps = 0
        self._returns: list[int] = []  # behind indirect calls that were stepped into
        self._cs: int | None = None  # the selector of 32-bit code
        self._set: set[int] = set()

    def stop(self) -> None:
        """End the trace soon. Can be called from a signal handler or another thread."""
        self._asked = True

    def batches(self, bounds: Bounds) -> Iterator[Batch]:
        """Run from stop to stop, and yield one event for each. Raises TargetError."""
        with self._tap:
            self.warnings += self._tap.warnings
            try:
                yield from self._stops_of(bounds)
            finally:
                self._window((), reboots=False)

    def _stops_of(self, bounds: Bounds) -> Iterator[Batch]:
        deadline = time.monotonic() + bounds.seconds
        over = halted(self._target)
        if over is not None:
            self.end = over
            return
        state, first, left = self._state(), True, bounds.count
        ended = self._through_firmware(bounds, deadline) if state["rip"] == RESET_RIP else None
        if ended is not None:
            self.end = ended
            yield Batch(self._seq, [], [], [], faults=self._taken(self._seq))
            return
        if state["rip"] == RESET_RIP:
            state = self._state()
            first = state["rip"] == self._entry
        self.end = End("enough")
        while True:
            pc, mode = state["rip"], self._mode(state)
            code = self._code(pc, mode, state)
            if not first and self._linear(pc, mode, state) in bounds.addresses:
                self.end = End("address", None, pc)
                return
            if left is not None and left <= 0:
                self.end = End("count")
                return
            self._pass(self._linear(pc, mode, state))
            if kind_of(code, mode.bits) == "hlt" and not state.get("eflags", 0) >> EFLAGS["IF"] & 1:
                yield self._event(pc, mode, code, None)
                self.end = End("halted", None, pc + len(code))
                return
            stop, after = self._step()
            faults = self._taken(self._seq + 1)
            ended = self._ended(stop, after, any(one.kind == "reset" for one in faults))
            seen = bool(after) and (ended is None or ended.why != "reset")  # a reset's registers are not the instruction's doing
            yield replace(self._event(pc, mode, code, StateDelta(state, after) if seen else None), faults=faults)
            left = None if left is None else left - 1
            if ended is None:
                if kind_of(code, mode.bits) == "call":
                    self._returns = [*self._returns, self._linear(pc + len(code), mode, state)][-_CALLS:]
                fresh = self._mode(after) is not mode or (after["rip"] >= _HIGHER_HALF > pc)
                state, first = after, False
                if fresh:
                    continue  # the first instruction in a mode, or at its virtual address, is a milestone itself
                if self._linear(state["rip"], self._mode(state), state) not in self._wanted(state, bounds):
                    ended = self._run(self._wanted(state, bounds), deadline)
                    state = state if ended else self._state()
            if ended is not None:
                self.end = ended
                yield Batch(self._seq, [], [], [], faults=self._taken(self._seq))
                return

    def _through_firmware(self, bounds: Bounds, deadline: float) -> End | None:
        """From the reset vector to the entry."""
        leave_reset_vector(self._target)
        self._set.add(RESET_VECTOR)
        return self._run([*bounds.addresses, *(() if self._entry is None else (self._entry,))], deadline)

    # --- what is waited for ---------------------------------------------------------------------------------------

    def _wanted(self, state: Mapping[str, int], bounds: Bounds) -> list[int]:
        """Linear addresses to stop at, the nearest in the known order first."""
        return list(
            dict.fromkeys(
                [*bounds.addresses, *self._sites(state), *self._returns, *(one for place in self._places for one in place)]
            )
        )

    def _sites(self, state: Mapping[str, int]) -> list[int]:
        """The next system instructions, until the kernel runs at its virtual address: from there on there are too many ways."""
        pc, mode = state["rip"], self._mode(state)
        if not self._walk or pc >= _HIGHER_HALF or self._steps >= _STEPS:
            return []
        base = self._base(mode, state)
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

        found = next_sites(pc, mode.bits, read, base=base, most=MOST)
        return [self._linear(one, mode, state) for one in found]

    def _pass(self, linear: int) -> None:
        """A place that was come to is not waited for again, under none of its addresses."""
        self._returns = [one for one in self._returns if one != linear]
        self._places = [place for place in self._places if linear not in place]

    def _window(self, wanted: Sequence[int], *, reboots: bool = True) -> None:
        """Set the first of `wanted` that there is room for, and no others but the one that tells of `reboots`."""
        few = self._slots <= _FEW
        free = self._slots if few else self._slots - 1
        room = [*wanted[:free], *((RESET_VECTOR,) if reboots and not few else ())]
        for address in self._set - set(room):
            self._set.discard(address)
            try:
                self._target.clear_breakpoint(address)
            except TargetError:
                pass  # it is gone: there is nothing left to put back
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
                f"{len(wanted)} places are waited for with {min(free, self._slots)} breakpoints, a sliding window in the order that boots "
                "have: what comes out of that order is missed"
            )

    # --- the machine ----------------------------------------------------------------------------------------------

    def _run(self, wanted: Sequence[int], deadline: float) -> End | None:
        """To the next of `wanted`; None when it stands there."""
        self._window(wanted)
        self._target.resume()
        while True:
            self._faults = [*self._faults, *self._tap.faults(self._seq)][-_FAULTS:]
            try:
                stop = self._target.wait(_TURN)
                break
            except TargetTimeout:
                if self._asked or time.monotonic() > deadline:
                    with self._tap.drained():
                        stop = self._target.interrupt()
                    return End("interrupted" if self._asked else "time", stop, self._target.read_registers()["rip"])
            except TargetLost:
                return End("exited", Stop(StopKind.EXITED, 0, "the connection closed"))
        return self._ended(stop, {"rip": 0} if stop.kind is StopKind.EXITED else self._target.read_registers().values)

    def _taken(self, begun: int) -> list[Fault]:
        taken, self._faults = self._faults, []
        return [*taken, *self._tap.faults(begun)]

    def _step(self) -> tuple[Stop, Mapping[str, int]]:
        self._steps += 1
        try:
            stop = self._target.step()
        except TargetLost:
            return Stop(StopKind.EXITED, 0, "the connection closed"), {}
        return stop, {} if stop.kind is StopKind.EXITED else self._state()

    def _ended(self, stop: Stop, state: Mapping[str, int], reset: bool = False) -> End | None:
        if stop.kind is StopKind.EXITED:
            return End("exited", stop)
        pc = state.get("rip")
        if stop.kind is StopKind.SHUTDOWN:
            return End("shutdown", stop, pc)
        if reset or pc == RESET_RIP:
            return End("reset", stop, pc)
        return None if stop.kind is StopKind.BREAKPOINT else End("stopped", stop, pc)

    # --- what is read ---------------------------------------------------------------------------------------------

    def _event(self, pc: int, mode: Mode, code: bytes, delta: Delta | None) -> Batch:
        seq = self._seq
        self._seq += 1
        self.stops += 1
        return Batch(seq, [pc], [mode], [code], [delta], None, [0] if is_system(code, mode.bits) else [])

    def _state(self) -> Mapping[str, int]:
        """All registers, and the hidden state where there is a monitor to ask."""
        values = dict(self._target.read_registers().values)
        if not self._target.capabilities.monitor:
            return values
        text = self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace")
        return {**decode(text), **values}

    def _mode(self, state: Mapping[str, int]) -> Mode:
        flags = state.get("cs_flags")
        if flags is None and not state.get("efer", 0) >> EFER["LMA"] & 1:
            self._cs = state.get("cs")
        elif flags is None:
            # Without a monitor the descriptor is not seen: what leaves compatibility mode loads another selector.
            flags = 1 << 22 if state.get("cs") == self._cs else 1 << 21
        return mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), flags, state.get("eflags", 0))

    def _base(self, mode: Mode, state: Mapping[str, int]) -> int:
        return 0 if mode is Mode.LONG else state.get("cs_base", 0)

    def _linear(self, pc: int, mode: Mode, state: Mapping[str, int]) -> int:
        return pc if mode is Mode.LONG else pc + self._base(mode, state) & 0xFFFFFFFF

    def _read(self, linear: int, size: int, state: Mapping[str, int]) -> bytes:
        """As many bytes as can be read there."""
        for part in (size, min(size, 0x1000 - (linear & 0xFFF))):  # the next page may not be there
            try:
                physical = translate(Registers(dict(state)), linear, self._target.read_memory).physical
                return b"" if physical is None else self._target.read_memory(physical, part)
            except (MemoryUnreadable, Unavailable):
                continue
        return b""

    def _code(self, pc: int, mode: Mode, state: Mapping[str, int]) -> bytes:
        data = self._read(self._linear(pc, mode, state), LONGEST, state)
        return data[: length(data, mode.bits)]
