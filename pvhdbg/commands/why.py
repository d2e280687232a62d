"""`pvhdbg why`: boot, watch for the death, explain it."""

from __future__ import annotations

from pvhdbg.commands.table import Answer, Request
from pvhdbg.disassembly import available
from pvhdbg.driver.goal import NOT_REACHED, seconds
from pvhdbg.driver.result import NO_DISASSEMBLER
from pvhdbg.driver.trace_subject import Machine, on_machine
from pvhdbg.machine.waiter import instruction, surroundings

_SERIAL = 100  # lines of the serial port that are looked at
_SHOWN = 5
_FINAL = {  # deaths that leave nothing to run
    "triple fault": "the guest triple-faulted",
    "shutdown": "the guest shut down",
    "halted": "the CPU halted with interrupts off",
    "exited": "the machine is gone: the guest ended it",
}


def why(request: Request) -> Answer:
    """`why`: the answer holds the verdict and what it rests on; exit code 3 when nothing died."""
    limit = seconds(request)
    return on_machine(request, "why", lambda machine: _watched(request, machine, limit))


def _watched(request: Request, machine: Machine, limit: float) -> Answer:
    from pvhdbg.report import why_text
    from pvhdbg.tracing.engines.watch import Watch
    from pvhdbg.tracing.explain import explain

    around = surroundings(machine.boot, machine.image, machine.target.read_memory, machine.names)
    qemu = machine.qemu
    watch = Watch(
        machine.target,
        around,
        code=machine.names.code,
        status=lambda: None if qemu is None else qemu.wait(1.0),
        serial=lambda: () if qemu is None else qemu.serial_tail(_SERIAL),
        progress=request.progress,
    )
    with machine.interruptible(watch):
        death = watch.until_dead(limit)
    serial = tuple(qemu.serial_tail(_SERIAL)) if qemu is not None else ()
    around = surroundings(machine.boot, machine.image, machine.target.read_memory, machine.names, serial)
    found = explain(death, around, instruction)
    names = machine.names.kept([event.pc for event in death.path] + [one for one in (death.pc,) if one is not None])
    machine.ended = _FINAL.get(death.kind)
    warnings = [*machine.warnings, *watch.warnings, *([NO_DISASSEMBLER] if death.path and not available() else [])]
    return Answer(
        lambda style: why_text.render(death, found, names, instruction, serial[-_SHOWN:], warnings, style),
        lambda: why_text.document(death, found, names, serial[-_SHOWN:], warnings),
        NOT_REACHED if death.kind == "alive" else 0,
    )
