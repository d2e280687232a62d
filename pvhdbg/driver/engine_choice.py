"""Choose the engine that traces a machine, and the milestones that it looks for."""

from __future__ import annotations

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.driver.options import EngineName, TraceOptions
from pvhdbg.driver.resets import through_resets
from pvhdbg.driver.serial_milestones import PREFIX, pattern_of
from pvhdbg.driver.traced_machine import TracedMachine
from pvhdbg.errors import BadInput, TargetError, TargetLost
from pvhdbg.machine.names import Names, addresses_of
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.tracing.cpu_text import decode, of_cpu
from pvhdbg.tracing.engines.breakpoints import MOST, BreakpointEngine
from pvhdbg.tracing.engines.engine import Engine, is_halted
from pvhdbg.tracing.engines.log import LogEngine
from pvhdbg.tracing.engines.log_switch import LEFT_ON, LogSwitch
from pvhdbg.tracing.engines.recorded import RecorderEngine
from pvhdbg.tracing.engines.registers import RegisterEngine
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.mode_words import MODES

FEW = 2000  # instructions that single-stepping does in half a second
KVM_SLOTS = 4  # hardware breakpoints: the debug registers of the CPU


def choose_engine(options: TraceOptions, machine: TracedMachine, *, states: bool, count: int | None = None) -> Engine:
    """The requested engine; `auto` takes the log where QEMU has one for this machine.

    In a session it steps a small `count` of instructions: with the log the guest runs on a little, but a session must continue
    exactly where the trace ends.
    """
    wanted = options.engine
    if wanted == "auto" and machine.live and count is not None and count <= FEW and not options.vcpu and _steps(machine):
        wanted = "step"
    if wanted == "auto":
        recorder = _by_recorder(options, machine)
        if recorder is not None:
            return recorder
        wanted = _without_recorder(options, machine)
    if (options.vcpu or machine.target.cpu) and wanted == "breakpoints":
        raise BadInput(
            "--engine breakpoints stops every CPU, and follows the first", "leave out --vcpu, or trace with --engine log or step"
        )
    cpu = options.vcpu if options.vcpu is not None else machine.target.cpu or 0
    if cpu and machine.target.capabilities.monitor and not of_cpu(machine.target.monitor("info registers -a"), cpu):
        raise BadInput(f"--vcpu {cpu}: the machine has no such CPU", "0 is the first; --cpus says how many a machine gets")
    if wanted == "breakpoints":
        return _by_breakpoints(options, machine)
    if wanted == "first":
        raise BadInput("--engine first shows functions, not instructions", "use --what calls")
    if wanted == "step":
        return through_resets(options, machine, wanted, lambda base: StepEngine(machine.target, base=base, cpu=cpu))
    if machine.live and machine.target.capabilities.monitor and machine.target.monitor("info cpus").count("CPU #") > 1:
        machine.warnings.append(
            safe(f"this is CPU {cpu} alone: its log is written while the machine runs, and the other CPUs run, too")
        )
    peek = machine.names.code
    return through_resets(
        options, machine, wanted, lambda base: LogEngine(machine.target, states=states, cpu=cpu, base=base, peek=peek)
    )


def _by_recorder(options: TraceOptions, machine: TracedMachine) -> Engine | None:
    """An engine over the flight recorder, where this machine has it since its entry and it shows what is asked for."""
    if machine.live:
        return None
    if machine.recorder is not None and options.what != "milestones":
        recorder = machine.recorder
        return through_resets(options, machine, "recorder", lambda base: RegisterEngine(machine.target, recorder, base))
    if machine.recording is not None:
        state = _state(machine)
        recorded, code = machine.recording, machine.names.code
        return through_resets(options, machine, "recorder", lambda _: RecorderEngine(machine.target, recorded, state, code))
    return None


def _without_recorder(options: TraceOptions, machine: TracedMachine) -> EngineName:
    """The log where QEMU has one for this machine; else the next best engine, with a warning that says why."""
    reason = _no_log(machine)
    if reason is None:
        return "log"
    wanted: EngineName = "breakpoints" if options.what == "milestones" and machine.target.capabilities.monitor else "step"
    machine.warnings.append(safe(f"engine {wanted}, because {reason}"))
    return wanted


def _by_breakpoints(options: TraceOptions, machine: TracedMachine) -> Engine:
    machine.warnings.append(SafeText("the engine breakpoints sees only the instructions that it stops at: the numbers count stops"))
    kvm = machine.boot.snapshot.vmm.kvm
    places, slots, entry = _by_address_sets(options, machine.names), KVM_SLOTS if kvm else MOST, machine.boot_entry

    def engine(base: int) -> Engine:
        return BreakpointEngine(machine.target, places, slots=slots, base=base, entry=entry)

    return through_resets(options, machine, "breakpoints", engine, few=kvm)


def _state(machine: TracedMachine) -> dict[str, int]:
    """All registers of a machine with a monitor, hidden ones too."""
    text = machine.target.monitor("info registers").replace("\r", "")
    return {**decode(text.encode("latin-1", "replace")), **machine.target.read_registers().values}


def _steps(machine: TracedMachine) -> bool:
    """Whether a few instructions can be stepped, or the CPU has halted for good, which a step tells without running the machine."""
    target = machine.target
    if is_halted(target) and interrupts_on(target.read_registers()) is not False:
        return False
    return target.capabilities.packets


def _no_log(machine: TracedMachine) -> str | None:
    """Why QEMU's log is not available for this machine; None where it is."""
    if not machine.target.capabilities.monitor:
        return "the stub has no monitor, which switches the log on"
    if machine.boot.snapshot.vmm.kvm:
        return "QEMU does not log what KVM executes"
    if machine.qemu is not None:
        return None  # it runs here
    attempt = _Attempt()
    try:
        with machine.interruptible(attempt), LogSwitch(machine.target, "cpu_reset", single=True) as switch:
            machine.warnings += [LEFT_ON] if switch.left_on else []  # the engine finds it switched off
    except TargetLost:
        raise
    except TargetError as error:
        return f"QEMU's log is not available: {error.what}"
    if attempt.interrupted:
        raise KeyboardInterrupt
    return None


class _Attempt:
    """Do something short that Ctrl-C must not interrupt."""

    interrupted = False

    def stop(self) -> None:
        self.interrupted = True


def _by_address_sets(options: TraceOptions, names: Names) -> list[tuple[int, ...]]:
    """The milestones whose addresses are known, in the order of most boots, each with all its addresses."""
    by_name: dict[str, list[int]] = {}
    for address, name in {**names.found(MILESTONES), **own_milestones(options, names)}.items():
        by_name.setdefault(name, []).append(address)
    first = [name for name in MILESTONES if name in by_name]
    return [tuple(by_name[name]) for name in [*first, *(name for name in by_name if name not in first)]]


def own_milestones(options: TraceOptions, names: Names) -> dict[int, str]:
    """The user's own milestones by address. Raises BadInput for one that is neither a number nor a symbol."""
    found: dict[int, str] = {}
    for text in options.milestone:
        if pattern_of(text, "--milestone") is None:
            found.update(dict.fromkeys(addresses_of(text, names, "--milestone"), text))
    return found


def is_window(options: TraceOptions) -> bool:
    """Whether the recorder can show the instructions: of the first CPU, and without resets."""
    other = options.vcpu or options.on_reset != "stop"
    return options.what in ("state", "pc") and options.engine == "auto" and not other


def marks_of(options: TraceOptions) -> tuple[str, ...] | None:
    """The user's own milestones in code, where the recorder can do the trace: for milestones only, of the first CPU, to an address
    or a line of text, without resets. None for another trace, and for a saved one: that holds faults with their exact numbers.
    """
    goal = options.until or ""
    counts = goal.isdigit() or goal.startswith(PREFIX) or goal in MODES
    other = options.start or options.filter or options.output or options.tail or options.vcpu or options.on_reset != "stop"
    if options.what != "milestones" or options.engine != "auto" or counts or other:
        return None
    return tuple(text for text in options.milestone if not text.startswith(PREFIX))
