"""crosvm: `crosvm run` without its sandbox, and COM1 in a file."""

from __future__ import annotations

import os

from pvhdbg.errors import BadInput
from pvhdbg.model import Vmm
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish


def _find(binary: str | None) -> Found:
    return programs.program(binary, "crosvm", "build it from chromium.googlesource.com/crosvm/crosvm")


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    console = os.path.join(folder, "console")
    if "," in console:
        raise BadInput("crosvm takes a comma in a path for a separator", "set TMPDIR to a folder without one")
    command = [found.path, "run", "--disable-sandbox", "--cpus", "1", "--mem", str(wish.mib)]
    command += ["--serial", f"type=file,path={console},hardware=serial,num=1"]
    command += ["--params", wish.append] if wish.append is not None else []
    command += ["--initrd", wish.initrds[0]] if wish.initrds else []
    return Launch((*command, wish.kernel), Vmm("crosvm", found.version, "kvm", (*command, wish.kernel)), console)


CROSVM = ProbedVmm(
    "crosvm",
    "crosvm",
    _find,
    _prepare,
    silent="a crosvm that does not boot by PVH enters an ELF in 64-bit mode, where the probe is silent",
)
