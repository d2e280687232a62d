"""Wait for a guest's death, and explain it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.disassembly import available, instruction_text
from pvhdbg.driver.result import NO_DISASSEMBLER
from pvhdbg.driver.traced_machine import KASLR_MOVED, TracedMachine, has_shut_down
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.machine.evidence import completed, with_log_buffer
from pvhdbg.machine.names import panics
from pvhdbg.machine.session import Session
from pvhdbg.machine.surroundings import moved, not_cleared, surroundings
from pvhdbg.machine.trail import last_functions
from pvhdbg.targets.target import Target, unwinding
from pvhdbg.tracing.addresses import Surroundings
from pvhdbg.tracing.calls import Call, LastFunctions, chain, with_lines
from pvhdbg.tracing.cpu_text import has_interrupts_on
from pvhdbg.tracing.death import Death, DeathKind, panicked
from pvhdbg.tracing.engines.death_watch import DeathWatch
from pvhdbg.tracing.explain import Explanation, explain
from pvhdbg.tracing.last_words import Told, telling
from pvhdbg.tracing.unwinding import MOST
from pvhdbg.vmm.qemu import QemuProcess
from pvhdbg.vmm.qmp import Qmp

_SERIAL = 1000  # lines of the serial port, and of the log buffer, that are searched
_KVM = "KVM shows no faults, and its CPU may keep only a part of its last state; the same boot under TCG shows them: --compare-tcg"
_DEBUGCON = "the machine was given port 0xe9 (-debugcon), to read what the guest writes there"
_WRAP = (1 << 64) - 1
_FINAL = {  # deaths after which the machine cannot run on
    DeathKind.TRIPLE_FAULT: "the guest triple-faulted",
    DeathKind.SHUTDOWN: "the guest shut down",
    DeathKind.HALTED: "the CPU halted with interrupts off",
    DeathKind.EXITED: "the machine is gone: the guest ended it",
}


@dataclass(frozen=True)
class Diagnosis:
    """How a guest died and why. `names` gives symbols for its addresses; `serial` are the last lines of the serial port and of port 0xe9.

    `told` are the lines that say why, of those and of Linux' log buffer. `calls` are the calls that led there, the innermost first, and
    `ran` the last functions that each CPU ran, where the flight recorder was there.
    """

    death: Death
    explanation: Explanation
    names: Callable[[int], str | None]
    serial: tuple[SafeText, ...] = ()
    warnings: tuple[SafeText, ...] = ()
    told: tuple[Told, ...] = ()
    calls: tuple[Call, ...] = ()
    ran: tuple[LastFunctions, ...] = ()

    @property
    def died(self) -> bool:
        """Whether the guest died, and not by a bug of the VMM."""
        proven = self.death.kind is DeathKind.LEFT and self.explanation.cause != DeathKind.LEFT.value
        return self.death.died or (proven and self.death.vmm_bug is None)

    def __repr__(self) -> str:
        return f"Diagnosis({self.death.kind.value}: {self.explanation.verdict!r})"


def diagnosed(machine: TracedMachine, limit: float, vcpu: int | None = None) -> Diagnosis:
    """Run the machine to its guest's death, for `limit` seconds at most. `vcpu`: see `DeathWatch`. Raises TargetError."""
    around = surroundings(machine.boot, machine.image, machine.target.read_memory, machine.names)
    if vcpu is not None and f"CPU #{vcpu}:" not in machine.target.monitor("info cpus"):
        raise BadInput(f"the machine has no CPU {vcpu}", "0 is the first; --cpus says how many there are")
    qemu = machine.qemu
    command = () if qemu is None else tuple(qemu.command)
    unclear = not_cleared(machine.boot, machine.image, machine.target.read_memory)
    ran: list[LastFunctions] = []
    around, bias = _placed(machine, around)
    qmp: list[Qmp] = []
    watch = DeathWatch(
        machine.target,
        around,
        code=machine.names.code,
        status=lambda: None if qemu is None else qemu.exit_status(),
        serial=lambda: () if qemu is None else qemu.serial_tail(_SERIAL),
        progress=machine.progress,
        panics=[one + bias & _WRAP for one in panics(machine.names)],
        panicking=lambda: ran.extend(_ran(machine)),
        blind=machine.boot.snapshot.vmm.accelerator == "kvm",
        vcpu=vcpu,
        vmm_end=lambda: qmp[0].why_ended() if qmp else None,
        awaits=lambda: bool(qmp) and has_interrupts_on(qmp[0].registers()),
        recorder=machine.recorder,
        halts=machine.recorder is not None and not machine.live,
    )
    with _control(qemu) as control, machine.interruptible(watch):
        qmp += [] if control is None else [control]
        death = watch.post_mortem() if has_shut_down(machine.target) else watch.until_dead(limit)
    serial = () if qemu is None else (*qemu.serial_tail(_SERIAL), *qemu.debugcon_tail(_SERIAL))
    read = machine.target.read_memory
    around = surroundings(machine.boot, machine.image, read, machine.names, serial, target=machine.target, command=command)
    around, _ = _placed(machine, around)
    around = with_log_buffer(death, replace(around, not_cleared=unclear))
    if death.kind is DeathKind.ALIVE and machine.names.is_linux and panicked(around.serial) is not None:
        death = replace(death, kind=DeathKind.PANIC, loop=(), departure=None)
    ran = ran or _ran(machine)
    death, said = completed(death, around, machine.recording, read)
    found = explain(death, around, instruction_text)
    names = {pc: around.name(pc) for pc in (*(event.pc for event in death.path), death.pc) if pc is not None}
    machine.ended = _FINAL.get(death.ended or death.kind)
    calls = said or chain(death.state, around, _frames(machine.target, death))
    warnings = _warnings(machine, death, watch.warnings, named=around.name != machine.names)
    return Diagnosis(death, found, names.get, serial, warnings, telling(around.serial, around),
                     with_lines(calls, around.line), tuple(ran))  # fmt: skip


def _warnings(machine: TracedMachine, death: Death, watched: Sequence[SafeText], *, named: bool) -> tuple[SafeText, ...]:
    """What limits the diagnosis. `named`: the kernel was found where KASLR moved it, so names are right after all."""
    found = [one for one in machine.warnings if one != KASLR_MOVED or not named]
    found += watched
    if death.path and not available():
        found.append(NO_DISASSEMBLER)
    if machine.boot.snapshot.vmm.accelerator == "kvm":
        found.append(safe(_KVM))
    if machine.qemu is not None and machine.qemu.debugcon_log is not None:
        found.append(safe(_DEBUGCON))
    return tuple(found)


@contextmanager
def _control(qemu: QemuProcess | None) -> Iterator[Qmp | None]:
    """QEMU's control socket, where QEMU was started here and no other client is connected: its events say how the guest ended."""
    try:
        qmp = None if qemu is None else qemu.qmp()
    except TargetError:
        qmp = None
    try:
        yield qmp
    finally:
        if qmp is not None:
            qmp.close()


def _placed(machine: TracedMachine, around: Surroundings) -> tuple[Surroundings, int]:
    """The surroundings of a kernel that KASLR moved, and how far it moved its virtual addresses; unchanged where it did not."""
    if machine.image is None or KASLR_MOVED not in machine.warnings:
        return around, 0
    session = Session(machine.target, machine.image)
    session.adopt(machine.boot)
    try:
        placement = session.placement
    except TargetError:
        return around, 0  # the VMM is gone
    if not placement.found:
        return around, 0
    return moved(around, placement), placement.virtual_bias


def _frames(target: Target, death: Death) -> tuple[int, ...]:
    """A debugger's own frames, where there is one, and the machine still stands as it died."""
    debugger = unwinding(target)
    try:
        now = {} if debugger is None else target.read_registers().values
        if debugger is None or any(now.get(name) != death.state.get(name) for name in ("rip", "rsp")):
            return ()
        return debugger.frames(MOST)
    except TargetError:
        return ()


def _ran(machine: TracedMachine) -> list[LastFunctions]:
    """What the recorder holds of each CPU's last code, where there is one."""
    return [] if machine.recording is None or not machine.recording.entered else last_functions(machine.recording, machine.names)
