"""A kernel in a QEMU with the flight recorder, from its reset on: recorded to a goal, or stopped before an exact instruction."""

from __future__ import annotations

import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

from pvhdbg.driver.options import time_limit
from pvhdbg.driver.vmm_end import by_whom
from pvhdbg.errors import BadInput, EntryNotReached
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.subject import started
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.targets.run import Progress, Ran, RunEnd, run_until, turns
from pvhdbg.targets.target import Leave, StopKind
from pvhdbg.tracing.engines.engine import Bounds, TraceEnd, end_at
from pvhdbg.tracing.engines.recorded import Silence, halted_for_good
from pvhdbg.tracing.engines.step import StepEngine
from pvhdbg.tracing.event import EndReason
from pvhdbg.tracing.recorder.file import open_recording
from pvhdbg.tracing.recorder.library import library
from pvhdbg.tracing.recording import NEVER, Mark, Recording
from pvhdbg.vmm.options import RecorderOptions
from pvhdbg.vmm.qemu import QemuProcess

_TURN = 0.02  # seconds between two looks
_TELL_EVERY = 1.0  # seconds
FIRST_STOP = 1000  # the recorder stops at no instruction before this one: those are stepped to


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
        """How many instructions have begun since the entry: those of the last block are all done where a machine stands still."""
        last = self.recording.last(0, 1)
        return max(last[0].number + last[0].block.instructions, 0) if last else 0

    @property
    def marked(self) -> Mark | None:
        """The mark that was reached."""
        return next((mark for mark in self.recording.marks if mark.first != NEVER), None)

    def run(self, seconds: float) -> TraceEnd:
        """Let it run to a mark, or a few milliseconds further; to its end; or for `seconds`. Raises TargetError.

        A breakpoint would stop it there exactly, but QEMU translates code on a breakpoint's page otherwise, and interrupts come at
        other instructions then.
        """
        deadline = time.monotonic() + seconds
        silence = Silence(self.recording)
        end = None
        while end is None:
            end = self._end(self._run(max(deadline - time.monotonic(), 0.001), silence), silence)
        return by_whom(end, self.qemu)

    def _end(self, ran: Ran, silence: Silence) -> TraceEnd | None:
        """How the run ended; None for a guest that only waits for an interrupt."""
        if ran.end is RunEnd.ASKED and self.marked is None:
            silence.is_no_end()
            return halted_for_good(self.target)
        if ran.end is RunEnd.ASKED:
            return TraceEnd(EndReason.ADDRESS, ran.stop, None if self.marked is None else self.marked.pc)
        pc = None if ran.stop.kind is StopKind.EXITED else self.target.read_registers()["rip"]
        if ran.end is RunEnd.TIME:
            return TraceEnd(EndReason.TIME, ran.stop, pc)
        return end_at(ran.stop, pc) or TraceEnd(EndReason.STOPPED, ran.stop, pc)

    def _run(self, seconds: float, silence: Silence) -> Ran:
        running = turns(self.target, seconds, turn=_TURN, may_vanish=True)
        told = time.monotonic()
        with closing(running):
            next(running)
            while True:
                if time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    self.progress(f"recording: {self.recording.begun():,} instructions since the entry")
                try:
                    running.send(self.marked is not None or silence.lasts())
                except StopIteration as end:
                    ran: Ran = end.value
                    return ran


@contextmanager
def recorded_machine(
    options: SubjectOptions,
    told: Callable[[RecorderOptions, Names], RecorderOptions],
    progress: Progress,
    *,
    deterministic: bool,
) -> Iterator[RecordedMachine]:
    """A machine before its first instruction; `told` completes what the recorder is told. It ends with the context.

    Raises NoRecorder without one, BadInput for a machine that cannot be recorded (KVM) or whose clock cannot be deterministic.
    """
    if options.launch.accel in ("kvm", "auto"):
        raise BadInput("a QEMU plugin cannot observe code that KVM executes", "leave out --accel")
    with ExitStack() as stack:
        progress("reading the kernel")
        image = stack.enter_context(open_kernel(options.subject))
        entry = image.kernel().entry
        if entry is None:
            raise image.not_bootable()
        recorder = told(RecorderOptions(library(progress), entry), Names(image))
        qemu = stack.enter_context(started(options, image, progress, recorder, deterministic=deterministic))
        if deterministic and (options.launch.cpus or 1) > 1 and re.match(r"[1-7]\.", qemu.version):
            raise BadInput(
                f"QEMU {qemu.version} does not run several CPUs by a deterministic clock: they never get on",
                "use --cpus 1, or QEMU 8.0 or newer",
            )
        target = RemoteTarget.connect(StubAddress(path=qemu.gdb_socket), timeout=options.way.seconds(), progress=progress)
        stack.callback(target.close, Leave.KILLED)
        recording = stack.enter_context(open_recording(qemu.recording))
        yield RecordedMachine(target, qemu, image, recording, entry, progress)


@contextmanager
def stopped_at(
    options: SubjectOptions, number: int, progress: Progress, seconds: float | None, watch: tuple[int, int] | None = None
) -> Iterator[RecordedMachine]:
    """A machine that stands before instruction `number`, by the deterministic clock. `watch` notes the stores to an address on the way.

    Raises EntryNotReached where the guest ends before.
    """
    near = number < FIRST_STOP
    limit = time_limit(seconds)

    def told(plain: RecorderOptions, _names: Names) -> RecorderOptions:
        return replace(plain, exact=True, stop=None if near else number, watch=watch)

    with recorded_machine(options, told, progress, deterministic=True) as machine:
        if near:
            run_until(machine.target, [machine.entry], options.way.seconds(), progress=progress)
            engine = StepEngine(machine.target)
            for _ in engine.batches(Bounds(count=number, seconds=limit)) if number else ():
                pass
            reached = number == 0 or engine.end.why is EndReason.COUNT
            words = engine.end.words
        else:
            end = machine.run(limit)
            reached, words = machine.begun == number, end.words
        if not reached:
            raise EntryNotReached(
                f"instruction {number:,} was not reached: {words}, after {machine.begun:,} instructions",
                "give a smaller number, or --for",
            )
        yield machine


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
