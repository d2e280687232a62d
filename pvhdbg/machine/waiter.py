"""Run a machine on from its entry: to an address, a mode or a line of text, or to its death, which is explained.

Tests (`booted`) and the command line use it; `commands/why` shows a death in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pvhdbg.decode.boot_state import BootState
from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import SafeText
from pvhdbg.disassembly import instruction_text
from pvhdbg.errors import EntryNotReached, TargetError
from pvhdbg.kernel.image import KernelImage
from pvhdbg.machine.evidence import completed, with_log_buffer
from pvhdbg.machine.names import Names, goal_of, panics
from pvhdbg.machine.surroundings import not_cleared, surroundings
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.targets.target import Target
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.cpu_text import has_interrupts_on
from pvhdbg.tracing.death import Death, DeathKind
from pvhdbg.tracing.engines.registers import Recorder, open_recorder
from pvhdbg.tracing.engines.wait import Wait
from pvhdbg.tracing.explain import Explanation, explain
from pvhdbg.tracing.goal import Goal
from pvhdbg.tracing.last_words import Told, telling
from pvhdbg.tracing.milestones import Finder, Milestone
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess
from pvhdbg.vmm.qmp import Qmp

_QUOTED = 3  # lines of the guest in one line of ours
_SERIAL = 100  # lines of the serial port that are searched


@dataclass(frozen=True)
class Missed:
    """Why a wait ended without its goal: the observation, its meaning, the CPU's last place, and the guest's own lines that say why."""

    death: Death
    why: Explanation
    place: str
    told: tuple[Told, ...] = ()

    @property
    def died(self) -> bool:
        """Whether the guest is dead; else the time was up, and `words` say where it was, or the VMM's own bug ended it."""
        return self.death.died

    def refuse_vmm_bug(self) -> None:
        """Raises EntryNotReached where a bug of the VMM ended the wait: then nothing was observed of the guest."""
        if self.death.vmm_bug is not None:
            raise EntryNotReached(self.why.verdict, self.why.next)

    @property
    def words(self) -> str:
        """All of it in one line: the cause, the place, the mode, each fault, and what usually causes the guest's last words."""
        if self.death.vmm_bug is not None:
            return self.why.verdict
        if not self.died:
            doing = f": {self.why.doing}" if self.why.doing else ""
            return f"it was at {self.place}{doing}" if self.place else "its place can no longer be read"
        faults = f" Faults: {'; '.join(self.why.chain)}." if self.why.chain else ""
        last = (
            f" It was last seen at {self.place}."
            if self.death.kind in (DeathKind.SHUTDOWN, DeathKind.EXITED) and self.place
            else ""
        )
        return f"{self.why.verdict}{faults}{last}{''.join(self._usually())}"

    def _usually(self) -> Iterator[str]:
        """The guest's lines that have a usual cause which the verdict does not name, each cause once."""
        causes = {one.meaning: one for one in self.told if one.meaning and one.meaning not in self.why.verdict}
        for one in list(causes.values())[-_QUOTED:]:
            yield f" It said: {one.line} (usually: {one.meaning})."


class Waiter:
    """Waits on one machine. `until` may be called repeatedly: no instruction is traced twice.

    `count` is how many instructions to count from the entry on; 0 for as many as take no noticeable time. With the flight `recorder` all are
    counted.
    """

    def __init__(self, target: Target, boot: BootState, image: KernelImage | None, qemu: QemuProcess | None = None,
                 progress: Callable[[str], None] = lambda _: None, count: int = 0, recorder: Recorder | None = None) -> None:  # fmt: skip
        self.names = Names(image)
        self._target = target
        self._boot = boot
        self._image = image
        self._qemu = qemu
        self._qmp: Qmp | None = None
        self._recording = None if recorder is None else recorder.recording
        self._not_cleared = not_cleared(boot, image, target.read_memory)
        registers = boot.snapshot.registers
        own_log = qemu is not None and option_names(qemu.command) & {"d", "D"}
        self.wait = Wait(
            target,
            surroundings(boot, image, target.read_memory, self.names, judged=False),  # the rest is asked for when it is dead
            code=self.names.code,
            status=lambda: None if qemu is None else qemu.exit_status(),
            serial=self._serial,
            ended=lambda: None if self._qmp is None else self._qmp.why_ended(),
            awaits=lambda: self._qmp is not None and has_interrupts_on(self._qmp.registers()),
            finder=Finder(self.names.found(MILESTONES), {name: registers[name] for name in registers}),
            count=count,
            blind=bool(own_log) or boot.snapshot.vmm.kvm or not target.capabilities.monitor,
            progress=progress,
            recorder=recorder,
            panics=panics(self.names) if recorder is not None else (),
        )

    @property
    def milestones(self) -> tuple[Milestone, ...]:
        """The steps of the boot in the trace of its first instructions."""
        return tuple(self.wait.milestones)

    def goal(self, text: str) -> Goal:
        """What a user means by a symbol, 0xADDRESS, or a mode's name. Raises BadInput, and TargetError where no mode is shown."""
        goal = goal_of(text, self.names)
        if goal.modes and not self._target.capabilities.monitor:
            raise TargetError(f"{self._target.name} does not show the CPU's mode", "wait for a symbol or an address")
        return goal

    def until(self, goal: Goal, seconds: float) -> Missed | None:
        """None when the goal was reached, else why not. The machine is stopped afterwards. Raises TargetError."""
        with ExitStack() as stack:
            if self._qemu is not None:
                try:
                    self._qmp = stack.enter_context(self._qemu.qmp())
                except TargetError:
                    self._qmp = None  # another client is connected: its events are missed
            death = self.wait.until(goal, seconds)
        self._qmp = None
        if death is None:
            return None
        around = with_log_buffer(death, self._around(tuple(self._serial())))
        death, _ = completed(death, around, self._recording, self._target.read_memory)
        told = telling(around.serial, around)
        return Missed(death, explain(death, around, instruction_text), self._place(death), told)

    def _around(self, serial: tuple[SafeText, ...] = ()) -> Surroundings:
        command = () if self._qemu is None else tuple(self._qemu.command)
        around = surroundings(
            self._boot, self._image, self._target.read_memory, self.names, serial, target=self._target, command=command
        )
        return replace(around, not_cleared=self._not_cleared)

    def _serial(self) -> Sequence[SafeText]:
        return () if self._qemu is None else self._qemu.serial_tail(_SERIAL)

    def here(self) -> str:
        """The CPU's place, by symbol and mode."""
        return self._words(self.wait.here())

    def _place(self, death: Death) -> str:
        return self._words(self.wait.last if death.pc is None else (death.pc, death.mode))

    def _words(self, seen: tuple[int, Mode | None] | None) -> str:
        if seen is None:
            return ""
        pc, mode = seen
        name = self.names(pc)
        return f"{pc:#x}{f' ({name})' if name else ''}{f' in {mode.words}' if mode else ''}"


def opened_waiter(stack: ExitStack, target: Target, boot: BootState, image: KernelImage | None, qemu: QemuProcess | None) -> Waiter:
    """A waiter with the flight recorder, where the QEMU has one; its files are closed with `stack`."""
    recorder = stack.enter_context(open_recorder(qemu.recording)) if qemu is not None and qemu.recorded else None
    return Waiter(target, boot, image, qemu, recorder=recorder)
