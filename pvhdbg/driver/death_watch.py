"""Wait for a guest's death, and explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pvhdbg.disassembly import available, instruction_text
from pvhdbg.driver.result import NO_DISASSEMBLER
from pvhdbg.driver.traced_machine import TracedMachine, has_shut_down
from pvhdbg.machine.surroundings import surroundings
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.engines.death_watch import DeathWatch
from pvhdbg.tracing.explain import Explanation, explain, on_its_cpu

_SERIAL = 100  # lines of the serial port that are searched
_FINAL = {  # deaths after which the machine cannot run on
    DeathKind.TRIPLE_FAULT: "the guest triple-faulted",
    DeathKind.SHUTDOWN: "the guest shut down",
    DeathKind.HALTED: "the CPU halted with interrupts off",
    DeathKind.EXITED: "the machine is gone: the guest ended it",
}


@dataclass(frozen=True)
class Diagnosis:
    """How a guest died and why. `names` gives symbols for its addresses; `serial` are the serial port's last lines."""

    death: Death
    explanation: Explanation
    names: Callable[[int], str | None]
    serial: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def died(self) -> bool:
        """Whether the guest died, and not by a bug of the VMM."""
        return self.death.died

    def __repr__(self) -> str:
        return f"Diagnosis({self.death.kind.value}: {self.explanation.verdict!r})"


def diagnosed(machine: TracedMachine, limit: float) -> Diagnosis:
    """Run the machine to its guest's death, for `limit` seconds at most. Raises TargetError."""
    around = surroundings(machine.boot, machine.image, machine.target.read_memory, machine.names)
    qemu = machine.qemu
    command = () if qemu is None else tuple(qemu.command)
    watch = DeathWatch(
        machine.target,
        around,
        code=machine.names.code,
        status=lambda: None if qemu is None else qemu.exit_status(),
        serial=lambda: () if qemu is None else qemu.serial_tail(_SERIAL),
        progress=machine.progress,
    )
    with machine.interruptible(watch):
        death = watch.post_mortem() if has_shut_down(machine.target) else watch.until_dead(limit)
    serial = tuple(qemu.serial_tail(_SERIAL)) if qemu is not None else ()
    around = surroundings(
        machine.boot, machine.image, machine.target.read_memory, machine.names, serial, target=machine.target, command=command
    )
    death = on_its_cpu(death, around)
    found = explain(death, around, instruction_text)
    names = machine.names.kept([event.pc for event in death.path] + [one for one in (death.pc,) if one is not None])
    machine.ended = _FINAL.get(death.kind)
    warnings = [*machine.warnings, *watch.warnings, *([NO_DISASSEMBLER] if death.path and not available() else [])]
    return Diagnosis(death, found, names, serial, tuple(warnings))
