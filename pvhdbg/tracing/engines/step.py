"""The `step` engine: one instruction at a time over the remote protocol, for any stub anywhere.

It observes in another way than the log engine and yields the same events: that is how both are tested. Hidden segment state and
tables are asked of the monitor after each system instruction, where there is a monitor; else they are not observed. QEMU masks
interrupts and timers while it steps (qqemu.sstep), so a guest that waits for one does not get on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Protocol, cast

from pvhdbg.errors import MemoryUnreadable, TargetError, TargetTimeout
from pvhdbg.rsp.registers import RegisterLayout
from pvhdbg.spec.x86 import EFER
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.cpu_text import decode, of_cpu
from pvhdbg.tracing.encoding import LONGEST, length
from pvhdbg.tracing.engines.engine import Bounds, End, halted
from pvhdbg.tracing.engines.tap import Tap
from pvhdbg.tracing.event import Batch, Delta, Fault, Mode, mode_of
from pvhdbg.tracing.opcodes import is_system, kind_of

_BATCH = 256
_ITERATIONS = 64  # of a REP that are stepped before the rest is run to a breakpoint behind it
_IDLE = 16  # steps that change nothing, after which the instruction is believed to do so
_REP_TIME = 30.0
_GENERAL = ("cr0", "cr2", "cr3", "cr4", "efer", "eflags", "cs", "ss", "ds", "es", "fs", "gs")


class PacketDelta(Delta):
    """The `g` packets before and after an instruction, and the hidden state where it was asked for."""

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


class Steppable(Target, Protocol):
    """A target that hands out the stub's own packets, of the CPU that it follows."""

    def follow(self, cpu: int | None) -> None: ...

    @property
    def layout(self) -> RegisterLayout: ...

    def packet(self) -> bytes: ...

    def step_packet(self, pc: int, ahead: tuple[int, int] | None = None) -> tuple[Stop, bytes, bytes]: ...

    def read_linear(self, address: int, size: int) -> bytes: ...


class StepEngine:
    """See `Engine`. Raises TargetError for a target that is not a stub of ours.

    Of several CPUs it steps `cpu`, and the others run meanwhile: what two of them do to each other is not as in a free run.
    """

    name = "step"

    def __init__(self, target: Target, *, base: int = 0, cpu: int = 0) -> None:
        if getattr(target, "step_packet", None) is None:
            raise TargetError("the step engine talks to the stub itself", "leave out --via gdb")
        self.end = End("stopped")
        self.warnings: list[str] = []
        self.steps = 0  # instructions and iterations that were stepped
        self._target = cast(Steppable, target)
        self._seq = base
        self._cpu = cpu
        self._asked = self._armed = False
        self._codes: dict[tuple[int, int], bytes] = {}
        self._ahead: tuple[tuple[int, int], bytes] | None = None  # memory as it is at this stop
        self._layout = self._target.layout
        slots = {name: self._layout.slot(name) for name in ("rip", *_GENERAL)}
        self._at = {name: (2 * slot.offset, 2 * (slot.offset + slot.size)) for name, slot in slots.items() if slot is not None}

    def stop(self) -> None:
        """End the trace soon. Can be called from a signal handler or another thread."""
        self._asked = True

    def batches(self, bounds: Bounds) -> Iterator[Batch]:
        """Step, and yield what was done. Raises TargetError."""
        if self._cpu:
            self._target.follow(self._cpu)
            if "HLT=1" in self._registers():
                raise TargetError(f"CPU {self._cpu} is halted: a step would wait for what wakes it", "trace with --engine log")
        with Tap(self._target) as tap:
            self.warnings += tap.warnings
            try:
                yield from self._steps_of(bounds, tap)
            finally:
                self._disarm()
                self._target.follow(None)

    def _steps_of(self, bounds: Bounds, tap: Tap) -> Iterator[Batch]:
        deadline = time.monotonic() + bounds.seconds
        over = halted(self._target)
        if over is not None:
            self.end = over
            return
        packet = self._target.packet()
        hidden = self._hidden()
        mode = self._mode(packet, hidden)
        wanted = frozenset(bounds.addresses)
        left = bounds.count
        self.end = End("enough")
        while True:
            pcs: list[int] = []
            modes: list[Mode] = []
            codes: list[bytes] = []
            deltas: list[Delta | None] = []
            system: list[int] = []
            faults: list[Fault] = []
            ended: End | None = None
            while ended is None and len(pcs) < _BATCH:
                pc = self._linear(packet, mode, hidden)
                if pc in wanted and (self._seq or pcs):
                    ended = End("address", None, pc)
                elif left is not None and left <= len(pcs):
                    ended = End("count")
                elif self._asked or time.monotonic() > deadline:
                    ended = End("interrupted" if self._asked else "time", None, pc)
                else:
                    code = self._code(pc, mode)
                    before, old = packet, hidden
                    if not tap.open and self._value(packet, "rip") != RESET_RIP:
                        self._arm()
                    stop, packet = self._step(pc, code, mode, packet)
                    special = is_system(code, mode.bits)
                    elsewhere = bool(packet) and packet[slice(*self._at["cs"])] != before[slice(*self._at["cs"])]
                    if packet and (special or elsewhere):
                        hidden = self._hidden()
                    pcs.append(pc)
                    modes.append(mode)
                    codes.append(code)
                    taken = tap.faults(self._seq + len(pcs) - (not code))  # what could not be fetched was not begun
                    faults += taken
                    ended = self._ended(stop, packet, code, any(one.kind == "reset" for one in taken))
                    seen = bool(packet) and (
                        ended is None or ended.why != "reset"
                    )  # a reset's registers are not the instruction's doing
                    deltas.append(PacketDelta(self._layout, before, packet, old, hidden) if seen else None)
                    if special:
                        system.append(len(pcs) - 1)
                    if packet and (special or elsewhere):
                        mode = self._mode(packet, hidden)
            if pcs:
                seq = self._seq
                self._seq += len(pcs)
                left = None if left is None else left - len(pcs)
                yield Batch(seq, pcs, modes, codes, deltas, [self._cpu] * len(pcs) if self._cpu else None, system, faults)
            if ended is not None:
                self.end = ended
                return

    def _step(self, pc: int, code: bytes, mode: Mode, packet: bytes) -> tuple[Stop, bytes]:
        """One instruction; all iterations of a REP."""
        kind = kind_of(code, mode.bits)
        if kind == "hlt":
            return Stop(StopKind.INTERRUPT, 2, "hlt"), packet  # a step would wait for an interrupt that stepping masks
        ahead = None if kind == "rep" else self._unseen(pc + len(code), mode)
        iterations = idle = 0
        rip = self._value(packet, "rip")
        while True:
            self.steps += 1
            iterations += 1
            before = packet
            stop, packet, data = self._target.step_packet(rip, ahead)
            self._ahead = (ahead, data) if ahead and data else None
            if packet == before and stop.kind is StopKind.BREAKPOINT and not _leads_to_itself(code) and idle < _IDLE:
                idle += 1
                continue  # it did not run: QEMU was interrupted before it could
            if kind != "rep" or stop.kind is not StopKind.BREAKPOINT or self._value(packet, "rip") != rip:
                return stop, packet
            if iterations > _ITERATIONS:
                return self._run_rep(pc + len(code))

    def _run_rep(self, behind: int) -> tuple[Stop, bytes]:
        self._target.set_breakpoint(behind)
        try:
            self._target.resume()
            try:
                stop = self._target.wait(_REP_TIME)
            except TargetTimeout:
                self._target.interrupt()
                raise TargetError(f"a REP did not end within {_REP_TIME:g} s", "trace with --engine log") from None
            return stop, self._target.packet() if stop.kind is not StopKind.EXITED else b""
        finally:
            try:
                self._target.clear_breakpoint(behind)
            except TargetError:
                pass  # the machine is gone

    def _ended(self, stop: Stop, packet: bytes, code: bytes, reset: bool) -> End | None:
        if stop.kind is StopKind.EXITED:
            return End("exited", stop)
        pc = self._value(packet, "rip") if packet else None
        if stop.kind is StopKind.SHUTDOWN:
            return End("shutdown", stop, pc)
        if stop.text == "hlt" and code:
            return End("halted", stop, None if pc is None else pc + len(code))
        if reset or pc == RESET_RIP:
            return End("reset", stop, pc)
        return None if stop.kind is StopKind.BREAKPOINT else End("stopped", stop, pc)

    def _arm(self) -> None:
        """Where no log tells of a reset, a breakpoint at its vector does (KVM); QEMU's TCG looks at none while it steps."""
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
        pc = self._value(packet, "rip")
        return pc if mode is Mode.LONG else pc + hidden.get("cs_base", 0) & 0xFFFFFFFF

    def _value(self, packet: bytes, name: str) -> int:
        start, end = self._at[name]
        try:
            return int.from_bytes(bytes.fromhex(packet[start:end].decode("ascii")), "little")
        except ValueError:  # "xx": not available
            raise TargetError(f"{self._target.name} does not show {name} any more", "trace with --engine log") from None

    def _hidden(self) -> Mapping[str, int]:
        """Segments, tables and all else that the monitor shows and `g` does not."""
        if not self._target.capabilities.monitor:
            return {}
        return decode(self._registers().encode("latin-1", "replace"))

    def _registers(self) -> str:
        """The monitor speaks of the first CPU, whichever the stub speaks of."""
        text = self._target.monitor("info registers -a" if self._cpu else "info registers").replace("\r", "")
        return of_cpu(text, self._cpu) if self._cpu else text

    def _mode(self, packet: bytes, hidden: Mapping[str, int]) -> Mode:
        if "cr0" not in self._at:
            return Mode.PROTECTED  # the stub shows no control registers: this is what an entry is
        cr0, cr4, efer, eflags = (self._value(packet, name) for name in ("cr0", "cr4", "efer", "eflags"))
        flags = hidden.get("cs_flags")
        if flags is None and efer >> EFER["LMA"] & 1:
            flags = 1 << 21  # not observed: kernels leave compatibility mode at once
        return mode_of(cr0, cr4, efer, flags, eflags)

    def _code(self, pc: int, mode: Mode) -> bytes:
        """The bytes of the instruction; empty where they cannot be read."""
        key = (pc, mode.bits)
        if key not in self._codes:
            self._codes[key] = self._fetched(pc, mode)
        return self._codes[key]

    def _unseen(self, pc: int, mode: Mode) -> tuple[int, int] | None:
        """What to read of the next instruction in the line, if it was not met yet; None if it was, or may not be there."""
        if (pc, mode.bits) in self._codes or pc & 0xFFF > 0x1000 - LONGEST:
            return None
        return pc, LONGEST

    def _fetched(self, pc: int, mode: Mode) -> bytes:
        for size in (LONGEST, min(LONGEST, 0x1000 - (pc & 0xFFF))):  # the next page may not be there
            try:
                data = self._ahead[1] if self._ahead and self._ahead[0] == (pc, size) else self._target.read_linear(pc, size)
            except MemoryUnreadable:
                continue
            return data[: length(data, mode.bits)]
        return b""


def _leads_to_itself(code: bytes) -> bool:
    """Whether it is a direct jump to where it stands, which changes nothing when it has run."""
    return code in _SELF_JUMPS or (
        len(code) == 6 and code[0] == 0x0F and code[1] & 0xF0 == 0x80 and code[2:] == b"\xfa\xff\xff\xff"
    )


_SELF_JUMPS = frozenset((b"\xeb\xfe", b"\xe9\xfb\xff\xff\xff", *(bytes((0x70 + condition, 0xFE)) for condition in range(16))))
