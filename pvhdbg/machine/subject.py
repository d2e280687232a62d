"""A SUBJECT of any kind (see `subject_kind`) at its entry: booted, attached to, or read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput, PluginRefused, PvhdbgError, TargetTimeout, VmmFailed
from pvhdbg.machine.capture import capture, decoded, with_command, with_tables
from pvhdbg.machine.entry_search import Plan
from pvhdbg.machine.loaded_kernel import Confirm
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.own_qemu import started
from pvhdbg.machine.session import ENDS, doubts
from pvhdbg.machine.sound_vmm import VersionAsked
from pvhdbg.machine.subject_kind import SubjectKind, refuse_options, subject_kind
from pvhdbg.model import Kernel
from pvhdbg.record import dataclass, field, replace
from pvhdbg.targets.address import StubAddress, parse_address
from pvhdbg.targets.keeper import Keeper
from pvhdbg.targets.run import Progress
from pvhdbg.targets.target import END_IT, Leave, Target

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.targets.gdb_mi import GdbTarget
    from pvhdbg.targets.remote import RemoteTarget
    from pvhdbg.vmm.options import RecorderOptions
    from pvhdbg.vmm.qemu import QemuProcess

_CLOCK_MOVES = SafeText(
    "without the flight recorder each stop of the machine moves its clock: the boot is not that of `boot` and `goto`"
)
_BUSY = 5.0  # seconds that a QEMU on a busy host may take to answer
_SERIAL_LINES = 1000  # of the guest's log, in a report


@dataclass(frozen=True)
class Observed:
    """A decoded machine, warnings about how it was obtained, its kernel file where that could be read, and
    the end of its serial log where there is one.
    """

    boot: BootState
    warnings: tuple[SafeText, ...] = ()
    file: KernelFile | None = None
    serial: tuple[SafeText, ...] = ()


@dataclass
class Opened:
    """A subject at its entry, with the target still connected. `warnings` and `serial` are complete when it is released."""

    target: Target
    boot: BootState
    image: KernelImage | None = None
    warnings: list[SafeText] = field(default_factory=list)
    file: KernelFile | None = None
    found: str | None = None  # the path of that file, where the monitor named it and the user did not
    serial: tuple[SafeText, ...] = ()
    qemu: QemuProcess | None = None  # where it was started here
    keeper: Keeper | None = None  # where it was not


Recorded = Callable[["KernelImage"], "RecorderOptions | None"]


def observe(opening: AbstractContextManager[Opened]) -> Observed:
    """Bring a subject to its entry (or read its recording), decode it, and leave it as its options say, on every way out.

    `opening` is made by one of the functions below. Raises PvhdbgError.
    """
    with opening as opened:
        pass
    return Observed(opened.boot, tuple(opened.warnings), opened.file, opened.serial)


@contextmanager
def open_subject(
    options: SubjectOptions,
    progress: Progress = lambda _: None,
    *,
    whole: bool = False,
    hashed: bool = False,
    traced: bool = False,
    recorded: Recorded | None = None,
    tied: bool = True,
    patience: float | None = None,
    onward: bool = False,
    debugcon: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Opened]:
    """The subject at its entry, or as it was recorded, until the block is left. Raises PvhdbgError.

    `whole` also reads the tables and code that the machine uses. `hashed` notes the kernel file's SHA-256. `traced` says that a
    tracer follows; `recorded` gives the options of the flight recorder in a QEMU that is started. `tied`, `onward`, `debugcon` and
    `meanwhile`: see `boot_kernel`; `patience`: see `attach_stub`.
    """
    subject = options.subject
    kind = subject_kind(subject)
    refuse_options(options, kind)
    if kind is SubjectKind.SNAPSHOT:
        yield _from_snapshot(subject, options.revision)
        return
    if kind is SubjectKind.LOG:
        opening = read_log(options, progress)
    elif kind is SubjectKind.CORE:
        opening = _read_core(options, whole)
    elif kind is SubjectKind.KERNEL:
        opening = boot_kernel(
            options, progress, whole=whole, hashed=hashed, recorded=recorded, tied=tied, onward=onward, debugcon=debugcon,
            meanwhile=meanwhile, patience=None if patience is None else max(patience, _BUSY),
        )  # fmt: skip
    else:
        opening = attach_stub(options, progress, whole=whole, hashed=hashed, traced=traced, patience=patience)
    with opening as opened:
        yield opened


@contextmanager
def read_log(options: SubjectOptions, progress: Progress = lambda _: None) -> Iterator[Opened]:
    """As `open_subject`, for a subject that must be a log of the guest `probe`; `-` is standard input."""
    from pvhdbg.machine import probe_log
    from pvhdbg.targets.recorded import RecordedTarget

    path = options.subject
    refuse_options(options, SubjectKind.LOG)
    progress(f"reading {path}")
    with ExitStack() as stack:
        image, kernel, file = None, None, None
        if options.way.kernel:
            image = stack.enter_context(open_kernel(options.way.kernel))
            kernel, file = image.kernel(), image.file().without_data()
        snapshot, warnings = probe_log.read_log(path, options.vmm, kernel)
        target = RecordedTarget(snapshot, path, "log")
        yield Opened(target, decoded(target, snapshot, options.revision), image, list(warnings), file)


def _from_snapshot(path: str, spec: str) -> Opened:
    from pvhdbg.targets.recorded import open_snapshot

    target = open_snapshot(path)
    return Opened(target, decoded(target, target.snapshot, spec))


@contextmanager
def _read_core(options: SubjectOptions, whole: bool) -> Iterator[Opened]:
    from pvhdbg.machine.core_subject import opened_machine

    way = options.way
    with ExitStack() as stack:
        image = stack.enter_context(open_kernel(way.kernel)) if way.kernel else None
        kernel = image.kernel() if image else None
        if image is not None and kernel is not None and kernel.entry is None and not way.here:
            raise image.not_bootable()
        machine = opened_machine(options.subject, _plan(options, kernel, image, whole), image)
        target, boot, warnings = stack.enter_context(machine)
        yield Opened(target, boot, image, warnings, image.file().without_data() if image else None)


# --- a kernel file ------------------------------------------------------------------------------------------------


@contextmanager
def boot_kernel(
    options: SubjectOptions,
    progress: Progress = lambda _: None,
    *,
    whole: bool = False,
    hashed: bool = False,
    recorded: Recorded | None = None,
    tied: bool = True,
    onward: bool = False,
    debugcon: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> Iterator[Opened]:
    """As `open_subject`, for a subject that must be a kernel file: it is started in a QEMU of ours, which ends with the block.

    `tied` is False for a caller that may later decide to let that QEMU live on. `onward` says that the machine runs on after its entry:
    bugs of QEMU that would look like the guest's are avoided, and `warnings` say how. `debugcon` adds port 0xe9 to the machine.
    `meanwhile` is called while the guest runs to its entry, for work that does not need it. `patience` in seconds bounds the wait for each answer of the stub.
    """
    refuse_options(options, SubjectKind.KERNEL)
    from pvhdbg.vmm.qemu import version_of

    way = options.way
    version = VersionAsked(options.launch.qemu, version_of) if onward else version_of
    with ExitStack() as stack:
        progress("reading the kernel")
        image = stack.enter_context(open_kernel(options.subject))
        file = image.file().without_data()
        warnings = [] if image.was == "ELF" else [safe(f"{options.subject} is a {image.was}; the ELF inside it is booted")]
        kernel = image.with_hash() if hashed else image.kernel()
        if kernel.entry is None and way.entry is None and not way.here:
            if way.static_only:
                raise image.not_bootable()
            image.refuse_unless_entered()
        plan = replace(_plan(options, kernel, image, whole), booted=True)
        leave = Leave(way.leave or "killed")
        recorder = None if recorded is None else recorded(image)
        start = partial(
            started,
            options,
            image,
            progress,
            tied=tied and leave is Leave.KILLED,
            notes=warnings if onward else None,
            debugcon=debugcon,
            meanwhile=_prepare,
            version=version,
        )
        try:
            qemu = stack.enter_context(start(recorder=recorder))
        except PluginRefused as error:
            warnings.append(safe(f"without the flight recorder: {error.what} ({error.todo})"))
            qemu = stack.enter_context(start())
        if recorded is not None and options.launch.deterministic and not qemu.recorded:
            warnings.append(_CLOCK_MOVES)
        if recorder is not None and qemu.recorded and kernel.entry in recorder.halts:
            plan = replace(plan, halts=True)
        try:
            stub = StubAddress(path=qemu.gdb_socket)
            target = stack.enter_context(_connected(options, stub, leave, progress, patience=patience))
            if options.launch.deterministic and qemu.recorded:
                # Without the recorder each stop moves the clock, and a step would find the next interrupt due.
                target.steps_as_it_runs()
            boot = capture(target, plan, progress=progress, meanwhile=meanwhile, timestamp=_now())
        except PvhdbgError as error:
            raise _with_serial(error, qemu.serial_tail(3)) from error
        opened = Opened(target, with_command(boot, qemu.command), image, warnings, file, qemu=qemu)
        yield opened
        opened.serial = tuple(qemu.serial_tail(_SERIAL_LINES))
        if leave is not Leave.KILLED:
            warnings.append(safe(f"QEMU (pid {qemu.pid}) was left {leave.value}; its gdbstub is {qemu.gdb_socket}"))
            qemu.release()


def _with_serial(error: PvhdbgError, serial: Sequence[SafeText]) -> PvhdbgError:
    if not serial or isinstance(error, VmmFailed):
        return error
    error.todo = "; ".join(part for part in (error.todo, f"its serial port's last lines: {' / '.join(serial)}") if part)
    return error


# --- a gdbstub ----------------------------------------------------------------------------------------------------


@contextmanager
def attach_stub(
    options: SubjectOptions,
    progress: Progress = lambda _: None,
    *,
    whole: bool = False,
    hashed: bool = False,
    traced: bool = False,
    patience: float | None = None,
) -> Iterator[Opened]:
    """As `open_subject`, for a subject that must be a gdbstub's address.

    `patience` is how long the machine is followed, in seconds: we wait no longer than that for an answer of its stub.
    """
    address, way = parse_address(options.subject), options.way
    with ExitStack() as stack:
        image: KernelImage | None = None
        kernel: Kernel | None = None
        file: KernelFile | None = None
        if way.kernel:
            image = stack.enter_context(open_kernel(way.kernel))
            kernel, file = image.with_hash() if hashed else image.kernel(), image.file().without_data()
        plan = _plan(options, kernel, image, whole)
        keeper = stack.enter_context(Keeper(address))
        target = stack.enter_context(_connected(options, address, Leave(way.leave or "stopped"), progress, keeper, patience))
        if not target.capabilities.monitor and target.read_registers().get("cr0") is None:
            progress(ENDS)
        if way.nested:
            yield _nested(options, target, plan, image, file, progress)
            return
        confirm = Confirm(hashed)
        boot = capture(target, plan, progress=progress, confirm=confirm, meanwhile=_prepare, timestamp=_now())
        warnings = doubts(target, image, boot, str(way.kernel))
        if (way.here or way.reset) and not traced:  # a tracer checks this by itself
            from pvhdbg.tracing.engines.log_switch import left_behind

            warnings += [left] if (left := left_behind(target)) else []
        yield Opened(target, boot, image, warnings, file or confirm.file, confirm.path, keeper=keeper)


def _nested(
    options: SubjectOptions, target: Target, plan: Plan, image: KernelImage | None, file: KernelFile | None, progress: Progress
) -> Opened:
    """The guest of a hypervisor that runs in the machine, at that guest's entry."""
    from pvhdbg.machine import nested, probe_log

    if options.way.here or options.way.reset:
        raise BadInput("--nested looks for the entry of a guest", "leave out --here and --reset")
    guest, snapshot = nested.captured(target, plan, probe_log.named_vmm(options.vmm), progress, _now())
    boot = decoded(guest, snapshot, plan.spec)
    return Opened(guest, with_tables(guest, boot) if plan.whole else boot, image, [nested.WORDS], file)


@contextmanager
def _connected(
    options: SubjectOptions,
    address: StubAddress,
    leave: Leave,
    progress: Progress,
    keeper: Keeper | None = None,
    patience: float | None = None,
) -> Iterator[RemoteTarget | GdbTarget]:
    timeout = options.way.seconds() if patience is None else min(options.way.seconds(), max(patience, 1.0))
    if options.way.via == "gdb":
        from pvhdbg.targets.gdb_mi import GdbTarget

        target: RemoteTarget | GdbTarget = GdbTarget(address, timeout=timeout, progress=progress, keeper=keeper)
    else:
        from pvhdbg.targets.remote import RemoteTarget

        target = RemoteTarget.connect(address, timeout=timeout, progress=progress, keeper=keeper)
    try:
        yield target
    except BaseException:
        target.close(leave)
        raise
    if not target.close(leave) and subject_kind(options.subject) is SubjectKind.STUB:  # a QEMU of ours is ended in other ways, too
        raise TargetTimeout(f"the VMM at {target.name} did not end when it was told to", END_IT)


@contextmanager
def halted(options: SubjectOptions, progress: Progress = lambda _: None) -> Iterator[tuple[Target, KernelImage | None]]:
    """The subject in its current state: a kernel file's QEMU before its first instruction, or the machine at a gdbstub.

    The kernel is that of the file, or of --kernel. Raises PvhdbgError, also for a recording, which is not a machine.
    """
    subject, way = options.subject, options.way
    kind = subject_kind(subject)
    if not kind.runs:
        raise BadInput(f"{subject} is a recording, not a machine", "name a kernel file or a gdbstub")
    with ExitStack() as stack:
        if kind is SubjectKind.KERNEL:
            image = stack.enter_context(open_kernel(subject))
            qemu = stack.enter_context(started(options, image, progress))
            yield stack.enter_context(_connected(options, StubAddress(path=qemu.gdb_socket), Leave.KILLED, progress)), image
            return
        address = parse_address(subject)
        refuse_options(options, kind)
        named = stack.enter_context(open_kernel(way.kernel)) if way.kernel else None
        keeper = stack.enter_context(Keeper(address))
        yield stack.enter_context(_connected(options, address, Leave(way.leave or "stopped"), progress, keeper)), named


# --- what was asked for -------------------------------------------------------------------------------------------


def _plan(options: SubjectOptions, kernel: Kernel | None, image: KernelImage | None, whole: bool) -> Plan:
    way = options.way
    plan = Plan(options.revision, kernel=kernel, here=way.here, reset=way.reset, timeout=way.seconds(), whole=whole, image=image)
    if way.entry is not None:
        address, symbol = _address(way.entry, image)
        return replace(plan, entry=address, symbol=symbol or (image.symbols().label(address) if image is not None else None))
    if image is not None and kernel is not None and kernel.entry is not None:
        return replace(plan, symbol=image.symbols().label(kernel.entry))
    return plan


def _address(text: str, image: KernelImage | None) -> tuple[int, str | None]:
    try:
        address = int(text, 0)
    except ValueError:
        if image is None:
            what = f"--entry {text} is not a number, and no kernel is known to look up the symbol in"
            raise BadInput(what, "add --kernel ELF") from None
        return image.symbols().physical_address(text), text
    if not 0 <= address < 1 << 64:
        raise BadInput(f"--entry {text} is not an address", "give a number below 2^64") from None
    return address, None


def open_kernel(path: str) -> KernelImage:
    """See `kernel.image`; imported on demand, because most gdbstubs do not need it."""
    from pvhdbg.kernel import image

    return image.open_kernel(path)


def _prepare() -> None:
    """Import the modules of the capture, and those that follow it, while a VMM does its part, where it costs no time."""
    from pvhdbg.decode import boot_state, loaded_image, qemu_monitor
    from pvhdbg.kernel import image as kernel_image
    from pvhdbg.report import text
    from pvhdbg.rules import catalogue

    del boot_state, loaded_image, qemu_monitor, kernel_image, text, catalogue


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
