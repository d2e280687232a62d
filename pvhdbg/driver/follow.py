"""One run of an engine over a machine, to a goal: its events go to the result, and to a sink."""

from __future__ import annotations

import time
from dataclasses import replace

from pvhdbg.driver.engine_choice import own_milestones
from pvhdbg.driver.goal import TraceGoal
from pvhdbg.driver.onward import run_on
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.result import SHOWN, TraceResult
from pvhdbg.driver.scope import Scope
from pvhdbg.driver.serial_milestones import looked_for
from pvhdbg.driver.sinks import Kept, Sink
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.driver.vmm_end import by_whom
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.tracing.boots import Boots
from pvhdbg.tracing.engines.engine import Bounds, Engine, TraceEnd
from pvhdbg.tracing.event import Batch, EndReason
from pvhdbg.tracing.milestones import Finder, Milestone
from pvhdbg.tracing.mode_words import first_in

_RATE_EVERY = 0.5  # seconds between two measurements of the rate
_ENTERED = ("entry", "64-bit", "higher half")  # not milestones of a trace that begins after them


def event_count(options: TraceOptions, goal: TraceGoal, scope: Scope) -> int | None:
    """After how many instructions the trace ends by itself; None where something else ends it."""
    return goal.count if _is_endless(options, goal) or not scope.everything else SHOWN


def _is_endless(options: TraceOptions, goal: TraceGoal) -> bool:
    return bool(goal.text or options.output or options.tail or options.what == "milestones")


class TraceRun:
    """`run` it once. `result` and `machine.ended` are complete afterwards."""

    def __init__(
        self,
        options: TraceOptions,
        engine: Engine,
        machine: TracedMachine,
        goal: TraceGoal,
        result: TraceResult,
        sink: Sink | None = None,
        scope: Scope | None = None,
    ) -> None:
        self._engine, self._machine, self._goal, self._result = engine, machine, goal, result
        self._what = options.what
        self._sink = sink or Kept(result)
        self._scope = scope or Scope()
        self._behind = bool(options.start) or machine.behind
        registers = machine.target.read_registers() if self._behind else machine.boot.snapshot.registers
        watched = {**machine.names.found(MILESTONES), **own_milestones(options, machine.names)}
        self._finder = Boots(lambda: Finder(watched, {name: registers[name] for name in registers}), machine.boot_entry)
        self._serial = looked_for(options, machine, engine.name, goal.text if goal.serial is not None else None)
        count = event_count(options, goal, self._scope)
        if count is None and not self._scope.everything and not _is_endless(options, goal):
            self._scope.most = SHOWN
        self._bounds = Bounds(goal.addresses, count, options.limit)
        self._may_hurry = _may_hurry(options, engine, goal)
        self._hurried = False  # the engine was stopped, because no remaining milestone needs a count
        self._reached = False  # the goal, as far as the engine does not see it by itself
        self._rate = _Rate(machine)

    def run(self) -> None:
        """Run the machine to the goal, and a little further where only milestones are left. Raises TargetError."""
        began = time.monotonic()
        with self._machine.interruptible(self._engine):
            for batch in self._engine.batches(self._bounds):
                self._take(batch)
                self._rate.tell(self._result.events, batch)
                self._hurry()
                if self._is_over():
                    break
        if self._goal.serial is None or not self._reached:
            self._met(self._serial.finish(self._result.events))
        self._result.warnings += [*self._engine.warnings, *self._serial.warnings]
        self._result.end = self._engine.end
        counted = not (self._hurried and self._result.end.why is EndReason.INTERRUPTED)
        if not counted:
            self._result.end = self._run_on(began)
        self._result.end = by_whom(self._result.end, self._machine.qemu)
        self._arrive(counted)
        self._result.seconds = time.monotonic() - began
        self._machine.ended = self._result.end.words if self._result.end.final else None

    def _take(self, batch: Batch) -> None:
        """The events of a batch, up to the first instruction in a mode that is the goal."""
        first = first_in(batch.modes, self._goal.modes)
        if first is not None:
            batch, self._reached = batch.cut(first + 1), True
        found = [one for one in self._finder.feed(batch) if not self._behind or one.seq or one.name not in _ENTERED]
        self._result.events = batch.seq + len(batch)
        found += self._serial.look(self._result.events)
        self._reached |= any(one.name == self._goal.text for one in found if one.pc is None)
        if self._what == "milestones":
            self._sink.faults(batch.faults)
        else:
            self._sink.events(replace(batch, deltas=None) if self._what == "pc" else batch, self._scope)
        if batch.reset is not None:
            self._result.resets.append(batch.reset)
            self._sink.reset(batch.reset)
        self._met(found)

    def _met(self, found: list[Milestone]) -> None:
        self._result.milestones += found
        self._sink.milestones(found)

    def _hurry(self) -> None:
        if self._may_hurry and not self._hurried and self._finder.settled and self._serial.complete:
            self._hurried = True
            self._engine.stop()  # the instructions that the guest ran meanwhile are in the log, and still follow

    def _is_over(self) -> bool:
        if self._reached or self._scope.full:
            return True
        # The log counts every instruction, which takes too long for the late milestones of a boot.
        done = self._finder.complete if self._engine.name != "recorder" else self._finder.settled and not self._finder.left
        all_seen = done and self._serial.complete
        return self._what == "milestones" and not self._may_hurry and not self._goal.text and all_seen

    def _run_on(self, began: float) -> TraceEnd:
        """Run to the remaining places at full speed."""
        if not self._finder.left and not self._goal.addresses:
            return TraceEnd(EndReason.ENOUGH)
        seconds = max(self._bounds.seconds - (time.monotonic() - began), 0.001)
        return run_on(self._machine, self._goal, self._finder.left, seconds, self._result, self._sink)

    def _arrive(self, counted: bool) -> None:
        """The milestone at the machine's current pc, whose instruction has not begun."""
        end = self._result.end
        name = self._finder.left.get(end.pc) if end.why is EndReason.ADDRESS and end.pc is not None else None
        if name is not None and end.pc is not None:
            self._met([Milestone(name, self._result.events, end.pc, counted=counted)])


def _may_hurry(options: TraceOptions, engine: Engine, goal: TraceGoal) -> bool:
    """Whether to run to the last places at full speed: counting every instruction to them takes minutes, and was not requested."""
    counts = goal.modes or goal.count is not None or goal.serial is not None
    return options.what == "milestones" and options.engine == "auto" and engine.name == "log" and not counts


class _Rate:
    """Reports the rate now and then."""

    def __init__(self, machine: TracedMachine) -> None:
        self._machine = machine
        self._began = self._looked = time.monotonic()

    def tell(self, events: int, batch: Batch) -> None:
        now = time.monotonic()
        if now - self._looked > _RATE_EVERY:
            rate = events / (now - self._began)
            place = f", at {batch.pcs[-1]:#x}" if len(batch) else ""
            self._machine.progress(f"tracing: {events:,} instructions, {rate:,.0f} a second{place}")
            self._looked = now
