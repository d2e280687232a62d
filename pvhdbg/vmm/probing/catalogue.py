"""All VMMs that pvhdbg boots the probe under, in the order of the reports."""

from __future__ import annotations

from pvhdbg.errors import BadInput
from pvhdbg.vmm.probing.alioth import ALIOTH
from pvhdbg.vmm.probing.cloud_hypervisor import CLOUD_HYPERVISOR
from pvhdbg.vmm.probing.crosvm import CROSVM
from pvhdbg.vmm.probing.firecracker import FIRECRACKER
from pvhdbg.vmm.probing.libkrun import LIBKRUN
from pvhdbg.vmm.probing.qemu import QEMU, QEMU_KVM
from pvhdbg.vmm.probing.seam import ProbedVmm
from pvhdbg.vmm.probing.xen import XEN
from pvhdbg.vmm.probing.xl import XL

RUNNERS: tuple[ProbedVmm, ...] = (QEMU, QEMU_KVM, XEN, XL, FIRECRACKER, CLOUD_HYPERVISOR, LIBKRUN, ALIOTH, CROSVM)
BY_NAME = {runner.name: runner for runner in RUNNERS}


def runner(name: str) -> ProbedVmm:
    """The VMM of that name. Raises BadInput for an unknown one."""
    if name not in BY_NAME:
        raise BadInput(f"there is no VMM {name!r} here", f"choose one of: {', '.join(BY_NAME)}, all")
    return BY_NAME[name]
