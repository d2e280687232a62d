"""The `log` engine: QEMU's log at run time, one instruction per block, read while the guest runs. No restart, no stepping.

It sees addresses (`exec`) or whole states (`exec,cpu`), and with both the code of each instruction and every fault and reset.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import TargetError
from pvhdbg.targets.run import RunEnd, breakpoints_at, run
from pvhdbg.targets.target import RESET_VECTOR, Stop, StopKind, Target
from pvhdbg.tracing.engines.engine import Bounds, EngineKind, StopsWhenAsked, TraceEnd, end_of, is_halted
from pvhdbg.tracing.engines.fault_log import FAULT_ITEMS
from pvhdbg.tracing.engines.log_switch import LogSwitch
from pvhdbg.tracing.engines.logged_run import LoggedRun
from pvhdbg.tracing.event import Batch, EndReason
from pvhdbg.tracing.opcodes import Effect, is_effect_in_any_width
from pvhdbg.tracing.qemu_log import LogReader

_TURN = 0.002  # seconds to wait for the FIFO before the stub is checked
_SILENCE = 0.3  # seconds without a record after which the CPU may be halted for good
_ITEMS = f"in_asm,{FAULT_ITEMS}"
_ITERATIONS = 8192  # of one REP in the log; the rest runs unlogged to a breakpoint after it
_REP_TIME = 30.0  # seconds


class LogEngine(StopsWhenAsked):
    """See `Engine`. `states` asks for registers as well as addresses; `cpu` is the number of the CPU to follow.

    The machine runs on a little behind a count before it stands: with `overrun` those events belong to the trace, and its end is theirs.
    """

    name: EngineKind = "log"

    def __init__(
        self,
        target: Target,
        *,
        states: bool,
        cpu: int = 0,
        base: int = 0,
        peek: Callable[[int], bytes] = lambda _: b"",
        overrun: bool = False,
    ) -> None:
        self.end = TraceEnd(EndReason.STOPPED)
        self.warnings: list[SafeText] = []
        self._target = target
        self._states = states
        self._overrun = overrun
        several = target.capabilities.monitor and target.monitor("info cpus").count("CPU #") > 1
        self.reader = LogReader(states=states, cpu=cpu, base=base, peek=peek, several=several)
        self.beyond: tuple[Batch, TraceEnd] | None = (
            None  # what came after the last event that was asked for, if the guest died of it
        )

    def batches(self, bounds: Bounds) -> Generator[Batch, None, None]:
        """Run the machine and yield its events. Raises TargetError; ProtocolError for a log that cannot be read."""
        # QEMU: without nochain, blocks jump to each other directly and only the first of a chain is logged.
        records = "exec,cpu,nochain" if self._states else "exec,nochain"
        switch = LogSwitch(self._target, f"{records},{_ITEMS}", single=True)
        self.warnings += switch.warnings
        running = LoggedRun(self._target, switch, turn=_TURN, silence=_SILENCE)
        if switch.left_on:
            self._forget_blocks()
        try:
            with breakpoints_at(self._target, (*bounds.addresses, RESET_VECTOR)), switch:
                self.end = TraceEnd(EndReason.ENOUGH)
                yield from self._run(running, switch, bounds)
        finally:
            if running.interrupted:
                self._forget_blocks()

    def _forget_blocks(self) -> None:
        """One step, not logged. The log shows the code of new blocks only: without this, the next trace would show no code of these.

        QEMU: it forgets its blocks when a debugger's stop is not an interrupt (gdbstub/system.c).
        """
        with suppress(TargetError):  # then the next trace shows less code
            if not is_halted(self._target):
                self._target.step()

    def _run(self, running: LoggedRun, switch: LogSwitch, bounds: Bounds) -> Generator[Batch, None, None]:
        last = None if bounds.count is None else self.reader.seq + bounds.count
        pieces = running.pieces(bounds, lambda: self._asked)
        try:
            for data in pieces:
                if running.end is not None:
                    self.end = running.end
                    batch = self._rest(data, running.gone)
                    yield batch if last is None or self._overrun else batch.cut(last - batch.seq)
                    return
                batch = self.reader.feed(data)
                if last is not None and self.reader.seq >= last:
                    self.end = TraceEnd(EndReason.COUNT)
                    if self._overrun:
                        rest = running.leave()
                        self.end = running.ended(bounds) or self.end
                        yield batch.joined(self._rest(rest, running.gone))
                        return
                    yield batch.cut(last - batch.seq)
                    self._look_beyond(batch.since(last - batch.seq), running)
                    return
                if len(batch) or batch.faults:
                    yield batch
                if self.reader.iterations > _ITERATIONS:
                    yield self.reader.feed(running.halt())
                    self._run_rep(switch, running)
        finally:
            pieces.close()  # it stops the machine

    def _look_beyond(self, batch: Batch, running: LoggedRun) -> None:
        """Stop the machine. It runs on until then, and the guest may die meanwhile: `batch` is what it had done already."""
        data = running.halt()
        if running.died is not None:
            self.beyond = batch.joined(self._rest(data, running.gone)), end_of(running.died, self._target, Bounds())

    def _rest(self, data: bytes, gone: bool) -> Batch:
        """All remaining events, as one batch."""
        batch = self.reader.feed(data)
        return batch.joined(self.reader.finish(None if gone else self._state()))

    def _run_rep(self, switch: LogSwitch, running: LoggedRun) -> None:
        """Let the rest of a long REP run without logging its iterations, which are one event. The machine runs on, logged, unless it stopped.

        QEMU 7 logs the iterations one by one, and clearing memory takes millions. With interrupts on, handlers may run in between.
        """
        registers = self._target.read_registers()
        pc, code = registers["rip"], self.reader.code(registers["rip"])
        behind = pc + len(code)
        self.reader.iterations = 0
        if interrupts_on(registers) is not False or not is_effect_in_any_width(code, Effect.REP):
            running.resume()
            return
        switch.items(FAULT_ITEMS)
        with breakpoints_at(self._target, [behind]):
            ran = run(self._target, _REP_TIME, stopping=switch.drained, may_vanish=True)
        if ran.end is RunEnd.TIME:
            raise TargetError(f"a REP did not end within {_REP_TIME:g} s", "start the trace after it, or use --engine step")
        logged = switch.rest()
        self.reader.feed(logged)  # it has no records: it belongs to the REP
        if b": v=" in logged:
            self.warnings.append(
                SafeText(f"while the REP at {pc:#x} ran, faults were taken: the trace does not show what their handlers did")
            )
        if self._is_behind(ran.stop, behind):
            switch.items()
            running.resume()
        else:
            running.stopped(ran.stop)

    def _is_behind(self, stop: Stop, address: int) -> bool:
        return stop.kind is StopKind.BREAKPOINT and self._target.read_registers()["rip"] == address

    def _state(self) -> bytes | None:
        if not self._states or self.end.why is EndReason.RESET:
            return None  # the reset changed the registers, not the last instruction
        try:
            text = self._target.monitor("info registers").replace("\r", "").encode("latin-1", "replace")
        except TargetError:
            return None
        start, end = text.find(b"AX=") - 1, text.find(b"EFER=")
        return None if start < 0 or end < 0 else text[start : end + 21]
