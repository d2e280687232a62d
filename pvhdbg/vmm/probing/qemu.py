"""QEMU, by its own emulation (TCG) or by KVM: the machine of a plain `qemu-system-x86_64 -kernel FILE`."""

from __future__ import annotations

import os
from functools import partial

from pvhdbg.errors import BadInput
from pvhdbg.model import Vmm
from pvhdbg.vmm.failures import INSTALL
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish


def _find(accelerator: str, binary: str | None) -> Found:
    return programs.program(binary, DEFAULT_QEMU, INSTALL.replace(", or name one with --qemu", ""), kvm=accelerator == "kvm")


def _prepare(accelerator: str, wish: Wish, found: Found, folder: str) -> Launch:
    console = os.path.join(folder, "console")
    command = [found.path, "-accel", accelerator, "-m", f"{wish.mib}M", "-kernel", wish.kernel]
    command += ["-append", wish.append] if wish.append is not None else []
    command += ["-initrd", wish.initrds[0]] if wish.initrds else []
    command += ["-display", "none", "-nic", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{console}"]
    if any("," in path for path in (wish.kernel, *wish.initrds)):
        raise BadInput("QEMU may take a comma in a path for a separator", "use a path without one")
    return Launch(tuple(command), Vmm("QEMU", found.version, accelerator, tuple(command)), console)


QEMU = ProbedVmm("qemu", "QEMU", partial(_find, "tcg"), partial(_prepare, "tcg"))
# A host without unrestricted guests emulates the firmware's 16-bit code: 10 seconds where others take one.
QEMU_KVM = ProbedVmm("qemu-kvm", "QEMU with KVM", partial(_find, "kvm"), partial(_prepare, "kvm"), seconds=60.0)
