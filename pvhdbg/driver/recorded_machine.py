"""A kernel in a QEMU with the flight recorder, from its reset on: recorded to a goal, or stopped before an exact instruction."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace

from pvhdbg.decode.cpu_mode import interrupts_on
from pvhdbg.decode.text import printable
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.vmm_end import by_whom
from pvhdbg.errors import BadInput, EntryNotReached, TargetError
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.own_qemu import started
from pvhdbg.machine.recorder import counts_by_calls
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import Progress, Ran, RunEnd, turns
from pvhdbg.targets.target import Leave, StopKind
from pvhdbg.tracing.cpu_text import decode
from pvhdbg.tracing.engines.engine import TraceEnd, end_at
from pvhdbg.tracing.engines.recorded import Silence, halted_for_good
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.recorded_events import mode_of_text
from pvhdbg.tracing.recorded_numbers import NEVER
from pvhdbg.tracing.recorder.file import open_recording
from pvhdbg.tracing.recorder.library import library
from pvhdbg.tracing.recording import Recording
from pvhdbg.tracing.recording_layout import Mark
from pvhdbg.vmm.options import RecorderOptions
from pvhdbg.vmm.qemu import QemuProcess

_TURN = 0.02  # seconds between two looks
_TELL_EVERY = 1.0  # seconds
_KVM = "a QEMU plugin cannot observe code that KVM executes"
_QUIT = 5.0  # seconds that QEMU may take to end


@contextmanager
def recording_of(qemu: QemuProcess | None) -> Iterator[Recording | None]:
    """What a QEMU with the recorder writes, open for the context; None for a QEMU without one."""
    if qemu is None or not qemu.recorded:
        yield None
        return
    with open_recording(qemu.recording) as recording:
        yield recording


@dataclass
class RecordedMachine:
    """A machine that stands still, with what was recorded of it so far."""

    target: RemoteTarget
    qemu: QemuProcess
    image: KernelImage
    recording: Recording
    entry: int
    progress: Progress

    @property
    def begun(self) -> int:
        """How many instructions have begun since the entry: those of the last block are all done, unless the machine stopped at a mark."""
        mark = self.marked
        return mark.first if mark is not None and mark.halted else self.recording.begun_at_a_stop

    @property
    def marked(self) -> Mark | None:
        """The mark that was reached; of several the first."""
        reached = [mark for mark in self.recording.marks if mark.first != NEVER]
        return min(reached, key=lambda mark: mark.first, default=None)

    def run(self, seconds: float, enough: Callable[[], bool] | None = None) -> TraceEnd:
        """Let it run to a mark, or until `enough`, or a few milliseconds further; to its end; or for `seconds`. Raises TargetError."""
        deadline = time.monotonic() + seconds
        silence = Silence(self.recording)
        done = enough or (lambda: self.marked is not None)
        end = None
        while end is None:
            end = self._end(self._run(max(deadline - time.monotonic(), 0.001), silence, done), done)
        return by_whom(end, self.qemu)

    def _end(self, ran: Ran, done: Callable[[], bool]) -> TraceEnd | None:
        """How the run ended; None for a guest that only waits for an interrupt."""
        mark = self.marked
        if mark is not None and mark.halted:
            return TraceEnd(EndReason.ADDRESS, ran.stop, mark.pc)
        if ran.end is RunEnd.ASKED and not done():
            return halted_for_good(self.target)
        if ran.end is RunEnd.ASKED:
            return TraceEnd(EndReason.INTERRUPTED, ran.stop) if mark is None else TraceEnd(EndReason.ADDRESS, ran.stop, mark.pc)
        pc = None if ran.stop.kind is StopKind.EXITED else self.target.read_registers()["rip"]
        if ran.end is RunEnd.TIME:
            return TraceEnd(EndReason.TIME, ran.stop, pc)
        return end_at(ran.stop, pc) or TraceEnd(EndReason.STOPPED, ran.stop, pc)

    def _run(self, seconds: float, silence: Silence, done: Callable[[], bool]) -> Ran:
        running = turns(self.target, seconds, turn=_TURN, may_vanish=True)
        began = told = time.monotonic()
        with closing(running):
            next(running)
            while True:
                if time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    self.progress(self._getting_on(told - began))
                try:
                    running.send(done() or self._seems_halted(silence))
                except StopIteration as end:
                    ran: Ran = end.value
                    return ran

    def _seems_halted(self, silence: Silence) -> bool:
        """Whether QEMU shows CPU 0 in `hlt` with interrupts off, after a silence.

        It is asked by its control socket, which leaves the guest running: a QEMU that gets no time on a busy host is silent, too.
        """
        if not silence.lasts():
            return False
        silence.is_no_end()
        text = ""
        with suppress(TargetError), self.qemu.qmp() as control:
            text = control.registers()
        state = decode(text.encode("latin-1", "replace"))
        return "HLT=1" in text and interrupts_on(state) is False

    def _getting_on(self, seconds: float) -> str:
        """Where the guest is: instructions, rate, function and mode, as far as they are known."""
        begun = self.recording.begun(self.recording.header.entry_cpu)
        last = self.recording.last(self.recording.header.entry_cpu, 1)
        near = self.image.symbols().nearest(last[0].block.physical) if last and last[0].block.physical is not None else None
        states = self.recording.states()
        parts = [f"recording: {begun:,} instructions, {begun / max(seconds, 0.001):,.0f} a second"]
        parts += [f"in {printable(near[0])}"] if near is not None else []
        parts += [mode_of_text(states[-1].text).words] if states else []
        return ", ".join(parts)

    def last_begun(self) -> int | None:
        """The number of the last instruction that began, of a guest that has ended; QEMU ends. None where QEMU does not say.

        The recorder notes the exact count when QEMU ends by itself.
        """
        if self.qemu.poll() is None:
            with suppress(TargetError), self.qemu.qmp() as control:
                control.execute("quit")
            self.qemu.wait(_QUIT)
        first = self.recording.header.entry_cpu
        counts = [state.number for state in self.recording.states() if state.pc is None and state.cpu == first]
        return counts[-1] - 1 if counts and counts[-1] > 0 else None


@contextmanager
def recorded_machine(
    options: SubjectOptions,
    told: Callable[[RecorderOptions, Names], RecorderOptions],
    progress: Progress,
    *,
    image: KernelImage | None = None,
    tied: bool = True,
) -> Iterator[RecordedMachine]:
    """A machine before its first instruction; `told` completes what the recorder is told. It ends with the context.

    `image` is the kernel, where it is open already; `tied`: see `boot_kernel`. Raises NoRecorder without a recorder, BadInput for a
    machine that cannot be recorded (KVM) or whose clock cannot be deterministic.
    """
    if options.launch.accel in ("kvm", "auto"):
        raise BadInput(_KVM, "leave out --accel")
    with ExitStack() as stack:
        if image is None:
            progress("reading the kernel")
            image = stack.enter_context(open_kernel(options.subject))
        entry = image.kernel().entry
        if entry is None:
            raise image.not_bootable()
        recorder = told(RecorderOptions(library(progress), entry), Names(image))
        recorder = replace(recorder, calls=counts_by_calls(options))
        qemu = stack.enter_context(started(options, image, progress, recorder, tied=tied))
        if qemu.accelerator != "tcg":
            raise BadInput(_KVM, "leave out what selects KVM")
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket), timeout=options.way.seconds(), progress=progress)
        stack.callback(target.close, Leave.KILLED)
        if options.launch.deterministic:
            target.steps_as_it_runs()
        recording = stack.enter_context(open_recording(qemu.recording))
        yield RecordedMachine(target, qemu, image, recording, entry, progress)


@contextmanager
def stopped_at(
    options: SubjectOptions,
    number: int,
    progress: Progress,
    seconds: float | None,
    *,
    clock: bool = False,
    watch: tuple[int, int] | None = None,
    marks: tuple[int, ...] = (),
    image: KernelImage | None = None,
    tied: bool = True,
) -> Iterator[RecordedMachine]:
    """A machine that stands before instruction `number`, by the deterministic clock. With `clock`, iterations of a REP count, too.

    On the way, `watch` notes the stores to an address, and `marks` when they are executed. Raises EntryNotReached where the guest ends
    before.
    """
    limit = time_limit(seconds)

    def told(plain: RecorderOptions, _names: Names) -> RecorderOptions:
        if not number:
            return replace(plain, exact=True, code=True, halts=(plain.entry,) if plain.entry is not None else ())
        return replace(plain, exact=True, code=True, stop=number, clock=clock, watch=watch, marks=marks)

    with recorded_machine(deterministic(options), told, progress, image=image, tied=tied) as machine:
        end = machine.run(limit, lambda: False)
        if not machine.recording.entered or (machine.recording.clock if clock else machine.begun) != number:
            raise EntryNotReached(
                f"instruction {number:,} was not reached: {end.words}, after {machine.begun:,} instructions",
                "give a smaller number, or --for",
            )
        yield machine


def deterministic(options: SubjectOptions) -> SubjectOptions:
    """The same options, with the instruction counter as the clock."""
    return options._replace(launch=options.launch._replace(deterministic=True))


def names_of(image: KernelImage) -> Callable[[int], str | None]:
    """Names for physical addresses of code: "function" or "function+0x10". Made for tens of thousands of questions."""
    symbols = image.symbols()
    # A stripped Linux unpacks one name by a walk over its neighbours: all at once cost less than a hundred.
    rows = sorted(
        (symbols.to_physical(value), order, name)
        for order, (letter, name, value) in enumerate(symbols.lettered())
        if letter in "tTwW"
    )
    starts = [row[0] for row in rows]

    def by_table(physical: int) -> str | None:
        at = bisect_right(starts, physical) - 1
        if at < 0 or not any(low <= physical < high for low, high in loads):
            return None
        start = starts[at]
        name = rows[bisect_left(starts, start)][2].decode("utf-8", "surrogateescape")
        return name if physical == start else f"{name}+{physical - start:#x}"

    def by_symbols(physical: int) -> str | None:
        near = symbols.nearest(physical)
        return None if near is None else f"{near[0]}+{near[1]:#x}" if near[1] else near[0]

    loads = [(load.p_paddr, load.p_paddr + load.p_memsz) for load in image.elf.loads]
    return by_table if rows else by_symbols
