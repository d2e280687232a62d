"""libkrun, a library: a process of its own calls it, and its default serial console is that process's standard output."""

from __future__ import annotations

import ctypes.util
import os
import re
import sys
from pathlib import Path

from pvhdbg.model import Vmm
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish

_CALLER = Path(__file__).with_name("krun_caller.py")
_VERSION = re.compile(r"libkrun\.so\.([0-9]+(?:\.[0-9]+)*)")


def _find(binary: str | None) -> Found:
    path = binary or ctypes.util.find_library("krun")
    if path is None:
        return Found(
            missing="the library libkrun is not installed",
            todo="install it (Fedora: dnf install libkrun), or name it with --binary",
        )
    if binary and not os.path.isfile(binary):
        return Found(missing=f"{binary} is not a file", todo="give the path of libkrun.so with --binary")
    name = _VERSION.search(os.path.basename(os.path.realpath(path)))
    lacking = programs.without_kvm() or Found()
    return Found(path, name[1] if name else "", lacking.missing, lacking.todo)


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    del folder
    words = (found.path, wish.kernel, str(wish.mib), wish.initrds[0] if wish.initrds else "", wish.append or "")
    command = (sys.executable, "-I", str(_CALLER), *words)
    return Launch(command, Vmm("libkrun", found.version or None, "kvm", command))


LIBKRUN = ProbedVmm("libkrun", "libkrun", _find, _prepare)
