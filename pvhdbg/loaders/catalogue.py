"""All simulated loaders, in the order of the reports."""

from __future__ import annotations

from collections.abc import Iterable

from pvhdbg.decode.kernel_file import KernelFile
from pvhdbg.errors import BadInput
from pvhdbg.loaders import alioth, linux_loader, qemu, qemu_rfc, xen_libelf
from pvhdbg.loaders.loading import NOTHING_SAID, BootParameters, Loader, Loading

LOADERS: tuple[Loader, ...] = (
    xen_libelf.XEN,
    xen_libelf.XEN_DOM0,
    qemu.QEMU,
    qemu_rfc.QEMU_RFC,
    linux_loader.CLOUD_HYPERVISOR,
    linux_loader.CLOUD_HYPERVISOR_OLD,
    linux_loader.FIRECRACKER,
    linux_loader.FIRECRACKER_OLD,
    linux_loader.LIBKRUN,
    alioth.ALIOTH,
)
BY_NAME = {loader.name: loader for loader in LOADERS}


def find(names: Iterable[str]) -> tuple[Loader, ...]:
    """The loaders of these names, each once, in the given order. Raises BadInput with similar names for an unknown one."""
    found: dict[str, Loader] = {}
    for name in names:
        if name not in BY_NAME:
            import difflib  # here: only an unknown name needs it

            near = difflib.get_close_matches(name.lower(), BY_NAME, n=3, cutoff=0.5)
            todo = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(BY_NAME)}"
            raise BadInput(f"there is no loader {name!r}", todo)
        found[name] = BY_NAME[name]
    return tuple(found.values())


def simulate(kernel: KernelFile, boot: BootParameters = NOTHING_SAID, loaders: Iterable[Loader] = LOADERS) -> tuple[Loading, ...]:
    """What each of these loaders would do with the file, with earlier versions of it that do otherwise. Never raises."""
    return tuple(loading for loader in loaders for loading in loader.answers(kernel, boot))
