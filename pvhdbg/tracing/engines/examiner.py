"""The examination of a stopped machine: whether the guest is dead, and how; also deaths without a fault."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

from pvhdbg.decode.cpu_mode import Mode, interrupts_on, mode_in, mode_of, pc_in
from pvhdbg.decode.paging import translate
from pvhdbg.disassembly import features
from pvhdbg.errors import MemoryUnreadable, TargetError
from pvhdbg.model import BackingKind, GuestEnd, Registers, Unavailable
from pvhdbg.targets.run import RunEnd, run
from pvhdbg.targets.target import RESET_RIP, Stop, StopKind, Target
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.cpu_text import decode, of_cpu
from pvhdbg.tracing.death import Death, DeathKind, chain_of, panicked
from pvhdbg.tracing.encoding import LONGEST, length
from pvhdbg.tracing.engines.code_there import AHEAD, instructions, stopped_cpu, touched
from pvhdbg.tracing.engines.engine import TraceEnd
from pvhdbg.tracing.engines.followed import Followed
from pvhdbg.tracing.engines.loops import PAUSE, Loop, Stepped, period, stepped
from pvhdbg.tracing.event import EndReason, Event, Fault
from pvhdbg.tracing.faults import NM, UD, is_fetch
from pvhdbg.tracing.opcodes import Effect, effect_of

_LOOP = 64  # instructions within which a loop must return to the same state
_WAIT_LOOP = 256  # the same for a loop that is only described
_LOOKS = 4096
_MOST_CPUS = 256
_LMA = 1 << 10  # of EFER: the gates of the IDT have 16 bytes
_WHOSE = ("rip", "rsp", "cr3", "idt_base", "gdt_base")  # registers that tell whose a state is
_LOOP_PAUSE = 0.1  # seconds that a suspected loop runs before it is examined again
_ZEROS = 32  # bytes of zeros at the pc
# QEMU's words for how the guest ended (ShutdownCause), where they say more than its stop does.
_BY_FAULT = (DeathKind.TRIPLE_FAULT, DeathKind.RESET, DeathKind.HALTED, DeathKind.LOOP, DeathKind.ALIVE)
_NOT_ASTRAY = (DeathKind.EXITED, DeathKind.PANIC, DeathKind.SHUTDOWN)
_BY_REASON = {GuestEnd.RESET: DeathKind.RESET, GuestEnd.PANIC: DeathKind.PANIC, GuestEnd.WATCHDOG: DeathKind.RESET}


class Examiner:
    """Examines `target`. `around` is the machine around a death, `followed` the instructions so far.

    `status` gives the VMM's exit status, `serial` the last lines of the serial port, `vmm_end` why QEMU says that the guest ended:
    each may know nothing. With `blind` faults are not observed. `vcpu` is the CPU whose state is told, the first one if None. The
    machine is not stepped on from a pc that is a `goal`.
    """

    def __init__(
        self,
        target: Target,
        around: Surroundings,
        followed: Followed,
        *,
        status: Callable[[], int | None],
        serial: Callable[[], Sequence[str]],
        vmm_end: Callable[[], GuestEnd | None] = lambda: None,
        blind: bool = False,
        goal: Callable[[int], bool] = lambda _: False,
        vcpu: int | None = None,
    ) -> None:
        self._target = target
        self._vcpu = vcpu
        self._around = around
        self._followed = followed
        self._status = status
        self._serial = serial
        self._vmm_end = vmm_end
        self._blind = blind
        self._goal = goal
        self._late: Stop | None = None
        # Only the boot CPU is followed: a fault of another one may be missed.
        self._several = target.capabilities.monitor and target.monitor("info cpus").count("CPU #") > 1
        self._run_unseen = False  # behind the instructions that were followed
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)  # when the machine was looked at, and its pc then

    def state(self) -> dict[str, int]:
        """The registers and the hidden state by the monitor, of the CPU that was asked for; empty where it does not answer."""
        try:
            if self._vcpu is not None:
                return decode(of_cpu(self._target.monitor("info registers -a"), self._vcpu).encode("latin-1", "replace"))
            return decode(self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace"))
        except TargetError:
            return {}

    def states(self) -> dict[int, dict[str, int]]:
        """The registers of each CPU, without those that are halted; none where the monitor does not answer."""
        try:
            text = self._target.monitor("info registers -a")
        except TargetError:
            return {}
        parts = {cpu: of_cpu(text, cpu) for cpu in range(min(text.count("CPU#"), _MOST_CPUS))}
        return {cpu: decode(part.encode("latin-1", "replace")) for cpu, part in parts.items() if part and "HLT=1" not in part}

    def _on_its_cpu(self, death: Death) -> Death:
        """The death with the CPU whose registers are those of the first fault; without a fault, with where each CPU stands."""
        states = self.states()
        first = death.first
        if first is not None:
            same = [cpu for cpu, state in states.items() if all(state.get(name) == first.state.get(name) for name in _WHOSE)]
            return replace(death, cpu=same[0] if len(same) == 1 else None)
        return replace(
            death, standing=tuple(stopped_cpu(cpu, state, partial(self.code_at, state=state)) for cpu, state in states.items())
        )

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
        if self._several and death.kind in (DeathKind.TRIPLE_FAULT, DeathKind.SHUTDOWN, DeathKind.RESET):
            death = self._on_its_cpu(death)
        reason = self._vmm_end() if death.kind in (DeathKind.SHUTDOWN, DeathKind.EXITED) else None
        kind = death.kind if reason is None or death.kind is not DeathKind.SHUTDOWN else _BY_REASON.get(reason, death.kind)
        return replace(death, kind=kind, reason=reason, blind=self._blind or self._several)

    def vanished(self) -> Death | None:
        """The death of a guest that ended its VMM during a request; None where only the connection is known to have ended."""
        death = self.by_end(TraceEnd(EndReason.EXITED))
        return None if death is None or death.status is None else death

    def _by_end(self, end: TraceEnd) -> Death | None:
        self._followed.catch_up(self._handler)
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
        self._looks.append((time.monotonic(), self._target.read_registers()["rip"]))
        if off and self._all_cpus_halted():
            return self.death(DeathKind.HALTED, state)
        physical = self._physical(pc, state)
        if physical is not None and self._around.backing is not None and self._around.backed(physical) is None:
            return self.death(DeathKind.NOWHERE, state)
        if physical is not None and self._zeros(physical):
            return self.death(DeathKind.ZEROS, state)
        loop = self._endless(state) if off else ()
        if loop:
            return self.death(DeathKind.LOOP, self.state(), loop=loop)
        return self.death(DeathKind.PANIC, state) if panicked(self._serial()) else None

    def found_dead(self) -> Death:
        """What is left of a machine that had shut down before it was looked at: the instruction that it stands at, and what that touches."""
        state = self.state()
        pc, mode = pc_in(state) or 0, mode_in(state) or Mode.PROTECTED
        left = Event(0, pc, mode, self.code_at(pc, state))
        needs = features(left.code, mode.bits)
        death = replace(
            self.death(DeathKind.SHUTDOWN, state), left=left, touched=touched(left, state), needs=needs, path=(), begun=None,
            there=instructions(self.code_at(pc, state, AHEAD), pc, mode),
        )  # fmt: skip
        if self._vcpu is not None:
            return replace(death, cpu=self._vcpu)
        return self._on_its_cpu(death) if self._several else death

    def alive(self) -> Death:
        """That it lives, and the loop that it is in, if it is in one. See `late_stop`.

        A loop whose registers change is told where an earlier look found the CPU in it, too: a function that goes through a string does not wait.
        """
        state = self.state()
        halted = self._target.capabilities.monitor and "HLT=1" in self._target.monitor("info registers")
        loop = self._loop(state, _WAIT_LOOP) if state and not halted else None
        looped = 0.0 if loop is None else self._looped(loop)
        if loop is None or not (loop.same or looped):
            return self.death(DeathKind.ALIVE, self.state())
        alive = self.death(DeathKind.ALIVE, self.state(), loop=loop.pcs)
        return replace(alive, awaited=loop.awaited(lambda address, size: self._value(address, size, state)), looped=looped)

    def _looped(self, loop: Loop) -> float:
        """Seconds since the first of the last looks that all found the CPU in the loop."""
        inside = list(takewhile(lambda look: look[1] in loop.pcs, reversed(self._looks)))
        return inside[0][0] - inside[-1][0] if len(inside) > 1 else 0.0

    def late_stop(self) -> Stop | None:
        """A stop that came while `standing` looked at the machine; once."""
        stop, self._late = self._late, None
        return stop

    def _all_cpus_halted(self) -> bool:
        """A CPU that waits to be started is halted, too: the machine is dead only where all CPUs are halted."""
        text = self._target.monitor("info registers -a")
        return "HLT=1" in text and "HLT=0" not in text

    def _alone(self) -> bool:
        """Whether at most one CPU runs. What another one does may end a loop of this one."""
        return self._target.monitor("info registers -a").count("HLT=0") <= 1

    def _endless(self, state: Mapping[str, int]) -> tuple[int, ...]:
        """The pcs of a loop that nothing can end, seen twice with a pause between; else ()."""
        if self._followed.whole and len(set(self._followed.pcs[-2 * _LOOP :])) > _LOOP:
            return ()
        first = self._loop(state, _LOOP)
        if first is None or not self._cannot_end(first, state) or not self._alone():
            return ()
        self._followed.catch_up(self._handler)  # before the loop fills the recorder's ring
        self._followed.settled = True
        ran = run(self._target, _LOOP_PAUSE, may_vanish=True)
        self._run_unseen = True
        second = self._loop(state, _LOOP) if ran.end is not RunEnd.STOP else None
        if ran.end is RunEnd.STOP:
            self._late = ran.stop
        if second is not None and set(first.pcs) == set(second.pcs) and self._cannot_end(second, state):
            return first.pcs
        self._followed.settled = False
        self._followed.lose_count()
        return ()

    def _cannot_end(self, loop: Loop, state: Mapping[str, int]) -> bool:
        off = all(interrupts_on(step.before) is False for step in loop.steps)
        return off and loop.endless(lambda address: self._is_ram(address, state))

    def _loop(self, state: Mapping[str, int], longest: int) -> Loop | None:
        """The loop that the CPU is in, by stepping it; `state` is the CPU's. It is not stepped over `hlt`, from which it may not return."""
        mode = mode_of(state.get("cr0", 1), state.get("cr4", 0), state.get("efer", 0), state.get("cs_flags"))
        bits = mode.bits
        base = 0 if bits == 64 else state.get("cs_base", 0)
        codes: dict[int, bytes] = {}

        def code_at(pc: int) -> bytes:
            if pc not in codes:
                codes[pc] = self.code_at(pc + base, {**state, **before})
            return codes[pc]

        steps: list[Stepped] = []
        end: int | None = None  # where the second round ends
        before = dict(self._target.read_registers().values)
        for _ in range(2 * longest):
            pc = before["rip"]
            if pc == RESET_RIP or self._goal(pc):
                self._late = Stop(StopKind.BREAKPOINT)
                return None
            code = code_at(pc)
            after_pause = code_at(pc + len(PAUSE)) if code.startswith(PAUSE) else b""
            if Effect.HLT in (effect_of(code, bits), effect_of(after_pause, bits)):
                return None
            stop = self._target.step()
            if stop.kind is not StopKind.BREAKPOINT:
                self._late = stop
                self._record(pc + base, mode, code)  # it had begun
                return None
            after = dict(self._target.read_registers().values)
            new = stepped(pc, code, bits, before, after, code_at)
            steps += new
            if after["rip"] != pc or effect_of(code, bits) is not Effect.REP:
                for one in new:
                    self._record(one.pc + base, mode, one.code)
            if end is None and (found := period(steps, after)) is not None and found.same:
                end = len(steps) if found.shut else len(steps) + len(found.steps)
            if len(steps) >= (longest if end is None else end):
                break
            before = after
        return period(steps, steps[-1].after)

    def _record(self, pc: int, mode: Mode, code: bytes) -> None:
        if not self._run_unseen:
            self._followed.stepped(pc, mode, code[: length(code, mode.bits)])

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

    def _is_ram(self, address: int, state: Mapping[str, int]) -> bool:
        physical = self._physical(address, state)
        backing = None if physical is None else self._around.backed(physical)
        return backing is not None and backing.kind is BackingKind.RAM

    def _value(self, address: int, size: int, state: Mapping[str, int]) -> int | None:
        """What RAM holds at a linear address; None for what is not RAM, where a read may have an effect."""
        physical = self._physical(address, state) if self._is_ram(address, state) else None
        try:
            return None if physical is None else int.from_bytes(self._target.read_memory(physical, size), "little")
        except MemoryUnreadable:
            return None

    def code_at(self, pc: int, state: Mapping[str, int], size: int = LONGEST) -> bytes:
        """The bytes of an instruction in memory, and behind it; empty where they cannot be read."""
        physical = self._physical(pc, state)
        try:
            return b"" if physical is None else self._target.read_memory(physical, size)
        except MemoryUnreadable:
            return b""

    def _handler(self, fault: Fault) -> int | None:
        """The linear address of a fault's handler, by the IDT as it is now; None where that cannot be read."""
        state, vector = fault.state, fault.vector
        if vector is None or "idt_base" not in state:
            return None
        long = bool(state.get("efer", 0) & _LMA)
        size = 16 if long else 8
        try:
            physical = self._physical(state["idt_base"] + vector * size, state)
            if physical is None or not state.get("cr0", 0) & 1 or vector * size + size - 1 > state.get("idt_limit", 0):
                return None
            gate = self._target.read_memory(physical, size)
        except TargetError:  # the guest may have ended the VMM
            return None
        offset = int.from_bytes(gate[0:2] + gate[6:12] if long else gate[0:2] + gate[6:8], "little")
        return offset if gate[5] & 0x0E == 0x0E else None  # an interrupt or trap gate; a flat code segment is assumed

    # --- the report -----------------------------------------------------------------------------------------------

    def death(self, kind: DeathKind, state: dict[str, int], chain: tuple[Fault, ...] = (), loop: tuple[int, ...] = ()) -> Death:
        """A death of this kind with all that is known of it. `chain` holds the faults that killed, `loop` the pcs of an endless loop."""
        followed = self._followed
        if kind is not DeathKind.PANIC:  # whose path is not reported
            followed.catch_up(self._handler)
        handling = followed.handling(chain) if kind in _BY_FAULT else ()
        first = next(iter((*handling, *chain)), None)
        struck = None if first is None else self._struck(first, state)
        before = dict(first.state) if first is not None and first.state else state
        gone = kind is DeathKind.ALIVE and not any(self._in_code(pc, state) for _, pc in self._looks)
        astray = followed.counted or gone
        fetched = first is not None and is_fetch(first) and first.pc is not None
        return Death(
            kind,
            before,
            chain,
            followed.path(kind, loop, before, lambda pc: self._has_memory(pc, state), next(iter(handling), None)),
            tuple(followed.system),
            followed.begun,
            roughly=followed.roughly,
            loop=loop,
            status=self._status() if kind is DeathKind.EXITED else None,
            handling=handling,
            struck=struck,
            lately=None if followed.counted and (handling or not followed.start) else followed.last_exception(),
            touched=() if struck is None else touched(struck, before),
            needs=features(struck.code, struck.mode.bits)
            if struck is not None and first is not None and first.vector == UD
            else (),
            after=followed.after(handling[0].seq) if handling else (),
            departure=followed.departure(lambda pc: self._in_code(pc, state), gone=gone)
            if astray and kind not in _NOT_ASTRAY
            else None,
            ran_before=followed.ran_before(first.pc or 0) if first is not None and fetched else None,
        )

    def _in_code(self, pc: int, state: Mapping[str, int]) -> bool:
        """Whether a pc is in a PT_LOAD that may be executed, by its own address or by what is mapped there."""
        if self._around.holds(self._around.linked(pc)):
            return True
        physical = self._physical(pc, state)
        return physical is not None and bool(self._around.holds(physical))

    def _struck(self, fault: Fault, state: Mapping[str, int]) -> Event | None:
        event = self._followed.struck(fault)
        if event is None or fault.vector not in (UD, NM):
            return event
        # QEMU: of an instruction that it does not know, or refuses before it is run, it logs only the bytes that it read.
        code = self.code_at(event.pc, {**state, **fault.state})
        return event._replace(code=code or event.code)
