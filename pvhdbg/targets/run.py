"""Run a machine: the one bounded and interruptible loop, and the run to an address through reboots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from enum import Enum

from pvhdbg.decode.cpu_mode import linear_pc
from pvhdbg.errors import EntryNotReached, GuestDied, TargetError, TargetLost, TargetTimeout
from pvhdbg.record import dataclass
from pvhdbg.targets.target import GONE, RESET_RIP, RESET_VECTOR, Stop, StopKind, Target

Progress = Callable[[str], None]

_IDLE = 16  # steps that may do nothing


class RunEnd(Enum):
    """The reason for a run's end."""

    STOP = "stop"  # the machine stopped by itself
    ASKED = "asked"  # `enough` was true
    TIME = "time"


@dataclass(frozen=True)
class Ran:
    """How a run ended. `stop` is the machine's own report, also where it was interrupted for `end`."""

    end: RunEnd
    stop: Stop


def turns(
    target: Target,
    seconds: float,
    *,
    turn: float = math.inf,
    stopping: Callable[[], AbstractContextManager[object]] = nullcontext,
    may_vanish: bool = False,
) -> Generator[None, bool, Ran]:
    """Run the machine, and yield after each `turn` seconds: the value sent back says whether to stop.

    The machine is stopped afterwards, also when the generator is closed. See `run` for the rest.
    """
    deadline = time.monotonic() + seconds
    target.resume()
    try:
        asked = yield
        while (left := deadline - time.monotonic()) > 0:
            if asked:
                with stopping():
                    return Ran(RunEnd.ASKED, target.interrupt())
            with suppress(TargetTimeout):
                return Ran(RunEnd.STOP, target.wait(min(turn, left)))
            asked = yield
        with stopping():
            return Ran(RunEnd.TIME, target.interrupt())
    except TargetLost:
        if may_vanish:
            return Ran(RunEnd.STOP, GONE)
        raise
    except BaseException:  # also Ctrl-C, and a closed generator
        with suppress(TargetError), stopping():
            target.interrupt()
        raise


def run(
    target: Target,
    seconds: float,
    *,
    enough: Callable[[], bool] = lambda: False,
    turn: float = math.inf,
    stopping: Callable[[], AbstractContextManager[object]] = nullcontext,
    meanwhile: Callable[[], None] = lambda: None,
    may_vanish: bool = False,
) -> Ran:
    """Run the machine to its next stop, until `enough` is true, or for `seconds`. It is stopped afterwards, also after an error.

    `enough` is called before each wait of at most `turn` seconds, and may read a log or check the VMM. `stopping` is held while
    the machine is interrupted. `meanwhile` is called once, after the machine began to run. With `may_vanish` a connection that
    closes is the stop `GONE`, because the guest may have ended its VMM; else it raises TargetLost. Raises TargetError.
    """
    running = turns(target, seconds, turn=turn, stopping=stopping, may_vanish=may_vanish)
    with closing(running):
        next(running)
        meanwhile()
        while True:
            try:
                running.send(enough())
            except StopIteration as end:
                ran: Ran = end.value
                return ran


@contextmanager
def breakpoints_at(target: Target, addresses: Iterable[int]) -> Iterator[None]:
    """Hardware breakpoints at linear addresses inside this context. Raises TargetError where one cannot be set."""
    addresses = tuple(addresses)
    try:
        for address in addresses:
            target.set_breakpoint(address)
        yield
    finally:
        for address in addresses:
            with suppress(TargetError):  # the machine is gone, and its breakpoints with it
                target.clear_breakpoint(address)


def run_until(
    target: Target,
    addresses: Collection[int],
    timeout: float,
    *,
    reboots: int = 0,
    progress: Progress = lambda _: None,
    meanwhile: Callable[[], None] = lambda: None,
    halts: bool = False,
) -> int:
    """Run to the first of some linear addresses, and return which. Breakpoints are cleared on every exit path.

    With `halts` the machine stops there by itself, and ends at a reset: it is neither stepped nor are breakpoints set, since the stop that
    either leads to would move a deterministic clock.

    A breakpoint at the reset vector reports a reboot at once instead of by time-out; `reboots` of them are ignored (SeaBIOS
    reboots itself once after a warm reset). `meanwhile` is called once while the machine runs, for work that does not need
    it. Raises EntryNotReached when `timeout` seconds pass (the machine is then stopped where it is), GuestDied when the
    guest reboots or ends first.
    """
    names = " or ".join(f"{address:#x}" for address in sorted(addresses))
    late = EntryNotReached(f"the guest did not reach {names} within {timeout:g} s")
    deadline = time.monotonic() + timeout
    if not halts:
        _off_the_reset_vector(target)
    with breakpoints_at(target, () if halts else (*addresses, RESET_VECTOR)):
        while True:
            progress(f"waiting for the guest to reach {names}")
            ran = run(target, max(deadline - time.monotonic(), 0.001), meanwhile=meanwhile)
            meanwhile = _nothing
            if ran.end is RunEnd.TIME:
                raise late
            stop = ran.stop
            if stop.kind in (StopKind.SHUTDOWN, StopKind.EXITED):
                raise GuestDied(f"the guest ended before it reached {names}: {stop.text or stop.kind.value}")
            pc = target.read_registers()["rip"]
            if pc in addresses:
                return pc
            if pc == RESET_RIP:
                if reboots <= 0:
                    raise GuestDied(f"the guest rebooted before it reached {names}")
                reboots -= 1
                leave_reset_vector(target)
            elif stop.kind is not StopKind.BREAKPOINT:
                raise EntryNotReached(f"the machine stopped at {pc:#x} ({stop.kind.value}) before it reached {names}")
            elif (linear := _linear(target, pc)) in addresses:
                return linear
            elif time.monotonic() > deadline:
                raise late


def _nothing() -> None:
    pass


def _off_the_reset_vector(target: Target) -> None:
    """Step off the reset vector, so that the breakpoint there means a reboot. Raises EntryNotReached if the machine cannot step."""
    if target.read_registers()["rip"] == RESET_RIP:
        step_off_reset_vector(target)
        if target.read_registers()["rip"] == RESET_RIP:
            raise EntryNotReached("the machine does not leave its reset vector", "does it wait for a migration (-incoming)?")


def reset_machine(target: Target, seconds: float = 2.0) -> None:
    """Reset a stopped machine; it is then stopped at its reset vector. Raises TargetError where it does not get there."""
    target.monitor("system_reset")
    deadline = time.monotonic() + seconds
    # QEMU: its main loop carries the request out, after the command has returned.
    while target.read_registers()["rip"] != RESET_RIP:
        if time.monotonic() > deadline:
            raise TargetError(
                f"the machine did not reset within {seconds:g} s",
                "a QEMU that was started with -no-reboot never resets: start it without",
            )


def leave_reset_vector(target: Target) -> None:
    """Step a machine off its reset vector, and watch the vector from then on. Raises TargetError.

    QEMU: in real mode the stub's pc is an offset into CS, so `resume` does not see that the machine is on this breakpoint.
    """
    target.clear_breakpoint(RESET_VECTOR)
    step_off_reset_vector(target)
    target.set_breakpoint(RESET_VECTOR)


def step_off_reset_vector(target: Target) -> None:
    """Step a machine off its reset vector, so that a breakpoint there means a reboot. Raises TargetError.

    QEMU answers some steps without an instruction having run, when something else woke it.
    """
    for _ in range(_IDLE):
        target.step()
        if target.read_registers()["rip"] != RESET_RIP:
            return


def _linear(target: Target, pc: int) -> int:
    """The linear address of `pc`, which is an offset into CS where that has a base; `pc` where no monitor shows the base."""
    if not target.capabilities.monitor:
        return pc
    from pvhdbg.decode import qemu_monitor

    base = qemu_monitor.cpu_state(target.monitor("info registers")).segments["cs"].base
    return linear_pc(pc, base, None)  # the base of 64-bit code is 0
