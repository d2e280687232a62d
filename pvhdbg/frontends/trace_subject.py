"""A SUBJECT at its entry, with the machine still in hand: what the tracer starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvhdbg.decode.paging import translate
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.frontends import subject as subjects
from pvhdbg.frontends.subject_kind import kind_of
from pvhdbg.frontends.verbs import Request
from pvhdbg.kernel_image import KernelImage, open_kernel
from pvhdbg.model import Unavailable
from pvhdbg.spec.x86 import CR0
from pvhdbg.targets.target import Target
from pvhdbg.vmm.options import option_names
from pvhdbg.vmm.qemu import QemuProcess
from pvhdbg.watching import Names

__all__ = ["Machine", "Names", "at_entry"]

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.decode.kernel_file import KernelFile


@dataclass
class Machine:
    """A machine at its entry. `qemu` is None for one that somebody else started."""

    target: Target
    boot: BootState
    names: Names
    image: KernelImage | None = None
    qemu: QemuProcess | None = None
    warnings: list[str] = field(default_factory=list)
    file: KernelFile | None = None


@contextmanager
def at_entry(request: Request) -> Iterator[Machine]:
    """Bring the subject, a kernel file or a gdbstub, to its entry; leave it as the request says. Raises PvhdbgError."""
    path = str(request.subject)
    kind = kind_of(path)
    if kind not in ("kernel", "stub"):
        raise BadInput(f"{path} is a {kind}, which does not run", "give the kernel, or a gdbstub")
    if option_names(tuple(request.extra or ())) & {"d", "D"}:
        raise BadInput("QEMU's options -d and -D cannot be passed on", "leave them out: the tracer switches QEMU's log by itself")
    with ExitStack() as stack:
        opened = stack.enter_context(subjects.open_subject(request))
        image, kernel = opened.image, opened.boot.snapshot.kernel
        if image is None and kernel is not None and kernel.path is not None and kernel.source == "ELF file":
            image = stack.enter_context(open_kernel(kernel.path))  # it was compared with the guest's memory
        machine = Machine(opened.target, opened.boot, Names(image), image, opened.qemu, opened.warnings, opened.file)
        if _slid(machine):
            machine.warnings.append(
                "the kernel does not lie at the addresses of its file (KASLR), so no symbol is met: give addresses, or boot with nokaslr"
            )
        yield machine


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
