"""What the tracer starts from: a SUBJECT at its entry, with the machine still in hand, or a live session's machine as it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pvhdbg.commands.table import Request
from pvhdbg.decode.paging import translate
from pvhdbg.decode.qemu_monitor import is_shut_down
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine import subject as subjects
from pvhdbg.machine.lease import Lent, Stoppable, interruptible, lend
from pvhdbg.machine.subject_kind import kind_of
from pvhdbg.machine.waiter import Names
from pvhdbg.model import Unavailable
from pvhdbg.spec.x86 import CR0
from pvhdbg.targets.target import RESET_RIP, Target
from pvhdbg.tracing.engines.engine import halted
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess

__all__ = ["Machine", "Names", "at_entry", "on_machine", "refuse_what_does_not_run"]

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.machine.session import Session

T = TypeVar("T")
SLID = "the kernel does not lie at the addresses of its file (KASLR), so no symbol is met: give addresses, or boot with nokaslr"
SHUT_DOWN = "the guest triple-faulted or shut down"


@dataclass
class Machine:
    """A machine at its entry, or where a session stands. `qemu` is None for one that somebody else started."""

    target: Target
    boot: BootState
    names: Names
    image: KernelImage | None = None
    qemu: QemuProcess | None = None
    warnings: list[str] = field(default_factory=list)
    file: KernelFile | None = None
    interruptible: Callable[[Stoppable], AbstractContextManager[None]] = interruptible
    ended: str | None = None  # what was seen of its end, when nothing is left to run

    @property
    def behind(self) -> bool:
        """Whether it is past its entry."""
        return not self.boot.snapshot.entry.is_entry


@contextmanager
def at_entry(request: Request) -> Iterator[Machine]:
    """Bring the subject, a kernel file or a gdbstub, to its entry; leave it as the request says. Raises PvhdbgError."""
    refuse_what_does_not_run(request)
    with ExitStack() as stack:
        opened = stack.enter_context(subjects.open_subject(request))
        image = opened.image or _found_image(opened.boot, stack)
        machine = Machine(opened.target, opened.boot, Names(image), image, opened.qemu, opened.warnings, opened.file)
        if _slid(machine):
            machine.warnings.append(SLID)
        yield machine


def refuse_what_does_not_run(request: Request) -> None:
    """Raises BadInput for a recording, and for a QEMU whose log is to be another's."""
    path = str(request.subject)
    kind = kind_of(path)
    if kind not in ("kernel", "stub"):
        raise BadInput(f"{path} is a {kind}, which does not run", "give the kernel, or a gdbstub")
    if option_names(tuple(request.extra or ())) & {"d", "D"}:
        raise BadInput("QEMU's options -d and -D cannot be passed on", "leave them out: the tracer switches QEMU's log by itself")


def _slid(machine: Machine) -> bool:
    """Whether a kernel that runs at a virtual address is not mapped where its file says. At an entry it runs at a physical one."""
    registers, loads = machine.boot.snapshot.registers, () if machine.image is None else machine.image.elf.loads
    high = next((load.p_vaddr for load in loads if load.p_vaddr != load.p_paddr), None)
    pc = registers.get("rip")
    if high is None or pc is None or pc < min(high, 1 << 63) or not (registers.get("cr0") or 0) >> CR0["PG"] & 1:
        return False
    try:
        return translate(registers, high, machine.target.read_memory).physical is None
    except (Unavailable, TargetError):
        return False


def _found_image(boot: BootState, stack: ExitStack) -> KernelImage | None:
    """The file that the monitor named, where it was compared with the guest's memory."""
    kernel = boot.snapshot.kernel
    if kernel is None or kernel.path is None or kernel.source != "ELF file":
        return None
    return stack.enter_context(open_kernel(kernel.path))


def on_machine(request: Request, command: str, work: Callable[[Machine], T]) -> T:
    """Do `work` on the request's machine: its subject at the entry, or the session's as it stands. Raises PvhdbgError.

    In a session `work` may run in another thread: it has the machine that it is given, and nothing else of the session's.
    """
    if request.session is None:
        with at_entry(request) as machine:
            return work(machine)
    return _in_session(request.session, command, work)


def _refuse_ended(target: Target) -> None:
    """Raises TargetError for a guest that has shut down, and was kept: it would never stop again."""
    if target.capabilities.monitor and is_shut_down(target.monitor("info status")):
        raise TargetError(f"there is nothing left to run: {SHUT_DOWN}", "boot it again to its entry")


def _in_session(session: Session, command: str, work: Callable[[Machine], T]) -> T:
    session.needs_control(command)
    _refuse_ended(session.target)
    boot = session.boot()
    with ExitStack() as stack:
        image = session.image or _found_image(boot, stack)

        def borrowed(lent: Lent) -> T:
            if boot.registers.get("rip") == RESET_RIP:
                lent.target.step()  # off the reset vector, so that a breakpoint there means a reboot
            machine = Machine(lent.target, boot, Names(image), image, lent.qemu, interruptible=lent.interruptible)
            if _slid(machine):
                machine.warnings.append(SLID)
            try:
                return work(machine)
            finally:
                lent.ended = machine.ended or _ended_since(lent.target)

        return lend(session, borrowed)


def _ended_since(target: Target) -> str | None:
    """A guest that runs on behind the end of what was looked at may end there."""
    if not target.capabilities.monitor:
        return None
    try:
        if is_shut_down(target.monitor("info status")):
            return SHUT_DOWN
        over = None if "HLT=0" in target.monitor("info registers -a") else halted(target)
    except TargetError:
        return None  # it is gone: that is seen without us; or it waits for an interrupt
    return None if over is None else over.words
