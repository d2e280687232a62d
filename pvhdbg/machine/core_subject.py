"""An ELF core as a SUBJECT: it is mapped, decoded at the entry where it was captured, and judged like a machine."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pvhdbg.decode import core_file
from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import BadInput
from pvhdbg.machine.capture import compared, decoded, with_tables
from pvhdbg.machine.entry_search import Plan, recorded_entry
from pvhdbg.machine.session import Session
from pvhdbg.targets.core import CoreTarget

if TYPE_CHECKING:
    from pvhdbg.decode.boot_state import BootState
    from pvhdbg.kernel.image import KernelImage


def several_cpus(count: int) -> SafeText:
    """The note on parts that show only the first CPU."""
    return safe(f"the core shows {count} CPUs: the first is judged")


@contextmanager
def opened_core(path: str) -> Iterator[core_file.Core]:
    """The core in a file, which stays mapped meanwhile. Raises BadInput."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            mapped = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read: {error}", "give a core that you may read") from error
        yield core_file.parse(stack.enter_context(memoryview(mapped)))


@contextmanager
def opened_machine(path: str, plan: Plan, image: KernelImage | None) -> Iterator[tuple[CoreTarget, BootState, list[SafeText]]]:
    """The machine in the core at `path`, decoded, and warnings. Raises BadInput and EntryNotReached."""
    with opened_core(path) as core:
        target = CoreTarget(core, path)
        snapshot = core.snapshot
        recorded = snapshot.entry.address is not None and not plan.here
        entry = snapshot.entry if recorded else recorded_entry(target, plan)
        likeness = snapshot.image
        if likeness is None and image is not None and entry.by_vmm:
            likeness = compared(target, image, snapshot.backing)
        snapshot = replace(snapshot, kernel=plan.kernel or snapshot.kernel, image=likeness, entry=entry)
        boot = decoded(target, snapshot, plan.spec)
        if plan.whole:
            boot = with_tables(target, boot)
        warnings: list[SafeText] = []
        if core.cpus > 1:
            warnings.append(several_cpus(core.cpus))
        if boot.snapshot.kernel is None:
            warnings.append(SafeText("the kernel file was not seen: rules that need it are undecided; name it with --kernel"))
        elif image is not None and not image.is_loaded(target.read_memory) and not _was_moved(target, image, boot):
            warnings.append(safe(f"{image.path} differs from the core's memory: another kernel, or a changed one, was loaded"))
        yield target, boot, warnings


def _was_moved(target: CoreTarget, image: KernelImage, boot: BootState) -> bool:
    """Whether the kernel is elsewhere: KASLR, or its loader, may have moved it."""
    session = Session(target, image)
    session.adopt(boot)
    return session.placement.found is True
