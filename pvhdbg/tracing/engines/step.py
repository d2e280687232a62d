"""The `step` engine: one instruction at a time over the remote protocol, for any stub anywhere.

It observes differently from the log engine and yields the same events: tests compare the two. The monitor, where there is one,
gives hidden segment state and tables after each system instruction; else they are not observed. QEMU masks interrupts and timers
while it steps (qqemu.sstep), so a guest that waits for one does not continue. By the deterministic clock it does not: a step that
takes an interrupt executes nothing, which the fault log shows.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import NamedTuple

from pvhdbg.decode.cpu_mode import CODE_64, Mode, linear_pc, long_mode_active, mode_of
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import MemoryUnreadable, TargetError, TargetLost
from pvhdbg.model import GENERAL
from pvhdbg.record import replace
from pvhdbg.rsp.registers import RegisterLayout
from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.targets.run import RunEnd, breakpoints_at, run
from pvhdbg.targets.target import GONE, RESET_RIP, RESET_VECTOR, WAITS, Stop, StopKind, Target, steppable
from pvhdbg.tracing.cpu_text import decode, of_cpu
from pvhdbg.tracing.encoding import LONGEST, length
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd, end_at, halted
from pvhdbg.tracing.engines.fault_log import FaultLog
from pvhdbg.tracing.event import Batch, Delta, EndReason, Fault, FaultKind
from pvhdbg.tracing.opcodes import Effect, effect_of, is_system

_BATCH = 256
_ITERATIONS = 64  # of a REP that are stepped; the rest runs to a breakpoint after it
_IDLE = 16  # steps without a change, after which the instruction counts as a jump to itself
_REP_TIME = 30.0  # seconds
_HALTED = Stop(StopKind.INTERRUPT, 2, "hlt")  # stands for a step over hlt
_WAITING = Stop(StopKind.INTERRUPT, 2, WAITS)  # stands for a step behind it
_HLT = b"\xf4"
_GENERAL = ("cr0", "cr2", "cr3", "cr4", "efer", "eflags", "cs", "ss", "ds", "es", "fs", "gs")


class PacketDelta(Delta):
    """The `g` packets before and after an instruction, and the hidden state where it was read."""

    __slots__ = ("_after", "_before", "_hidden", "_layout", "_old")

    def __init__(
        self, layout: RegisterLayout, before: bytes, after: bytes, old: Mapping[str, int], hidden: Mapping[str, int]
    ) -> None:
        self._layout = layout
        self._before = before
        self._after = after
        self._old = old
        self._hidden = hidden

    def state(self) -> Mapping[str, int]:
        return {**self._old, **self._layout.decode(self._before)}

    def decode(self) -> Mapping[str, int]:
        old, new = self._layout.decode(self._before), self._layout.decode(self._after)
        changed = {name: value for name, value in new.items() if name != "rip" and old.get(name) != value}
        if self._hidden is not self._old:
            changed |= {
                name: value for name, value in self._hidden.items() if name not in new and self._old.get(name, value) != value
            }
        return changed


class _Here(NamedTuple):
    """The current stop: its `g` packet, the hidden state (empty without a monitor), mode and linear pc."""

    packet: bytes
    hidden: Mapping[str, int]
    mode: Mode
    pc: int


class _Columns:
    """The events of a batch while they are collected."""

    def __init__(self) -> None:
        self.pcs: list[int] = []
        self.modes: list[Mode] = []
        self.codes: list[bytes] = []
        self.deltas: list[Delta | None] = []
        self.system: list[int] = []
        self.faults: list[Fault] = []

    def batch(self, seq: int, cpu: int) -> Batch:
        cpus = [cpu] * len(self.pcs) if cpu else None
        return Batch(seq, self.pcs, self.modes, self.codes, self.deltas, cpus, self.system, self.faults)


class StepEngine(StopsWhenAsked):
    """See `Engine`. Raises TargetError for a target that does not hand out packets.

    Of several CPUs it steps `cpu`, and the others run meanwhile: their effects on each other are not those of a free run.
    """

    name: EngineKind = "step"

    def __init__(self, target: Target, *, base: int = 0, cpu: int = 0) -> None:
        found = steppable(target)
        if found is None:
            raise TargetError("the step engine talks to the stub itself", "leave out --via gdb")
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self.steps = 0  # instructions and iterations that were stepped
        self._target = found
        self._takes_interrupts = target.capabilities.steps_take_interrupts
        self._seq = base
        self._cpu = cpu
        self._armed = False
        self._may_wait = False  # whether the CPU may be halted at the first stop
        self._codes: dict[tuple[int, int], bytes] = {}
        self._ahead: tuple[tuple[int, int], bytes] | None = None  # memory as it is at this stop
        self._layout = self._target.layout
        slots = {name: self._layout.slot(name) for name in ("rip", *_GENERAL)}
        self._at = {name: (2 * slot.offset, 2 * (slot.offset + slot.size)) for name, slot in slots.items() if slot is not None}

    def followed(self) -> Mapping[str, int]:
        """The registers that the stub does not show, as they were followed up to here; empty where it shows them."""
        control = self._target.followed()
        if control is None:
            return {}
        return {**control.registers(), **({} if control.cs_flags is None else {"cs_flags": control.cs_flags})}

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """Step, and yield the instructions that were stepped. Raises TargetError."""
        if self._cpu:
            self._target.follow(self._cpu)
            if "HLT=1" in self._registers():
                raise TargetError(f"CPU {self._cpu} is halted: a step would wait for what wakes it", "trace with --engine log")
        with FaultLog(self._target) as fault_log:
            self.warnings += fault_log.warnings
            try:
                yield from self._steps(bounds, fault_log)
            finally:
                self._disarm()
                if self.end.stop is not GONE:
                    self._target.follow(None)

    def _steps(self, bounds: Bounds, fault_log: FaultLog) -> Generator[Batch, None, None]:
        deadline = time.monotonic() + bounds.seconds
        over = halted(self._target)
        if over is not None:
            self.end = over
            return
        self.end = TraceEnd(EndReason.ENOUGH)
        last = None if bounds.count is None else self._seq + bounds.count
        goals = frozenset(bounds.addresses)
        here = self._here(self._target.packet(), self._hidden())
        self._may_wait = self._is_behind_hlt(here)
        ended: TraceEnd | None = None
        while ended is None:
            columns = _Columns()
            while ended is None and len(columns.pcs) < _BATCH:
                begun = self._seq + len(columns.pcs)
                if begun and here.pc in goals:  # the first instruction is not a goal
                    ended = TraceEnd(EndReason.ADDRESS, None, here.pc)
                else:
                    ended = self._due(here.pc, begun, last, deadline)
                if ended is None:
                    here, ended = self._one(here, columns, fault_log)
            if columns.pcs or columns.faults:
                seq, self._seq = self._seq, self._seq + len(columns.pcs)
                yield columns.batch(seq, self._cpu)
        self.end = ended

    def _due(self, pc: int, begun: int, last: int | None, deadline: float) -> TraceEnd | None:
        """The end by the bounds, before the instruction at `pc`."""
        if last is not None and begun >= last:
            return TraceEnd(EndReason.COUNT)
        if self._asked:
            return TraceEnd(EndReason.INTERRUPTED, None, pc)
        return TraceEnd(EndReason.TIME, None, pc) if time.monotonic() > deadline else None

    def _one(self, here: _Here, columns: _Columns, fault_log: FaultLog) -> tuple[_Here, TraceEnd | None]:
        """Step one instruction and add it to the columns. Returns the new stop, and the end if this is one."""
        code = self._code(here.pc, here.mode)
        if not fault_log.open and self._value(here.packet, "rip") != RESET_RIP:
            self._arm()
        stop, packet = self._step(here, code)
        special = is_system(code, here.mode.bits)
        if stop is _WAITING:
            return here, TraceEnd(EndReason.HALTED, stop, self._value(packet, "rip"))
        after = self._after(here, packet, special) if packet else here
        begun = self._seq + len(columns.pcs)
        taken = fault_log.faults(begun + bool(code))  # code that could not be fetched was not begun
        if any(self._came_before(one, here) for one in taken):
            columns.faults += [replace(one, seq=begun) for one in taken]
            return after, self._ended(stop, packet, code, False)
        columns.pcs.append(here.pc)
        columns.modes.append(here.mode)
        columns.codes.append(code)
        columns.faults += taken
        ended = self._ended(stop, packet, code, any(one.kind is FaultKind.RESET for one in taken))
        # A reset changes the registers; the instruction does not.
        observed = bool(packet) and (ended is None or ended.why is not EndReason.RESET)
        columns.deltas.append(PacketDelta(self._layout, here.packet, packet, here.hidden, after.hidden) if observed else None)
        if special:
            columns.system.append(len(columns.pcs) - 1)
        return after, ended

    def _here(self, packet: bytes, hidden: Mapping[str, int]) -> _Here:
        mode = self._mode(packet, hidden)
        return _Here(packet, hidden, mode, self._linear(packet, mode, hidden))

    def _after(self, before: _Here, packet: bytes, special: bool) -> _Here:
        """The hidden state is read only where it may have changed: that takes a monitor command."""
        if special or packet[slice(*self._at["cs"])] != before.packet[slice(*self._at["cs"])]:
            return self._here(packet, self._hidden())
        return _Here(packet, before.hidden, before.mode, self._linear(packet, before.mode, before.hidden))

    def _step(self, here: _Here, code: bytes) -> tuple[Stop, bytes]:
        """One instruction, or all iterations of a REP; the packet afterwards, empty where the machine did not stop as a step does."""
        effect, packet = effect_of(code, here.mode.bits), here.packet
        if effect is Effect.HLT:
            # QEMU masks interrupts while it steps (qqemu.sstep): a step over hlt would never return.
            return _HALTED, packet
        behind = here.pc + len(code)
        ahead = None if effect is Effect.REP else self._unseen(behind, here.mode)
        iterations = idle = 0
        deadline = time.monotonic() + _REP_TIME
        rip = self._value(packet, "rip")
        while True:
            self.steps += 1
            iterations += 1
            before = packet
            try:
                if self._may_wait:
                    self._may_wait = False
                    stop, packet, data = self._doubtful_step(packet)
                else:
                    stop, packet, data = self._target.step_packet(rip, ahead)
            except TargetLost:  # the guest ended its VMM, which closed the connection
                return GONE, b""
            if stop is _WAITING:
                return stop, packet
            self._ahead = (ahead, data) if ahead and data else None
            if packet == before and stop.kind is StopKind.BREAKPOINT and not leads_to_itself(code) and idle < _IDLE:
                idle += 1
                continue  # QEMU: it was interrupted before the instruction ran, but reports a step
            if effect is not Effect.REP or stop.kind is not StopKind.BREAKPOINT or self._value(packet, "rip") != rip:
                return stop, packet
            if iterations > _ITERATIONS and not self._may_be_interrupted(packet):
                return self._run_rep(behind)
            if time.monotonic() > deadline:
                raise TargetError(f"a REP did not end within {_REP_TIME:g} s", "trace with --engine log")

    def _came_before(self, fault: Fault, here: _Here) -> bool:
        """Whether an interrupt was taken instead of the instruction here. A REP that was interrupted later has changed registers."""
        if fault.kind is not FaultKind.INTERRUPT:
            return False
        registers = self._layout.decode(here.packet)
        return all(registers.get(name, value) == value for name, value in fault.state.items() if name in GENERAL or name == "rip")

    def _is_behind_hlt(self, here: _Here) -> bool:
        """Whether the CPU may be halted for good, where there is no monitor to ask: a step would then never return."""
        if self._target.capabilities.monitor or self._value(here.packet, "eflags") >> EFLAGS["IF"] & 1:
            return False
        try:
            return self._target.read_linear(here.pc - 1, 1) == _HLT
        except MemoryUnreadable:
            return False

    def _doubtful_step(self, before: bytes) -> tuple[Stop, bytes, bytes]:
        """As `step_packet`, for a CPU that may be halted."""
        stop = self._target.step()
        if stop.text == WAITS:
            return _WAITING, before, b""
        return stop, b"" if stop.kind is StopKind.EXITED else self._target.packet(), b""

    def _may_be_interrupted(self, packet: bytes) -> bool:
        """Whether steps take interrupts, whose handlers are to be stepped, too."""
        return self._takes_interrupts and bool(self._value(packet, "eflags") >> EFLAGS["IF"] & 1)

    def _run_rep(self, behind: int) -> tuple[Stop, bytes]:
        with breakpoints_at(self._target, [behind]):
            ran = run(self._target, _REP_TIME)
            if ran.end is RunEnd.TIME:
                raise TargetError(f"a REP did not end within {_REP_TIME:g} s", "trace with --engine log")
            return ran.stop, self._target.packet() if ran.stop.kind is not StopKind.EXITED else b""

    def _ended(self, stop: Stop, packet: bytes, code: bytes, reset: bool) -> TraceEnd | None:
        pc = self._value(packet, "rip") if packet else None
        if stop is _HALTED:
            return TraceEnd(EndReason.HALTED, stop, None if pc is None else pc + len(code))
        return end_at(stop, pc, reset=reset)

    def _arm(self) -> None:
        """Without a log a breakpoint at the reset vector shows a reset (KVM). QEMU: its TCG checks no breakpoint while it steps."""
        if not self._armed:
            self._armed = True
            with suppress(TargetError):  # a stub without breakpoints
                self._target.set_breakpoint(RESET_VECTOR)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            with suppress(TargetError):  # the machine is gone
                self._target.clear_breakpoint(RESET_VECTOR)

    # --- what is read ---------------------------------------------------------------------------------------------

    def _linear(self, packet: bytes, mode: Mode, hidden: Mapping[str, int]) -> int:
        return linear_pc(self._value(packet, "rip"), hidden.get("cs_base"), mode.bits)

    def _value(self, packet: bytes, name: str) -> int:
        start, end = self._at[name]
        try:
            return int.from_bytes(bytes.fromhex(packet[start:end].decode("ascii")), "little")
        except ValueError:  # "xx": not available
            raise TargetError(f"{self._target.name} does not show {name} any more", "trace with --engine log") from None

    def _hidden(self) -> Mapping[str, int]:
        """Segments, tables and other state that the monitor shows and `g` does not; empty without a monitor."""
        if not self._target.capabilities.monitor:
            return self.followed()
        return decode(self._registers().encode("latin-1", "replace"))

    def _registers(self) -> str:
        """QEMU: `info registers` shows the monitor's CPU, whichever CPU the stub follows."""
        text = self._target.monitor("info registers -a" if self._cpu else "info registers").replace("\r", "")
        return of_cpu(text, self._cpu) if self._cpu else text

    def _mode(self, packet: bytes, hidden: Mapping[str, int]) -> Mode:
        if "cr0" not in self._at and "cr0" not in hidden:
            return Mode.PROTECTED  # the stub shows no control registers: the mode of an entry is assumed
        values = {
            name: hidden[name] if name not in self._at else self._value(packet, name) for name in ("cr0", "cr4", "efer", "eflags")
        }
        flags = hidden.get("cs_flags")
        if flags is None and long_mode_active(values):
            flags = CODE_64  # not observed: kernels leave compatibility mode at once
        return mode_of(values["cr0"], values["cr4"], values["efer"], flags, values["eflags"])

    def _code(self, pc: int, mode: Mode) -> bytes:
        """The bytes of the instruction; empty where they cannot be read."""
        key = (pc, mode.bits)
        if key not in self._codes:
            self._codes[key] = self._fetched(pc, mode)
        return self._codes[key]

    def _unseen(self, pc: int, mode: Mode) -> tuple[int, int] | None:
        """The range to read for the next instruction; None if its code is known, or if it may cross into an unmapped page."""
        if (pc, mode.bits) in self._codes or pc & 0xFFF > 0x1000 - LONGEST:
            return None
        return pc, LONGEST

    def _fetched(self, pc: int, mode: Mode) -> bytes:
        for size in (LONGEST, min(LONGEST, 0x1000 - (pc & 0xFFF))):  # the next page may not be mapped
            try:
                data = self._ahead[1] if self._ahead and self._ahead[0] == (pc, size) else self._target.read_linear(pc, size)
            except MemoryUnreadable:
                continue
            return data[: length(data, mode.bits)]
        return b""


def leads_to_itself(code: bytes) -> bool:
    """Whether it is a direct jump to itself, which changes no register."""
    return code in _SELF_JUMPS or (
        len(code) == 6 and code[0] == 0x0F and code[1] & 0xF0 == 0x80 and code[2:] == b"\xfa\xff\xff\xff"
    )


_SELF_JUMPS = frozenset((b"\xeb\xfe", b"\xe9\xfb\xff\xff\xff", *(bytes((0x70 + condition, 0xFE)) for condition in range(16))))
