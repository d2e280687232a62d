"""Wait for the death of a guest whose stub has no monitor, by single steps, and explain it as far as that shows."""

from __future__ import annotations

from pvhdbg.decode.text import safe
from pvhdbg.disassembly import available, instruction_text
from pvhdbg.driver.death_watch import Diagnosis
from pvhdbg.driver.result import NO_DISASSEMBLER
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import MemoryUnreadable, TargetLost
from pvhdbg.machine.surroundings import surroundings
from pvhdbg.tracing.engines.stepped_watch import SteppedWatch
from pvhdbg.tracing.explain import explain

_BLIND = safe(
    "the stub has no monitor: the guest was stepped, and no exception was seen; the last instruction is the one that ended it, or hangs"
)


def diagnosed(machine: TracedMachine, limit: float) -> Diagnosis:
    """Step the machine to its guest's death, for `limit` seconds at most. Raises TargetError."""
    watch = SteppedWatch(machine.target, machine.progress)
    with machine.interruptible(watch):
        death = watch.until_dead(limit)

    def read(address: int, size: int) -> bytes:
        try:
            return machine.target.read_memory(address, size)
        except TargetLost as gone:
            raise MemoryUnreadable(address, size, "the VMM has ended", looked=False) from gone

    around = surroundings(machine.boot, machine.image, read, machine.names)
    found = explain(death, around, instruction_text)
    names = machine.names.kept([event.pc for event in death.path] + [one for one in (death.pc,) if one is not None])
    warnings = [*machine.warnings, *watch.warnings, _BLIND, *([NO_DISASSEMBLER] if death.path and not available() else [])]
    return Diagnosis(death, found, names, (), tuple(warnings))
