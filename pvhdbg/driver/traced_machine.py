"""The tracer's machine: a subject's at its entry, still under control, or a live session's in its current state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from pvhdbg.decode.cpu_mode import paging_on
from pvhdbg.decode.paging import translate
from pvhdbg.decode.qemu_monitor import is_shut_down
from pvhdbg.decode.text import SafeText
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.lease import interruptible
from pvhdbg.machine.names import Names
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.recorder import keeping_clock, recorder_for, watching
from pvhdbg.machine.subject import open_subject
from pvhdbg.machine.subject_kind import subject_kind
from pvhdbg.model import Unavailable
from pvhdbg.record import dataclass, field
from pvhdbg.targets.run import Progress
from pvhdbg.targets.target import Stoppable, Target
from pvhdbg.vmm.options import option_names

if TYPE_CHECKING:
    # Imported while QEMU starts, or where a session is used.
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.tracing.engines.registers import Recorder
    from pvhdbg.tracing.recording import Recording
    from pvhdbg.vmm.options import RecorderOptions
    from pvhdbg.vmm.qemu import QemuProcess

T = TypeVar("T")
KASLR_MOVED = SafeText(
    "the kernel is not at the addresses of its file (KASLR), so symbols do not match: give addresses, or boot with nokaslr"
)
SHUT_DOWN = "the guest triple-faulted or shut down"


@dataclass
class TracedMachine:
    """A machine at its entry, or at a session's current stop (`live`). `qemu` is None for a machine that was not started here."""

    target: Target
    boot: BootState
    names: Names
    image: KernelImage | None = None
    qemu: QemuProcess | None = None
    warnings: list[SafeText] = field(default_factory=list)
    file: KernelFile | None = None
    progress: Progress = lambda _: None
    live: bool = False
    interruptible: Callable[[Stoppable], AbstractContextManager[None]] = interruptible
    recorder: Recorder | None = None  # of a QEMU that was started with the flight recorder
    ended: str | None = None  # how it ended, when it cannot run on

    @property
    def recording(self) -> Recording | None:
        """What the flight recorder wrote, where there is one."""
        return None if self.recorder is None else self.recorder.recording

    @property
    def behind(self) -> bool:
        """Whether it is past its entry."""
        return not self.boot.snapshot.entry.is_entry

    @property
    def boot_entry(self) -> int | None:
        """The address at which its boot begins, if that is known."""
        snapshot = self.boot.snapshot
        return snapshot.entry.address if snapshot.entry.is_entry else None if snapshot.kernel is None else snapshot.kernel.entry


@contextmanager
def at_entry(
    options: SubjectOptions,
    progress: Progress = lambda _: None,
    *,
    traced: bool = False,
    marks: Sequence[str] | None = None,
    patience: float | None = None,
    watched: bool = False,
    exact: bool = False,
    windows: bool = False,
    debugcon: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[TracedMachine]:
    """Bring the subject, a kernel file or a gdbstub, to its entry; leave it as its options say. Raises PvhdbgError.

    `traced` says that an engine follows, which checks by itself whether QEMU's log was left on. With `marks`, a QEMU that is
    started gets the flight recorder, if available, which notes when these symbols and addresses are first executed. `patience`: see
    `attach_stub`. `watched` is for a watch for the guest's death or a wait: with the flight recorder, whose count is `exact` or a
    sum; `windows` is for its registers of each instruction. `debugcon` and `meanwhile`: see `boot_kernel`.
    """
    refuse_what_does_not_run(options)
    with ExitStack() as stack:
        warnings: list[SafeText] = []

        def recorded(image: KernelImage) -> RecorderOptions | None:
            if watched:
                return watching(options, warnings, progress, exact=exact)(image)
            if windows:
                return recorder_for(options, image, (), warnings, progress, exact=False)
            if marks is not None:
                return recorder_for(options, image, marks, warnings, progress)
            return keeping_clock(options, warnings, progress)(image)

        opened = stack.enter_context(
            open_subject(
                options,
                progress,
                traced=traced,
                recorded=recorded,
                patience=patience,
                onward=True,
                debugcon=debugcon,
                meanwhile=meanwhile,
            )
        )
        image = opened.image or found_image(opened.boot, stack)
        machine = TracedMachine(
            opened.target, opened.boot, Names(image), image, opened.qemu, opened.warnings, opened.file, progress
        )
        machine.warnings += warnings
        observes = watched or windows or marks is not None
        if observes and opened.qemu is not None and opened.qemu.recorded:
            from pvhdbg.tracing.engines.registers import open_recorder

            machine.recorder = stack.enter_context(open_recorder(opened.qemu.recording))
        if is_kaslr_moved(machine):
            machine.warnings.append(KASLR_MOVED)
        yield machine


def refuse_what_does_not_run(options: SubjectOptions) -> None:
    """Raises BadInput for a recording, and for a QEMU with log options of the user's own."""
    kind = subject_kind(options.subject)
    if not kind.runs:
        raise BadInput(f"{options.subject} is a {kind.value}, which does not run", "give the kernel, or a gdbstub")
    if option_names(options.launch.extra) & {"d", "D"}:
        raise BadInput("QEMU's options -d and -D cannot be passed on", "leave them out: the tracer switches QEMU's log by itself")


def is_kaslr_moved(machine: TracedMachine) -> bool:
    """Whether a kernel that runs at a virtual address is not mapped at the file's addresses. An entry is at a physical one."""
    registers, loads = machine.boot.snapshot.registers, () if machine.image is None else machine.image.elf.loads
    high = next((load.p_vaddr for load in loads if load.p_vaddr != load.p_paddr), None)
    pc = registers.get("rip")
    if high is None or pc is None or pc < min(high, 1 << 63) or not paging_on(registers):
        return False
    try:
        return translate(registers, high, machine.target.read_memory).physical is None
    except (Unavailable, TargetError):
        return False


def found_image(boot: BootState, stack: ExitStack) -> KernelImage | None:
    """The file that the monitor named, where it was compared with the guest's memory."""
    kernel = boot.snapshot.kernel
    if kernel is None or kernel.path is None or kernel.source != "ELF file":
        return None
    return stack.enter_context(open_kernel(kernel.path))


def has_shut_down(target: Target) -> bool:
    """Whether the guest has shut down and was kept: it never runs again."""
    return target.capabilities.monitor and is_shut_down(target.monitor("info status"))
