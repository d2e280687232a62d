"""A SUBJECT brought to its entry, whatever it is (`subject_kind` tells): booted, attached to, or read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pvhdbg.capture import Plan, capture, with_command
from pvhdbg.errors import BadInput, PvhdbgError, TargetTimeout, VmmFailed
from pvhdbg.frontends.subject_kind import kind_of, refuse_all_but_kernels, refuse_options
from pvhdbg.frontends.verbs import Request
from pvhdbg.model import Kernel
from pvhdbg.targets.address import StubAddress, parse_address
from pvhdbg.targets.target import END_IT, Leave, Target

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.decode.qemu_monitor import LoadedKernel
    from pvhdbg.frontends.session import Session
    from pvhdbg.kernel_image import KernelImage
    from pvhdbg.vmm.qemu import QemuOptions, QemuProcess

_SERIAL_LINES = 1000  # of the guest's log, in a report


@dataclass(frozen=True)
class Observed:
    """A decoded machine, sentences about how it was come by, its kernel file where that could be read, and
    the end of its serial log where there is one.
    """

    boot: BootState
    warnings: tuple[str, ...] = ()
    file: KernelFile | None = None
    serial: tuple[str, ...] = ()


@dataclass
class Opened:
    """A subject at its entry, with the target still at hand. `warnings` and `serial` are whole when it is left."""

    target: Target
    boot: BootState
    image: KernelImage | None = None
    warnings: list[str] = field(default_factory=list)
    file: KernelFile | None = None
    serial: tuple[str, ...] = ()
    qemu: QemuProcess | None = None  # where it was started here


def observe(request: Request) -> Observed:
    """Bring the request's subject to its entry (or read its snapshot) and decode it.

    The machine is left as the request says, on every way out. Raises PvhdbgError.
    """
    return _observed(open_subject(request))


def attach(request: Request) -> Observed:
    """As `observe`, for a subject that has to be a gdbstub's address."""
    return _observed(_attached(request, parse_address(str(request.subject))))


def run(request: Request) -> Observed:
    """As `observe`, for a subject that has to be a kernel file."""
    refuse_all_but_kernels(str(request.subject))
    return _observed(_run_kernel(request))


def opened_for(verb: str, request: Request) -> AbstractContextManager[Opened]:
    """The subject at its entry for as long as the context lasts: what `run`, `attach` or any other verb takes. Raises PvhdbgError."""
    if verb == "attach":
        return _attached(request, parse_address(str(request.subject)))
    if verb == "run":
        refuse_all_but_kernels(str(request.subject))
        return _run_kernel(request)
    if verb == "why":
        from pvhdbg.frontends.trace_subject import refuse_what_does_not_run

        refuse_what_does_not_run(request)
    return open_subject(request)


@contextmanager
def session_of(request: Request) -> Iterator[Session]:
    """The live session of the request; or, on the command line, one around its subject at the entry, for this verb alone."""
    if request.session is not None:
        yield request.session
        return
    from pvhdbg.frontends.session import Session, Settings

    with open_subject(request) as opened:
        settings = Settings(_spec(request), bool(request.strict))
        session = Session(opened.target, opened.image, settings, warnings=opened.warnings, confirm=Confirm())
        session.adopt(opened.boot)
        yield session


def _observed(subject: AbstractContextManager[Opened]) -> Observed:
    with subject as opened:
        pass
    return Observed(opened.boot, tuple(opened.warnings), opened.file, opened.serial)


@contextmanager
def open_subject(request: Request) -> Iterator[Opened]:
    """As `observe`, with the target at hand until the block is left."""
    subject = str(request.subject)
    kind = kind_of(subject)
    refuse_options(request, kind)
    if kind == "snapshot":
        yield _from_snapshot(subject, _spec(request))
        return
    if kind in ("log", "core"):
        opening = _read_log(request) if kind == "log" else _read_core(request)
    else:
        opening = _run_kernel(request) if kind == "kernel" else _attached(request, parse_address(subject))
    with opening as opened:
        yield opened


def probe(request: Request) -> Observed:
    """As `observe`, for a subject that has to be a log of the guest `probe`; `-` is standard input."""
    return _observed(_read_log(request))


@contextmanager
def _read_log(request: Request) -> Iterator[Opened]:
    from pvhdbg.capture import decoded
    from pvhdbg.frontends.probe_log import read_log
    from pvhdbg.targets.recorded import RecordedTarget

    path = str(request.subject)
    refuse_options(request, "log")
    request.progress(f"reading {path}")
    with ExitStack() as stack:
        image, kernel, file = None, None, None
        if request.kernel:
            from pvhdbg.kernel_image import open_kernel

            image = stack.enter_context(open_kernel(str(request.kernel)))
            kernel, file = image.kernel(), image.file().without_data()
        snapshot, warnings = read_log(path, request.vmm, kernel)
        target = RecordedTarget(snapshot, path, "log")
        yield Opened(target, decoded(target, snapshot, _spec(request)), image, list(warnings), file)


def _from_snapshot(path: str, spec: str) -> Opened:
    from pvhdbg.capture import decoded
    from pvhdbg.targets.recorded import open_snapshot

    target = open_snapshot(path)
    return Opened(target, decoded(target, target.snapshot, spec))


@contextmanager
def _read_core(request: Request) -> Iterator[Opened]:
    from pvhdbg.frontends.core_subject import opened_machine
    from pvhdbg.kernel_image import open_kernel

    with ExitStack() as stack:
        image = stack.enter_context(open_kernel(str(request.kernel))) if request.kernel else None
        kernel = image.kernel() if image else None
        if image is not None and kernel is not None and kernel.entry is None and not request.here:
            raise image.not_bootable()
        machine = opened_machine(str(request.subject), _plan(request, kernel, image), image)
        target, boot, warnings = stack.enter_context(machine)
        yield Opened(target, boot, image, warnings, image.file().without_data() if image else None)


# --- a kernel file ------------------------------------------------------------------------------------------------


@contextmanager
def _run_kernel(request: Request) -> Iterator[Opened]:
    from pvhdbg.kernel_image import open_kernel
    from pvhdbg.vmm.qemu import start

    refuse_options(request, "kernel")
    with ExitStack() as stack:
        request.progress("reading the kernel")
        image = stack.enter_context(open_kernel(str(request.subject)))
        file = image.file().without_data()
        warnings = [] if image.was == "ELF" else [f"{request.subject} is a {image.was}; the ELF inside it is booted"]
        kernel = image.with_hash() if request.whole else image.kernel()
        if kernel.entry is None and request.entry is None and not request.here:
            raise image.not_bootable()
        plan = _plan(request, kernel, image)
        try:
            qemu = stack.enter_context(start(_qemu_options(request, image), timeout=_timeout(request), progress=request.progress))
        except VmmFailed as error:
            raise _with_note(error, image) from error
        leave = Leave(request.leave or "killed")
        try:
            target = stack.enter_context(_connected(request, StubAddress(path=qemu.gdb_socket), leave))
            boot = capture(target, plan, progress=request.progress, meanwhile=_prepare, timestamp=_now())
        except PvhdbgError as error:
            raise _with_serial(error, qemu.serial_tail(3)) from error
        opened = Opened(target, with_command(boot, qemu.command), image, warnings, file, qemu=qemu)
        yield opened
        opened.serial = tuple(qemu.serial_tail(_SERIAL_LINES))
        if leave is not Leave.KILLED:
            warnings.append(f"QEMU (pid {qemu.pid}) was left {leave.value}; its gdbstub is {qemu.gdb_socket}")
            qemu.release()


def _qemu_options(request: Request, image: KernelImage) -> QemuOptions:
    from pvhdbg.vmm.qemu import QemuOptions

    return QemuOptions(
        kernel=image.elf_path,
        append=request.append,
        initrd=request.initrd,
        machine=request.machine,
        memory=request.memory,
        cpus=request.cpus,
        cpu=request.cpu,
        accel=request.accel or "tcg",
        qemu=request.qemu,
        extra=tuple(request.extra or ()),
    )


def _with_note(error: VmmFailed, image: KernelImage) -> VmmFailed:
    """QEMU's refusal of a kernel whose note it does not find, with what to do about that note."""
    from pvhdbg.loaders.qemu import NO_NOTE

    if NO_NOTE not in error.what:
        return error
    return VmmFailed(error.what, image.not_bootable().todo)


def _with_serial(error: PvhdbgError, serial: list[str]) -> PvhdbgError:
    if not serial or isinstance(error, VmmFailed):
        return error
    error.todo = "; ".join(part for part in (error.todo, f"its serial port's last words: {' / '.join(serial)}") if part)
    return error


# --- a gdbstub ----------------------------------------------------------------------------------------------------


@contextmanager
def _attached(request: Request, address: StubAddress) -> Iterator[Opened]:
    warnings: list[str] = []
    with ExitStack() as stack:
        image: KernelImage | None = None
        kernel: Kernel | None = None
        file: KernelFile | None = None
        if request.kernel:
            from pvhdbg.kernel_image import open_kernel

            image = stack.enter_context(open_kernel(str(request.kernel)))
            kernel, file = image.with_hash() if request.whole else image.kernel(), image.file().without_data()
            if kernel.entry is None and request.entry is None and not request.here:
                raise image.not_bootable()
        plan = _plan(request, kernel, image)
        target = stack.enter_context(_connected(request, address, Leave(request.leave or "stopped")))
        confirm = Confirm(plan.whole)
        boot = capture(target, plan, progress=request.progress, confirm=confirm, meanwhile=_prepare, timestamp=_now())
        warnings += doubts(target, image, boot, str(request.kernel))
        if (request.here or request.reset) and "engine" not in request.values:  # a tracer finds it out by itself
            from pvhdbg.trace.engines.log_switch import left_behind

            warnings += [left] if (left := left_behind(target)) else []
        yield Opened(target, boot, image, warnings, file or confirm.file)


def doubts(target: Target, image: KernelImage | None, boot: BootState, named: str) -> list[str]:
    """What a reader of a report has to know of how the kernel's file was seen; `named` is how the user wrote its path."""
    found = []
    if image is not None and not _is_there(target, image, boot):
        found.append(f"{named} is not what lies in the guest's memory: another kernel, or a changed one, was loaded")
    if boot.snapshot.kernel is None or boot.snapshot.kernel.entry is None:
        found.append("the kernel file was not seen: rules that need it are undecided; name it with --kernel")
    return found


def _is_there(target: Target, image: KernelImage, boot: BootState) -> bool:
    """Whether the machine has that kernel: byte for byte where it is entered; once it runs, its code, wherever it was moved."""
    if image.is_loaded(target.read_memory):
        return True
    if boot.snapshot.entry.is_entry:
        return False
    from pvhdbg.frontends.session import Session

    session = Session(target, image)
    session.adopt(boot)
    return session.placement.found is True


class Confirm:
    """The kernel that the monitor names, if its file can be read here and is what the guest's memory holds."""

    def __init__(self, hashed: bool = False) -> None:
        self.file: KernelFile | None = None
        self._hashed = hashed

    def __call__(self, target: Target, loaded: LoadedKernel) -> Kernel | None:
        from pvhdbg.kernel_image import open_kernel

        try:
            with open_kernel(loaded.path) as image:
                if image.was == "ELF" and image.is_loaded(target.read_memory):
                    self.file = image.file().without_data()
                    return image.with_hash() if self._hashed else image.kernel()
        except PvhdbgError:
            return None  # another machine's path: the ranges that the monitor gave have to do
        return None


@contextmanager
def _connected(request: Request, address: StubAddress, leave: Leave) -> Iterator[Target]:
    if request.via == "gdb":
        from pvhdbg.targets.gdb_mi import GdbTarget

        target: Target = GdbTarget.connect(address, timeout=_timeout(request), progress=request.progress)
    else:
        from pvhdbg.targets.remote import RemoteTarget

        target = RemoteTarget.connect(address, timeout=_timeout(request), progress=request.progress)
    try:
        yield target
    except BaseException:
        target.close(leave)
        raise
    if not target.close(leave) and kind_of(str(request.subject)) == "stub":  # a QEMU of ours is ended in other ways, too
        raise TargetTimeout(f"the VMM at {target.name} did not end when it was told to", END_IT)


@contextmanager
def halted(request: Request) -> Iterator[tuple[Target, KernelImage | None]]:
    """The request's subject as it stands: a kernel file's QEMU before its first instruction, or the machine at a gdbstub.

    The kernel is that of the file, or of --kernel. Raises PvhdbgError, also for a snapshot, which is no machine.
    In a live session it is that session's machine.
    """
    if request.session is not None:
        request.session.needs_control("fwcfg")
        yield request.session.target, request.session.image
        return
    from pvhdbg.kernel_image import open_kernel
    from pvhdbg.vmm.qemu import start

    subject = str(request.subject)
    kind = kind_of(subject)
    if kind not in ("kernel", "stub"):
        raise BadInput(f"{subject} is a recording: there is no machine to ask", "name a kernel file or a gdbstub")
    with ExitStack() as stack:
        if kind == "kernel":
            image = stack.enter_context(open_kernel(subject))
            qemu = stack.enter_context(start(_qemu_options(request, image), timeout=_timeout(request), progress=request.progress))
            address, leave = StubAddress(path=qemu.gdb_socket), Leave.KILLED
            yield stack.enter_context(_connected(request, address, leave)), image
            return
        address = parse_address(subject)
        refuse_options(request, "stub")
        named = stack.enter_context(open_kernel(str(request.kernel))) if request.kernel else None
        yield stack.enter_context(_connected(request, address, Leave(request.leave or "stopped"))), named


# --- what was asked for -------------------------------------------------------------------------------------------


def _spec(request: Request) -> str:
    return str(request.spec or "v1")


def _timeout(request: Request) -> float:
    timeout = 30.0 if request.timeout is None else float(request.timeout)
    if not 0 < timeout < 1e6:
        raise BadInput(f"--timeout {timeout:g} is not a time", "give a number of seconds greater than 0")
    return timeout


def _plan(request: Request, kernel: Kernel | None, image: KernelImage | None) -> Plan:
    plan = Plan(
        _spec(request),
        kernel=kernel,
        here=bool(request.here),
        reset=bool(request.reset),
        timeout=_timeout(request),
        whole=bool(request.whole),
    )
    if request.entry is not None:
        address, symbol = _address(str(request.entry), image)
        return replace(plan, entry=address, symbol=symbol)
    if image is not None and kernel is not None and kernel.entry is not None:
        return replace(plan, symbol=image.symbols().name_at(kernel.entry))
    return plan


def _address(text: str, image: KernelImage | None) -> tuple[int, str | None]:
    try:
        address = int(text, 0)
    except ValueError:
        if image is None:
            what = f"--entry {text} is no number, and there is no kernel to look the symbol up in"
            raise BadInput(what, "add --kernel ELF") from None
        return image.symbols().physical_address(text), text
    if not 0 <= address < 1 << 64:
        raise BadInput(f"--entry {text} is not an address", "give a number below 2^64") from None
    return address, None


def _prepare() -> None:
    """Import what comes after the capture while the guest is on its way to the entry, where it costs no time."""
    from pvhdbg import kernel_image
    from pvhdbg.report import text
    from pvhdbg.rules import catalogue

    del kernel_image, text, catalogue


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
