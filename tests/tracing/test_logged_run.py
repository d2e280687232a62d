"""`LoggedRun` where a stop of ours and the guest's death come at the same moment, which no real QEMU can be made to do at will."""

from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest

from pvhdbg.errors import TargetTimeout
from pvhdbg.targets.target import RESET_RIP, Stop, StopKind
from pvhdbg.tracing.engines.engine import Bounds
from pvhdbg.tracing.engines.logged_run import LoggedRun
from pvhdbg.tracing.event import EndReason

DEATH = b"check_exception old: 0x8 new 0xd\nTriple fault\n"


def run_of(rip: int, read: bytes = b"", drained: bytes = b"") -> tuple[Any, LoggedRun]:
    """A machine that says INTERRUPT when it is stopped, and never answers a step."""
    target, switch = Mock(cpu=None), Mock()
    target.read_registers.side_effect = [{"rip": 0x100000}, *[{"rip": rip}] * 9]
    target.wait.side_effect = TargetTimeout("the stub does not answer", "")
    target.interrupt.return_value = Stop(StopKind.INTERRUPT)
    target.step.side_effect = TargetTimeout("the stub does not answer", "")
    switch.read.side_effect = [read, *[b""] * 99]
    switch.drained.side_effect = lambda: nullcontext([drained])
    switch.rest.return_value = b""
    return target, LoggedRun(target, switch, turn=0, silence=0 if read else 60)


@pytest.mark.parametrize(("rip", "why"), [(0x100020, EndReason.SHUTDOWN), (RESET_RIP, EndReason.RESET)])
@pytest.mark.parametrize("seen", ["read", "drained"])
def test_a_stop_of_ours_that_hides_a_triple_fault(rip: int, why: EndReason, seen: str) -> None:
    """QEMU 10 never answers a step of such a machine, QEMU 7 executes the instruction again."""
    target, running = run_of(rip, **{seen: DEATH})
    logged = b"".join(running.pieces(Bounds(seconds=60 if seen == "read" else 0), lambda: False))
    assert running.end is not None
    assert running.end.why is why
    assert logged == DEATH
    assert not running.interrupted
    target.step.assert_not_called()
    assert target.resume.call_count == 1


def test_a_stop_of_ours_between_a_reset_and_its_breakpoint() -> None:
    """QEMU logs the reset behind the triple fault. A step would leave the reset vector, and the reset would be lost."""
    logged = DEATH + b"CPU Reset (CPU 0)\nEAX=00000000\n"
    target, running = run_of(RESET_RIP, read=logged)
    pieces = running.pieces(Bounds(seconds=60), lambda: False)
    assert next(pieces) == logged
    assert running.leave() == b""
    end = running.ended(Bounds())
    assert end is not None
    assert end.why is EndReason.RESET
    target.step.assert_not_called()
