"""Watch a machine until it dies: the first instructions one by one, then with the fault tap alone, at full speed.

Most early deaths come within the first instructions, where the whole way is then known. After that only faults are logged
(`int,cpu_reset`, no measurable cost), and the machine is looked at now and then for the deaths that make no fault.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable, TargetError, TargetLost, TargetTimeout
from pvhdbg.model import Registers, Unavailable
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.trace.cpu_text import decode
from pvhdbg.trace.death import TAKEN, Death, chain_of, interrupts_off, panicked, unreturned
from pvhdbg.trace.engines.engine import Bounds, End
from pvhdbg.trace.engines.log import LogEngine
from pvhdbg.trace.engines.log_switch import LogSwitch
from pvhdbg.trace.event import Batch, Event, Fault, Mode, mode_of
from pvhdbg.trace.faults import UD
from pvhdbg.trace.opcodes import is_system, kind_of
from pvhdbg.trace.places import Surroundings
from pvhdbg.trace.qemu_log import LogReader

FIRST = 20_000  # instructions with all registers: 0.2 s
THEN = 200_000  # instructions by place: 0.3 s
_LONGEST = 1.0  # seconds for each of the two: a REP that clears memory takes millions of records on QEMU 7
_PATH = 8  # instructions that are shown before a death
_LOOP = 64  # instructions within which a loop has to come back to the same state
_ZEROS = 32  # bytes of zeros at the pc
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)  # seconds between two looks; each look costs the guest its translated code
_TURN = 0.005
_KEPT = 4096  # faults, and system instructions


class Watch:
    """Follows `target` from where it stands. `around` is what the deaths are judged by; `status` gives QEMU's exit status,
    `serial` the last lines of the serial port, where they are at hand.
    """

    def __init__(self, target: Target, around: Surroundings, *, code: Callable[[int], bytes] = lambda _: b"",
                 status: Callable[[], int | None] = lambda: None, serial: Callable[[], Sequence[str]] = tuple,
                 progress: Callable[[str], None] = lambda _: None) -> None:  # fmt: skip
        self._target = target
        self._around = around
        self._code = code
        self._status = status
        self._serial = serial
        self._progress = progress
        self._pcs: list[int] = []
        self._modes: list[Mode] = []
        self._codes: list[bytes] = []
        self._last: deque[Event] = deque(maxlen=_PATH)
        self._system: deque[Event] = deque(maxlen=_KEPT)
        self._faults: deque[Fault] = deque(maxlen=_KEPT)
        self._counted = True
        self._asked = False
        self._late: Stop | None = None  # a stop that came while the machine was only looked at
        self.warnings: list[str] = []

    def stop(self) -> None:
        """End soon; can be called from a signal handler."""
        self._asked = True

    def until_dead(self, seconds: float) -> Death:
        """The death, or "alive" after `seconds`. The machine stands still afterwards. Raises TargetError."""
        deadline = time.monotonic() + seconds
        for states, count in ((True, FIRST), (False, THEN)):
            end = self._follow(states, count, deadline)
            death = self._ended(end) or self._standing()
            if death is not None:
                return death
            if end.why == "interrupted" or time.monotonic() > deadline:
                return self._death("alive", self._state())
        return self._tapped(deadline)

    # --- the first instructions -----------------------------------------------------------------------------------

    def _follow(self, states: bool, count: int, deadline: float) -> End:
        self._progress(f"following the guest, after {len(self._pcs):,} instructions")
        engine = LogEngine(self._target, states=states, base=len(self._pcs), peek=self._code)
        for batch in engine.batches(Bounds(count=count, seconds=min(max(deadline - time.monotonic(), 0.01), _LONGEST))):
            self._record(batch)
            if self._asked:
                engine.stop()
        self.warnings += [warning for warning in engine.warnings if warning not in self.warnings]
        return self._end_of(engine)

    def _end_of(self, engine: LogEngine) -> End:
        """How the engine ended; a guest that died while it was being stopped at the last event is dead."""
        if engine.beyond is None:
            return engine.end
        batch, end = engine.beyond
        self._record(batch)
        return end

    def _record(self, batch: Batch) -> None:
        self._pcs += batch.pcs
        self._modes += batch.modes
        self._codes += batch.codes
        self._faults.extend(batch.faults)
        self._last.extend(batch.event(index) for index in range(max(len(batch) - _PATH, 0), len(batch)))
        if batch.deltas is not None:
            self._system.extend(
                batch.event(index)
                for index, (code, mode) in enumerate(zip(batch.codes, batch.modes, strict=True))
                if is_system(code, mode.bits)
            )

    def _ended(self, end: End) -> Death | None:
        if end.why == "shutdown":
            chain = chain_of(self._faults)
            return self._death("triple fault" if chain else "shutdown", self._state(), chain)
        if end.why == "reset":
            return self._death("triple fault" if chain_of(self._faults) else "reset", self._state(), chain_of(self._faults))
        if end.why == "halted":
            return self._death("halted", self._state())
        if end.why == "exited":
            return self._death("exited", {})
        return None

    # --- at full speed --------------------------------------------------------------------------------------------

    def _tapped(self, deadline: float) -> Death:
        self._counted = False
        self._last.clear()
        reader = LogReader(states=False)
        self._target.set_breakpoint(RESET_VECTOR)
        try:
            with LogSwitch(self._target, "int,cpu_reset", single=False) as switch:
                for pause in self._pauses(deadline):
                    self._progress("watching the guest for its death")
                    stop = self._run(switch, reader, pause)
                    self._faults.extend(reader.tap(switch.rest()))
                    death = self._stopped(stop) or self._standing() or self._stopped_late()
                    if death is not None:
                        return death
                    if self._asked:
                        break
        finally:
            try:
                self._target.clear_breakpoint(RESET_VECTOR)
            except TargetError:
                pass  # the machine is gone
        return self._death("alive", self._state())

    def _pauses(self, deadline: float) -> Iterator[float]:
        index = 0
        while (left := deadline - time.monotonic()) > 0:
            yield min(_PAUSES[min(index, len(_PAUSES) - 1)], left)
            index += 1

    def _run(self, switch: LogSwitch, reader: LogReader, pause: float) -> Stop:
        """Let it run for a while; it stands still afterwards."""
        until = time.monotonic() + pause
        self._target.resume()
        while time.monotonic() < until and not self._asked and not self._content():
            self._faults.extend(reader.tap(switch.read(_TURN)))
            try:
                return self._target.wait(0.001)
            except TargetTimeout:
                continue
            except TargetLost:
                return Stop(StopKind.EXITED, 0, "the connection closed")
        with switch.drained() as pieces:
            try:
                stop = self._target.interrupt()
            except TargetLost:
                stop = Stop(StopKind.EXITED, 0, "the connection closed")
        self._faults.extend(reader.tap(b"".join(pieces)))
        return stop

    def _stopped(self, stop: Stop) -> Death | None:
        if stop.kind is StopKind.EXITED:
            return self._ended(End("exited", stop))
        if stop.kind is StopKind.SHUTDOWN:
            return self._ended(End("shutdown", stop))
        if self._target.read_registers()["rip"] == RESET_RIP:
            return self._ended(End("reset", stop))
        return None

    def _stopped_late(self) -> Death | None:
        stop, self._late = self._late, None
        return None if stop is None else self._stopped(stop)

    def _content(self) -> bool:
        """Whether the machine need not run any longer."""
        return False

    def _arrives(self, pc: int) -> bool:
        """Whether the machine is not to be stepped on from `pc`."""
        return pc == RESET_RIP

    # --- deaths that make no fault --------------------------------------------------------------------------------

    def _standing(self) -> Death | None:
        """Look at a machine that stands still: does it still live?"""
        state = self._state()
        pc = state.get("rip", 0) + (state.get("cs_base", 0) if not state.get("cs_flags", 0) >> 21 & 1 else 0)
        off = interrupts_off(state)
        # A CPU that waits to be started is halted, too: only where all are is the machine dead.
        if off and "HLT=0" not in (said := self._target.monitor("info registers -a")) and "HLT=1" in said:
            return self._death("halted", state)
        physical = self._physical(pc, state)
        if physical is not None and self._around.backing is not None and self._around.backed(physical) is None:
            return self._death("nowhere", state)
        if physical is not None and self._zeros(physical):
            return self._death("zeros", state)
        if off:
            loop = self._loop()
            if loop:
                return self._death("loop", self._state(), loop=loop)
        return self._death("panic", state) if panicked(self._serial()) else None

    def _loop(self) -> tuple[int, ...]:
        """The places between two equal states, if the CPU comes back to one within _LOOP steps, twice a while apart."""
        first = self._period()
        if not first:
            return ()
        self._target.resume()
        try:
            self._late = self._target.wait(_PAUSES[0])
        except TargetTimeout:
            self._target.interrupt()
        except TargetLost:
            self._late = Stop(StopKind.EXITED, 0, "the connection closed")
        if self._late is not None:
            return ()
        second = self._period()
        return first if set(first) == set(second) else ()

    def _period(self) -> tuple[int, ...]:
        seen: dict[tuple[tuple[str, int], ...], int] = {}
        places: list[int] = []
        for index in range(_LOOP):
            values = dict(self._target.read_registers().values)
            if self._arrives(values["rip"]):
                self._late = Stop(StopKind.BREAKPOINT)
                return ()
            key = tuple(sorted(values.items()))
            if key in seen:
                return tuple(places[seen[key] : index])
            seen[key] = index
            places.append(values["rip"])
            stop = self._target.step()
            if stop.kind is not StopKind.BREAKPOINT:
                self._late = stop
                return ()
        return ()

    def _physical(self, address: int, state: dict[str, int]) -> int | None:
        try:
            return translate(Registers(state), address, self._target.read_memory).physical
        except Unavailable:
            return None

    def _zeros(self, physical: int) -> bool:
        try:
            return not any(self._target.read_memory(physical, _ZEROS))
        except MemoryUnreadable:
            return False

    def _polls(self, loop: Sequence[int], state: dict[str, int]) -> bool:
        """Whether an instruction of the loop reads a port or memory: such a loop may wait for something."""
        bits = mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags")).bits
        return any(_may_read(self._bytes(pc, state), bits) for pc in loop)

    def _bytes(self, pc: int, state: dict[str, int]) -> bytes:
        physical = self._physical(pc, state)
        try:
            return b"" if physical is None else self._target.read_memory(physical, 15)
        except MemoryUnreadable:
            return b""

    # --- what is told of it ---------------------------------------------------------------------------------------

    def _state(self) -> dict[str, int]:
        try:
            return decode(self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
        except TargetError:
            return {}

    def _death(self, kind: str, state: dict[str, int], chain: tuple[Fault, ...] = (), loop: tuple[int, ...] = ()) -> Death:
        first = chain[0] if chain else None
        handling = self._handling() if self._counted and not chain else ()
        return Death(
            kind,
            dict(first.state) if first is not None and first.state else state,
            chain,
            self._path(kind, loop, state),
            tuple(self._system),
            len(self._pcs) if self._counted else None,
            loop,
            bool(loop) and self._polls(loop, state),
            self._status() if kind == "exited" else None,
            handling=handling,
            struck=self._struck((*chain, *handling)[0], state) if chain or handling else None,
            lately=None if self._counted else next((one for one in reversed(self._faults) if one.kind == "exception"), None),
        )

    def _handling(self) -> tuple[Fault, ...]:
        """The exceptions whose handlers were called and did not come to their iret; none where code was not seen since."""
        taken = [one for one in self._faults if one.kind in TAKEN]
        if not taken or b"" in self._codes[taken[0].seq :]:
            return ()
        irets = {code for code in set(self._codes) if "iret" in (kind_of(code, 32), kind_of(code, 64))}
        return unreturned(taken, (index for index, code in enumerate(self._codes) if code in irets))

    def _struck(self, fault: Fault, state: dict[str, int]) -> Event | None:
        """The instruction that was begun when the fault came; of one that is not known, QEMU logs what it read of it only."""
        index = fault.seq - 1
        if not self._counted or not 0 <= index < len(self._pcs) or self._pcs[index] != fault.pc:
            return None
        code = self._bytes(fault.pc, {**state, **fault.state}) if fault.vector == UD else b""
        return Event(index, fault.pc, self._modes[index], code or self._codes[index])

    def _path(self, kind: str, loop: tuple[int, ...], state: dict[str, int]) -> tuple[Event, ...]:
        """The instructions that lead to the death: the last ones, or those before it went astray."""
        if not self._counted:
            return ()
        end = len(self._pcs)
        if kind == "loop":
            end = next((index for index in range(end - 1, -1, -1) if self._pcs[index] not in loop), end - 1) + 2
        elif kind == "zeros":
            end = next((index for index in range(end - 1, -1, -1) if any(self._codes[index])), end - 1) + 2
        elif kind == "nowhere":
            end = self._astray(state) + 1
        end = min(end, len(self._pcs))
        if kind in ("alive", "shutdown", "exited", "panic"):
            return ()  # nothing went wrong in them
        known = {event.seq: event for event in self._last}
        start = max(end - _PATH, 0)
        modes = self._modes_since(start, end, state)
        return tuple(
            known.get(index, Event(index, self._pcs[index], mode, self._codes[index]))._replace(mode=mode)
            for index, mode in zip(range(start, end), modes, strict=True)
        )

    def _modes_since(self, start: int, end: int, state: dict[str, int]) -> list[Mode]:
        """The modes of some last events. Places alone do not show paging in 32-bit code: there the last state tells it."""
        modes = list(self._modes[start:end])
        last = mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"))
        if last in (Mode.PAGED, Mode.PAE) and not any(kind_of(code, 32) in _PAGING for code in self._codes[start:]):
            modes = [last if mode is Mode.PROTECTED else mode for mode in modes]
        return modes

    def _astray(self, state: dict[str, int]) -> int:
        """The index of the first instruction of the last stretch that lies where no memory is."""
        for index in range(len(self._pcs) - 1, -1, -1):
            physical = self._physical(self._pcs[index], state)
            if physical is None or self._around.backed(physical) is not None:
                return index + 1
        return 0


_PAGING = ("write cr0", "write cr4", "lmsw")  # what turns paging on or off
_READS = frozenset((0x8B, 0x8A, 0x3A, 0x3B, 0x38, 0x39, 0x84, 0x85, 0x80, 0x81, 0x83, 0xF6, 0xF7, 0xA0, 0xA1, 0xC3, 0xC2, 0xFF))
_PORTS = frozenset((0xE4, 0xE5, 0xEC, 0xED))


def _may_read(code: bytes, bits: int) -> bool:
    at = 0
    while at < len(code) and (code[at] in (0x66, 0x67, 0xF0, 0xF2, 0xF3) or (bits == 64 and code[at] & 0xF0 == 0x40)):
        at += 1
    if at >= len(code) or code[at] in _PORTS:
        return True  # what was not seen may read
    if code[at] == 0x0F:
        return at + 1 < len(code) and code[at + 1] in (0x31, 0x32, 0xA2, 0xB6, 0xB7, 0xBE, 0xBF, 0xB1, 0xC1)
    if code[at] in _READS and code[at] not in (0xA0, 0xA1, 0xC2, 0xC3):
        return at + 1 < len(code) and code[at + 1] < 0xC0
    return code[at] in (0xA0, 0xA1)
