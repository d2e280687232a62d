"""Run a machine from its entry to the milestones of a file of expectations, one after the other."""

from __future__ import annotations

import re
import time
from functools import partial

from pvhdbg.decode.text import SafeText, printable
from pvhdbg.driver.bounded_search import SIMPLER, TooSlow, search
from pvhdbg.driver.serial_milestones import need_own_serial
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import BadInput
from pvhdbg.expect.expectations import Expectations
from pvhdbg.expect.judging import MilestoneResult
from pvhdbg.machine.lease import interruptible
from pvhdbg.machine.waiter import Waiter
from pvhdbg.tracing.goal import Goal
from pvhdbg.vmm.qemu import QemuProcess

_SERIAL = 1000  # lines of the serial port, in a report and for milestones


def reached(machine: TracedMachine, expectations: Expectations) -> tuple[tuple[MilestoneResult, ...], tuple[SafeText, ...]]:
    """The outcome of each milestone, up to the first that was missed, and the serial port's last lines. Raises PvhdbgError."""
    found: list[MilestoneResult] = []
    qemu = machine.qemu
    budget = max((one.instructions for one in expectations.milestones if one.instructions is not None), default=0)
    count = budget + 1 if budget else 0
    waiter = Waiter(machine.target, machine.boot, machine.image, qemu, machine.progress, count, machine.recorder)
    if any(one.serial is not None for one in expectations.milestones):
        need_own_serial(qemu)
    goals = [
        Goal(done=partial(_written, qemu, one.serial)) if one.serial is not None else waiter.goal(str(one.reaches))
        for one in expectations.milestones
    ]
    began = time.monotonic()
    with interruptible(waiter.wait):
        for milestone, goal in zip(expectations.milestones, goals, strict=True):
            end = waiter.until(goal, milestone.timeout)
            if end is not None:
                end.refuse_vmm_bug()
            late = "" if end is None or end.died else f"not within {milestone.timeout:g} s: "
            missed = "" if end is None else printable(late + end.words)
            ran = waiter.wait.instructions if end is None else None
            found.append(MilestoneResult(milestone, time.monotonic() - began, missed, ran, waiter.wait.counted))
            if end is not None:
                break
    machine.warnings += waiter.wait.warnings
    return tuple(found), tuple(qemu.serial_tail(_SERIAL)) if qemu is not None else ()


def _written(qemu: QemuProcess | None, wanted: re.Pattern[str]) -> bool:
    try:
        return qemu is not None and search(wanted, "\n".join(qemu.serial_tail(_SERIAL)))
    except TooSlow:
        raise BadInput(
            f"the expression {printable(wanted.pattern)} takes too long on the guest's output",
            SIMPLER,
        ) from None
