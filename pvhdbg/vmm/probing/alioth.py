"""Alioth: `alioth boot --pvh`, with COM1 on its standard output."""

from __future__ import annotations

from pvhdbg.model import Vmm
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish


def _find(binary: str | None) -> Found:
    return programs.program(binary, "alioth", "build it from github.com/google/alioth (cargo install alioth-cli)")


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    del folder
    command = [found.path, "boot", "--pvh", wish.kernel, "--cpu", "count=1", "--memory", f"size={wish.mib}M"]
    command += ["--cmdline", wish.append] if wish.append is not None else []
    command += ["--initramfs", wish.initrds[0]] if wish.initrds else []
    return Launch(tuple(command), Vmm("Alioth", found.version, "kvm", tuple(command)))


ALIOTH = ProbedVmm("alioth", "Alioth", _find, _prepare)
