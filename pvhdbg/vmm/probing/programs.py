"""Whether a VMM's program is here, which version it is, and whether KVM can be used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from pvhdbg.decode.text import safe, shorten
from pvhdbg.vmm.probing.seam import Found

KVM = "/dev/kvm"
_PATIENCE = 10.0  # seconds for `--version`
_OUTPUT = 64 * 1024
_VERSION = re.compile(rb"v?([0-9]{1,4}(?:\.[0-9]{1,6}){1,3})")


def without_kvm() -> Found | None:
    """What is missing for a VMM that needs KVM; None where nothing is."""
    if not os.path.exists(KVM):
        return Found(
            missing=f"there is no {KVM}", todo="use a machine with virtualization, or --run qemu or --run xen, which need none"
        )
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Found(missing=f"{KVM} cannot be opened by this user", todo="join the group that owns it (often: kvm)")
    return None


def program(binary: str | None, name: str, install: str, *, kvm: bool = True) -> Found:
    """The program `binary`, or `name` in PATH, with the version that it reports; `install` says how to get it. Raises nothing."""
    wanted = binary or name
    path = shutil.which(wanted)
    if path is None:
        if binary is None:
            return Found(missing=f"{name} is not in PATH", todo=install)
        return Found(missing=f"{safe(wanted)} is not a program that can be run", todo="check the path given with --binary")
    lacking = without_kvm() if kvm else None
    version = version_of(path)
    if version is None:
        return Found(
            path=path, missing=f"{safe(path)} does not report a version", todo=f"see what it prints: {safe(path)} --version"
        )
    return Found(path, version, lacking.missing if lacking else "", lacking.todo if lacking else "")


def version_of(path: str) -> str | None:
    """The version that `PATH --version` prints, as numbers: "1.12.1". None where it prints none. Raises nothing."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _VERSION.search(done.stdout[:_OUTPUT])
    return shorten(said[1].decode(), 40) if said and done.returncode == 0 else None
