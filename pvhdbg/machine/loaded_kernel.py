"""Whether a kernel file on this host is the kernel that a machine has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvhdbg.errors import PvhdbgError
from pvhdbg.model import ImageComparison, Kernel
from pvhdbg.targets.target import Target

if TYPE_CHECKING:
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.decode.qemu_monitor import LoadedKernel
    from pvhdbg.machine.capture import Compare


class Confirm:
    """The kernel that the monitor names, if its file can be read here and matches the guest's memory."""

    def __init__(self, hashed: bool = False) -> None:
        self.file: KernelFile | None = None
        self._hashed = hashed

    def __call__(self, target: Target, loaded: LoadedKernel, compare: Compare) -> tuple[Kernel, ImageComparison | None] | None:
        from pvhdbg.kernel.image import open_kernel

        try:
            with open_kernel(loaded.path) as image:
                if image.was == "ELF" and image.is_loaded(target.read_memory):
                    self.file = image.file().without_data()
                    return image.with_hash() if self._hashed else image.kernel(), compare(image)
        except PvhdbgError:
            return None  # a path on another host: only the monitor's ranges remain
        return None
