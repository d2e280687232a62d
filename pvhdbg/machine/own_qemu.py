"""A QEMU that is started here for a kernel file, before its first instruction; why it refuses the file, and what ended it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pvhdbg.decode.text import SafeText
from pvhdbg.errors import BadInput, TargetError, TargetLost, VmmFailed
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.sound_vmm import without_bugs
from pvhdbg.targets.run import Progress

if TYPE_CHECKING:
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.vmm.options import RecorderOptions
    from pvhdbg.vmm.qemu import QemuProcess

_LAST = 1.0  # seconds in which a QEMU ends whose connection closed
_ONE_CPU = ("4.", "5.", "6.", "7.")  # QEMU's versions that run only one CPU by a deterministic clock


@contextmanager
def started(
    options: SubjectOptions,
    image: KernelImage,
    progress: Progress,
    recorder: RecorderOptions | None = None,
    *,
    tied: bool = True,
    notes: list[SafeText] | None = None,
    debugcon: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
    version: Callable[[str | None], str] | None = None,
) -> Iterator[QemuProcess]:
    """A QEMU with the kernel, before its first instruction. Raises VmmFailed; BadInput for a clock that cannot be deterministic.

    With `notes`, bugs of the QEMU that look like the guest's are avoided, and they say how; not under a deterministic clock, where each
    boot of a kernel is to be the same.
    """
    from pvhdbg.vmm.qemu import QemuOptions, start, version_of

    said = options.launch
    if notes is not None and not said.deterministic:
        said, avoided = without_bugs(said, version or version_of)
        notes += avoided
    wish = QemuOptions(
        kernel=image.elf_path,
        append=said.append,
        initrd=said.initrd,
        machine=said.machine,
        memory=said.memory,
        cpus=said.cpus,
        cpu=said.cpu,
        accel=said.accel or "tcg",
        qemu=said.qemu,
        extra=said.extra,
        recorder=recorder,
        deterministic=said.deterministic,
        debugcon=debugcon,
        serial=said.serial,
    )
    with ExitStack() as stack:
        try:
            qemu = stack.enter_context(
                start(wish, timeout=options.way.seconds(), progress=progress, tied=tied, meanwhile=meanwhile)
            )
        except VmmFailed as error:
            raise _with_note(error, image) from error
        if said.deterministic and (said.cpus or 1) > 1 and qemu.version.startswith(_ONE_CPU):
            raise BadInput(
                f"QEMU {qemu.version} does not run several CPUs by a deterministic clock: they never get on",
                "use --cpus 1, or QEMU 8.0 or newer",
            )
        try:
            yield qemu
        except TargetError as error:
            cause = qemu.killed(_LAST if isinstance(error, TargetLost) else 0)
            if cause is None:
                raise
            raise cause from error


def _with_note(error: VmmFailed, image: KernelImage) -> VmmFailed:
    """QEMU's refusal of a kernel whose note it does not find, with a next step about that note."""
    from pvhdbg.loaders.qemu import FAILED, NO_NOTE

    if FAILED in error.what and "i386" in error.what and image.elf.bits == 64:
        return VmmFailed(
            error.what, "qemu-system-i386 loads 32-bit ELFs only, and this is an ELF64: give --qemu qemu-system-x86_64"
        )
    if FAILED in error.what and image.elf.foreign is not None:
        return VmmFailed(error.what, f"the ELF is for {image.elf.foreign}: give a kernel for x86 or x86-64")
    if NO_NOTE not in error.what:
        return error
    return VmmFailed(error.what, image.not_bootable().todo)
