"""Cloud Hypervisor: options on the command line, and COM1 in a file."""

from __future__ import annotations

import os

from pvhdbg.errors import BadInput
from pvhdbg.model import Vmm
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish


def _find(binary: str | None) -> Found:
    return programs.program(binary, "cloud-hypervisor", "get a release from github.com/cloud-hypervisor/cloud-hypervisor")


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    console = os.path.join(folder, "console")
    if "," in console:
        raise BadInput("Cloud Hypervisor takes a comma in a path for a separator", "set TMPDIR to a folder without one")
    command = [found.path, "--kernel", wish.kernel, "--cpus", "boot=1", "--memory", f"size={wish.mib}M"]
    command += ["--cmdline", wish.append] if wish.append is not None else []
    command += ["--initramfs", wish.initrds[0]] if wish.initrds else []
    command += ["--console", "off", "--serial", f"file={console}"]
    return Launch(tuple(command), Vmm("Cloud Hypervisor", found.version, "kvm", tuple(command)), console)


CLOUD_HYPERVISOR = ProbedVmm("cloud-hypervisor", "Cloud Hypervisor", _find, _prepare)
