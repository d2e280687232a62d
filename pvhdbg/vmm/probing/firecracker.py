"""Firecracker, which boots by PVH from 1.12 on: a file of configuration, and COM1 on its standard output."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pvhdbg.model import Vmm
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish

_FIRST = (1, 12)


def _find(binary: str | None) -> Found:
    found = programs.program(binary, "firecracker", "get a release from github.com/firecracker-microvm/firecracker, 1.12 or newer")
    if found.version and tuple(int(part) for part in found.version.split(".")[:2]) < _FIRST:
        return found._replace(missing=f"Firecracker {found.version} does not boot by PVH", todo="use 1.12 or newer")
    return found


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    source = {
        "kernel_image_path": os.path.abspath(wish.kernel),
        "boot_args": wish.append if wish.append is not None else "console=ttyS0",
    }
    if wish.initrds:
        source["initrd_path"] = os.path.abspath(wish.initrds[0])
    config = Path(folder, "vm.json")
    machine = {"vcpu_count": 1, "mem_size_mib": wish.mib}
    config.write_text(json.dumps({"boot-source": source, "drives": [], "machine-config": machine}), encoding="utf-8")
    command = (found.path, "--no-api", "--config-file", str(config))
    return Launch(command, Vmm("Firecracker", found.version, "kvm", command))


FIRECRACKER = ProbedVmm("firecracker", "Firecracker", _find, _prepare)
