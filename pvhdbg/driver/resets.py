"""`--on-reset`: what a trace does when the guest resets its machine, and the setting of QEMU that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pvhdbg.decode.text import SafeText
from pvhdbg.driver.options import TraceOptions
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.tracing.engines.engine import Engine
from pvhdbg.tracing.engines.resets import ThroughResets, WhyEnded
from pvhdbg.vmm.options import option_names

STEPS_OVER = "step"  # QEMU single-steps over a reset that -no-reboot forbids: there QEMU must really reset the machine


def through_resets(
    options: TraceOptions, machine: TracedMachine, name: str, make: Callable[[int], Engine], *, few: bool = False
) -> ThroughResets:
    """The engine of that name, made by `make`, with `--on-reset`. `few`: no breakpoint is left for resets. Raises BadInput."""
    go = goes_on(options)
    if few and go:
        raise BadInput("--on-reset go needs a breakpoint at the reset vector, and KVM's four are taken", "trace with --engine step")
    if few and machine.qemu is None:
        machine.warnings.append(SafeText("a reset would not be noticed: KVM's four breakpoints are taken"))
    if machine.qemu is None and name == STEPS_OVER and "no-reboot" in _options(machine):
        machine.warnings.append(SafeText("this QEMU runs with -no-reboot: a step does not show that the guest resets the machine"))

    return ThroughResets(machine.target, make, go=go, watched=lambda: watched(machine, go or name == STEPS_OVER))


def goes_on(options: TraceOptions) -> bool:
    """Whether the trace continues through a reset."""
    return options.on_reset == "go"


@contextmanager
def watched(machine: TracedMachine, reboots: bool) -> Iterator[WhyEnded]:
    """How the guest ended, as QEMU reports it. A QEMU that is started here does not reboot; with `reboots` it does meanwhile."""
    try:
        qmp = None if machine.qemu is None else machine.qemu.qmp()
    except TargetError:
        qmp = None  # another client is connected
    if qmp is None:
        yield lambda: None
        return
    with qmp:
        if reboots:
            qmp.execute("set-action", reboot="reset")
        try:
            yield qmp.why_ended
        finally:
            if reboots:
                with suppress(TargetError):  # it is gone
                    qmp.execute("set-action", reboot="shutdown")


def _options(machine: TracedMachine) -> frozenset[str]:
    """The options of a QEMU that was not started here, as far as they can be read."""
    command = machine.boot.snapshot.vmm.command or machine.target.peer_command()
    return option_names(command)
