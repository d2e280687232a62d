"""Whether a kernel file on this host is the kernel that a machine has loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.model import ImageComparison, Kernel
from pvhdbg.targets.target import Target

if TYPE_CHECKING:
    from pvhdbg.decode.kernel_file import KernelFile
    from pvhdbg.decode.qemu_monitor import LoadedKernel
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.machine.capture import Compare


class Confirm:
    """The kernel that the monitor names, if its file can be read here and matches the guest's memory."""

    def __init__(self, hashed: bool = False) -> None:
        self.file: KernelFile | None = None
        self.path: str | None = None  # of that file
        self._hashed = hashed

    def __call__(self, target: Target, loaded: LoadedKernel, compare: Compare) -> tuple[Kernel, ImageComparison | None] | None:
        try:
            with _open_kernel(loaded.path) as image:
                if image.was == "ELF" and image.is_loaded(target.read_memory):
                    self.file, self.path = image.file().without_data(), loaded.path
                    return image.with_hash() if self._hashed else image.kernel(), compare(image)
        except PvhdbgError:
            return None  # a path on another host: only the monitor's ranges remain
        return None

    def image(self) -> KernelImage | None:
        """That file, opened; None where there is none, or not any more."""
        try:
            return None if self.path is None else _open_kernel(self.path)
        except BadInput:
            return None


def _open_kernel(path: str) -> KernelImage:
    from pvhdbg.kernel.image import open_kernel

    return open_kernel(path)
