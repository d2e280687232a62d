"""The `log` engine: QEMU's log at run time, one instruction per block, read while the guest runs. No restart, no stepping.

It sees places (`exec`) or whole states (`exec,cpu`), in both the code of each instruction and every fault and reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from pvhdbg.errors import TargetError, TargetLost, TargetTimeout
from pvhdbg.spec.x86 import EFLAGS
from pvhdbg.targets.target import RESET_RIP, RESET_VECTOR, Stop, StopKind, Target, leave_reset_vector
from pvhdbg.trace.engines.engine import Bounds, End, end_of
from pvhdbg.trace.engines.log_switch import LogSwitch
from pvhdbg.trace.event import Batch
from pvhdbg.trace.opcodes import kind_of
from pvhdbg.trace.qemu_log import LogReader

_TURN = 0.002  # seconds that the FIFO is waited for before the stub is looked at
_SILENCE = 0.3  # seconds without a record after which the CPU may be halted for good
_ALWAYS = "in_asm,int,cpu_reset"
_ITERATIONS = 8192  # of one REP in the log after which the rest of them runs unlogged to a breakpoint behind it
_REP_TIME = 30.0


class LogEngine:
    """See `Engine`. `states` asks for registers as well as places; `cpu` is the one that is followed."""

    name = "log"

    def __init__(
        self, target: Target, *, states: bool, cpu: int = 0, base: int = 0, peek: Callable[[int], bytes] = lambda _: b""
    ) -> None:
        self.end = End("stopped")
        self.warnings: list[str] = []
        self._target = target
        self._states = states
        several = target.capabilities.monitor and target.monitor("info cpus").count("CPU #") > 1
        self.reader = LogReader(states=states, cpu=cpu, base=base, peek=peek, several=several)
        self._running = False
        self._gone = False
        self._asked = False
        self._interrupted = False  # it stands where it was stopped by us
        self._died: Stop | None = None  # while it ran on, until it was stopped
        self.beyond: tuple[Batch, End] | None = None  # what came behind the last event that was asked for, if the guest died of it

    def stop(self) -> None:
        """End the trace soon, with all that was seen. Can be called from a signal handler or another thread."""
        self._asked = True

    def batches(self, bounds: Bounds) -> Iterator[Batch]:
        """Let the machine run and yield what it does. Raises TargetError; ProtocolError for a log that cannot be read."""
        switch = LogSwitch(self._target, "exec,cpu,nochain," + _ALWAYS if self._states else "exec,nochain," + _ALWAYS, single=True)
        self.warnings += switch.warnings
        watched = (*bounds.addresses, RESET_VECTOR)
        try:
            if switch.left_on:
                self._forget_blocks()
            with switch:
                for address in watched:
                    self._target.set_breakpoint(address)
                self.end = End("enough")
                try:
                    yield from self._run(switch, bounds)
                finally:
                    self._halt(switch)
        finally:
            self._clear(watched)
            if self._interrupted and not self._gone:
                self._forget_blocks()

    def _forget_blocks(self) -> None:
        """One step, unlogged: QEMU forgets its blocks when a debugger's stop is not an interrupt (gdbstub/system.c).

        The log shows new blocks only: without this, the next trace would not see any code of what this one ran through.
        """
        try:
            if "HLT=1" not in self._target.monitor("info registers"):
                self._target.step()
        except TargetError:
            pass  # then the next trace has less to tell

    def _run(self, switch: LogSwitch, bounds: Bounds) -> Iterator[Batch]:
        deadline = time.monotonic() + bounds.seconds
        first = self.reader.seq
        if self._target.read_registers()["rip"] == RESET_RIP:
            leave_reset_vector(self._target)
        self._resume()
        silent_since = time.monotonic()
        while True:
            data = switch.read(_TURN)
            stop = None if data else self._looked()
            now = time.monotonic()
            if data:
                silent_since = now
                batch = self.reader.feed(data)
                if bounds.count is not None and self.reader.seq >= first + bounds.count:
                    self.end = End("count")
                    room = first + bounds.count - batch.seq
                    yield batch.cut(room)
                    said = self._halt(switch)
                    if self._died is not None:
                        batch = _joined(batch.since(room), self._last(said, Bounds(), first))
                        self.beyond = batch, end_of(self._died, self._target, Bounds())
                    return
                if len(batch) or batch.faults:
                    yield batch
            if data and self.reader.iterations > _ITERATIONS:
                yield self.reader.feed(self._halt(switch))
                stop = self._run_rep(switch)
                silent_since = now = time.monotonic()
            if stop is None and not data and now - silent_since > _SILENCE:
                silent_since = now
                stop = self._halted()
                if stop is None:
                    self._resume()
            if stop is not None:
                if self.end.why == "enough":
                    self.end = end_of(stop, self._target, bounds)
                yield self._last(switch.rest(), bounds, first)
                return
            if now > deadline or self._asked:
                self.end = End("interrupted" if self._asked else "time")
                yield self._last(self._halt(switch), bounds, first)
                return

    def _last(self, data: bytes, bounds: Bounds, first: int) -> Batch:
        """Everything that is left, as one batch."""
        batch = self.reader.feed(data)
        rest = self.reader.finish(self._state())
        joined = _joined(batch, rest)
        return joined if bounds.count is None else joined.cut(first + bounds.count - joined.seq)

    # --- the machine ----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        self._running, self._interrupted = True, False
        self._target.resume()

    def _looked(self) -> Stop | None:
        try:
            stop = self._target.wait(0.001)
        except TargetTimeout:
            return None
        except TargetLost:
            stop = Stop(StopKind.EXITED, 0, "the connection closed")
        self._running = False
        self._gone = stop.kind is StopKind.EXITED
        return stop

    def _halt(self, switch: LogSwitch) -> bytes:
        """Stop the machine if it runs; what was logged meanwhile."""
        if not self._running or self._gone:
            return b""
        self._running = False
        with switch.drained() as pieces:
            try:
                stop = self._target.interrupt()
            except TargetLost:
                stop = Stop(StopKind.EXITED, 0, "the connection closed")
        self._gone, self._interrupted = stop.kind is StopKind.EXITED, stop.kind is StopKind.INTERRUPT
        self._died = stop if stop.kind in (StopKind.EXITED, StopKind.SHUTDOWN) else None
        return b"".join(pieces) + switch.rest()

    def _run_rep(self, switch: LogSwitch) -> Stop | None:
        """Let a long REP run without logging its iterations, which are one event. None when the machine runs on, logged.

        Clearing memory is millions of iterations, which QEMU 7 logs one by one. With interrupts on others may come between.
        """
        registers = self._target.read_registers()
        pc, code = registers["rip"], self.reader.code(registers["rip"])
        behind = pc + len(code)
        self.reader.iterations = 0
        if registers["eflags"] >> EFLAGS["IF"] & 1 or "rep" not in (kind_of(code, 32), kind_of(code, 64)):
            self._resume()
            return None
        switch.items("int,cpu_reset")
        self._target.set_breakpoint(behind)
        try:
            self._resume()
            try:
                stop = self._target.wait(_REP_TIME)
                self._running = False
            except TargetTimeout:
                self._halt(switch)
                raise TargetError(f"a REP did not end within {_REP_TIME:g} s", "trace from behind it, or with --engine step") from None
        finally:
            if not self._running:
                self._target.clear_breakpoint(behind)
        said = switch.rest()
        self.reader.feed(said)  # it has no records: it belongs to the REP
        if b": v=" in said:
            self.warnings.append(f"while the REP at {pc:#x} ran, faults were taken: what their handlers did is not in the trace")
        if stop.kind is not StopKind.BREAKPOINT or self._target.read_registers()["rip"] != behind:
            self._gone = stop.kind is StopKind.EXITED
            return stop
        switch.items()
        self._resume()
        return None

    def _halted(self) -> Stop | None:
        """The machine is silent: stopped for good with hlt and interrupts off, or only idle (None, and it stands still)."""
        self._running = False
        stop = self._target.interrupt()
        if stop.kind is not StopKind.INTERRUPT:
            return stop
        if not self._target.read_registers()["eflags"] >> EFLAGS["IF"] & 1 and "HLT=1" in self._target.monitor("info registers"):
            self.end = End("halted", stop, self._target.read_registers()["rip"])
            return stop
        return None

    def _state(self) -> bytes | None:
        if not self._states or self._gone or self.end.why == "reset":
            return None  # what a reset made of the registers, the last instruction did not
        try:
            text = self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace")
        except TargetError:
            return None
        start, end = text.find(b"AX=") - 1, text.find(b"EFER=")
        return None if start < 0 or end < 0 else text[start : end + 21]

    def _clear(self, addresses: tuple[int, ...]) -> None:
        for address in addresses:
            try:
                self._target.clear_breakpoint(address)
            except TargetError:
                pass  # it is gone: there is nothing left to put back


def _joined(one: Batch, two: Batch) -> Batch:
    deltas = None if one.deltas is None and two.deltas is None else [*(one.deltas or ()), *(two.deltas or ())]
    return Batch(
        one.seq,
        [*one.pcs, *two.pcs],
        [*one.modes, *two.modes],
        [*one.codes, *two.codes],
        deltas,
        None if one.cpus is None and two.cpus is None else [*(one.cpus or ()), *(two.cpus or ())],
        [*one.system, *(index + len(one) for index in two.system)],
        [*one.faults, *two.faults],
    )
