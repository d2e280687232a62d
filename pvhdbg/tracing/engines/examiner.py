"""The examination of a stopped machine: whether the guest is dead, and how; also deaths without a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pvhdbg.decode.cpu_mode import interrupts_on, mode_of, pc_in
from pvhdbg.decode.paging import translate
from pvhdbg.errors import MemoryUnreadable, TargetError
from pvhdbg.model import Registers, Unavailable
from pvhdbg.targets.run import RunEnd, run
from pvhdbg.targets.target import RESET_RIP, Stop, StopKind, Target
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.death import Death, DeathKind, chain_of, panicked
from pvhdbg.tracing.encoding import LONGEST
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.engines.followed import Followed
from pvhdbg.tracing.event import EndReason, Event, Fault
from pvhdbg.tracing.faults import UD

GUEST_PANIC = "guest-panic"  # QEMU's word for its panic device (qapi/run-state.json, ShutdownCause)
_LOOP = 64  # instructions within which a loop must return to the same state
_LOOP_PAUSE = 0.1  # seconds that a suspected loop runs before it is examined again
_ZEROS = 32  # bytes of zeros at the pc
# QEMU's words for how the guest ended (ShutdownCause), where they say more than its stop does.
_BY_REASON = {"guest-reset": DeathKind.RESET, GUEST_PANIC: DeathKind.PANIC}


class Examiner:
    """Examines `target`. `around` is the machine around a death, `followed` the instructions so far.

    `status` gives the VMM's exit status, `serial` the last lines of the serial port, `vmm_end` QEMU's word for how the guest ended: each
    may know nothing. With `blind` faults are not observed. The machine is not stepped on from a pc that is a `goal`.
    """

    def __init__(
        self,
        target: Target,
        around: Surroundings,
        followed: Followed,
        *,
        status: Callable[[], int | None],
        serial: Callable[[], Sequence[str]],
        vmm_end: Callable[[], str] = str,
        blind: bool = False,
        goal: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._target = target
        self._around = around
        self._followed = followed
        self._status = status
        self._serial = serial
        self._vmm_end = vmm_end
        self._blind = blind
        self._goal = goal
        self._late: Stop | None = None

    def state(self) -> dict[str, int]:
        """The registers and the hidden state by the monitor; empty where it does not answer."""
        try:
            return decode(self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
        except TargetError:
            return {}

    def by_stop(self, stop: Stop) -> Death | None:
        """The death that a stop of the machine means; None where it means none."""
        if stop.kind is StopKind.EXITED:
            return self.by_end(TraceEnd(EndReason.EXITED, stop))
        if stop.kind is StopKind.SHUTDOWN:
            return self.by_end(TraceEnd(EndReason.SHUTDOWN, stop))
        if self._target.read_registers()["rip"] == RESET_RIP:
            return self.by_end(TraceEnd(EndReason.RESET, stop))
        return None

    def by_end(self, end: TraceEnd) -> Death | None:
        """The death that the end of a trace means; None where it means none."""
        death = self._by_end(end)
        if death is None:
            return None
        reason = self._vmm_end() if death.kind in (DeathKind.SHUTDOWN, DeathKind.EXITED) else ""
        kind = _BY_REASON.get(reason, death.kind) if death.kind is DeathKind.SHUTDOWN else death.kind
        return replace(death, kind=kind, reason=reason, blind=self._blind)

    def _by_end(self, end: TraceEnd) -> Death | None:
        chain = chain_of(self._followed.faults)
        if end.why is EndReason.SHUTDOWN:
            return self.death(DeathKind.TRIPLE_FAULT if chain else DeathKind.SHUTDOWN, self.state(), chain)
        if end.why is EndReason.RESET:
            return self.death(DeathKind.TRIPLE_FAULT if chain else DeathKind.RESET, self.state(), chain)
        if end.why is EndReason.HALTED:
            return self.death(DeathKind.HALTED, self.state())
        if end.why is EndReason.EXITED:
            return self.death(DeathKind.EXITED, {})
        return None

    # --- deaths that make no fault --------------------------------------------------------------------------------

    def standing(self) -> Death | None:
        """Whether the CPU is halted for good, astray, in an endless loop, or its kernel in a panic; None where none of them is seen.

        To tell a loop it steps the machine, and lets it run for a moment: see `late_stop`.
        """
        state = self.state()
        pc, off = pc_in(state) or 0, interrupts_on(state) is False
        if off and self._all_cpus_halted():
            return self.death(DeathKind.HALTED, state)
        physical = self._physical(pc, state)
        if physical is not None and self._around.backing is not None and self._around.backed(physical) is None:
            return self.death(DeathKind.NOWHERE, state)
        if physical is not None and self._zeros(physical):
            return self.death(DeathKind.ZEROS, state)
        loop = self._loop() if off else ()
        if loop:
            return self.death(DeathKind.LOOP, self.state(), loop=loop)
        return self.death(DeathKind.PANIC, state) if panicked(self._serial()) else None

    def late_stop(self) -> Stop | None:
        """A stop that came while `standing` looked at the machine; once."""
        stop, self._late = self._late, None
        return stop

    def _all_cpus_halted(self) -> bool:
        """A CPU that waits to be started is halted, too: the machine is dead only where all CPUs are halted."""
        text = self._target.monitor("info registers -a")
        return "HLT=1" in text and "HLT=0" not in text

    def _loop(self) -> tuple[int, ...]:
        """The pcs between two equal states, if the CPU returns to one within _LOOP steps, twice with a pause between; else ()."""
        first = self._period()
        if not first:
            return ()
        ran = run(self._target, _LOOP_PAUSE, may_vanish=True)
        if ran.end is RunEnd.STOP:
            self._late = ran.stop
            return ()
        second = self._period()
        return first if set(first) == set(second) else ()

    def _period(self) -> tuple[int, ...]:
        seen: dict[tuple[tuple[str, int], ...], int] = {}
        pcs: list[int] = []
        for index in range(_LOOP):
            values = dict(self._target.read_registers().values)
            if values["rip"] == RESET_RIP or self._goal(values["rip"]):
                self._late = Stop(StopKind.BREAKPOINT)
                return ()
            key = tuple(sorted(values.items()))
            if key in seen:
                return tuple(pcs[seen[key] : index])
            seen[key] = index
            pcs.append(values["rip"])
            stop = self._target.step()
            if stop.kind is not StopKind.BREAKPOINT:
                self._late = stop
                return ()
        return ()

    # --- memory ---------------------------------------------------------------------------------------------------

    def _physical(self, address: int, state: Mapping[str, int]) -> int | None:
        try:
            return translate(Registers(state), address, self._target.read_memory).physical
        except Unavailable:
            return None

    def _zeros(self, physical: int) -> bool:
        try:
            return not any(self._target.read_memory(physical, _ZEROS))
        except MemoryUnreadable:
            return False

    def _has_memory(self, pc: int, state: Mapping[str, int]) -> bool:
        """Whether memory or a device is behind an address, or the address is not mapped now."""
        physical = self._physical(pc, state)
        return physical is None or self._around.backed(physical) is not None

    def code_at(self, pc: int, state: Mapping[str, int]) -> bytes:
        """The bytes of an instruction in memory, and behind it; empty where they cannot be read."""
        physical = self._physical(pc, state)
        try:
            return b"" if physical is None else self._target.read_memory(physical, LONGEST)
        except MemoryUnreadable:
            return b""

    def _polls(self, loop: Sequence[int], state: Mapping[str, int]) -> bool:
        """Whether an instruction of the loop reads a port or memory: such a loop may wait for something."""
        bits = mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags")).bits
        return any(_may_read(self.code_at(pc, state), bits) for pc in loop)

    # --- the report -----------------------------------------------------------------------------------------------

    def death(self, kind: DeathKind, state: dict[str, int], chain: tuple[Fault, ...] = (), loop: tuple[int, ...] = ()) -> Death:
        """A death of this kind with all that is known of it. `chain` holds the faults that killed, `loop` the pcs of an endless loop."""
        followed = self._followed
        first = chain[0] if chain else None
        handling = followed.handling() if not chain else ()
        return Death(
            kind,
            dict(first.state) if first is not None and first.state else state,
            chain,
            followed.path(kind, loop, state, lambda pc: self._has_memory(pc, state)),
            tuple(followed.system),
            len(followed) if followed.counted else None,
            loop,
            bool(loop) and self._polls(loop, state),
            self._status() if kind is DeathKind.EXITED else None,
            handling=handling,
            struck=self._struck((*chain, *handling)[0], state) if chain or handling else None,
            lately=None if followed.counted else followed.last_exception(),
        )

    def _struck(self, fault: Fault, state: Mapping[str, int]) -> Event | None:
        event = self._followed.struck(fault)
        if event is None or fault.vector != UD:
            return event
        # QEMU: of an instruction that it does not know it logs only the bytes that it read.
        code = self.code_at(event.pc, {**state, **fault.state})
        return event._replace(code=code or event.code)


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
