"""The QEMU that is started, without its own bugs that would be taken for the guest's (`spec.vmm_bugs`)."""

from __future__ import annotations

import os
from collections.abc import Callable

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.machine.options import LaunchOptions
from pvhdbg.model import Vmm
from pvhdbg.spec.vmm_bugs import WRONG_EFLAGS


def without_bugs(said: LaunchOptions, version_of: Callable[[str | None], str]) -> tuple[LaunchOptions, list[SafeText]]:
    """The wish with what avoids bugs of the QEMU that it names, and sentences about that. `version_of` gives a program's version."""
    from pvhdbg.vmm.options import names_accelerator, option_names

    bug = WRONG_EFLAGS
    if said.accel in ("kvm", "auto") or names_accelerator(said.machine, said.extra):
        return said, []
    version = version_of(said.qemu)
    if not bug.in_version(Vmm(bug.vmm, version).release()):
        return said, []
    told = f"QEMU {version} has a bug that looks like the guest's: {bug.what}"
    own = said.cpu is not None or "cpu" in option_names(said.extra) or "i386" in os.path.basename(said.qemu or "")
    if not own:
        remedy = f"the machine was given the CPU {bug.remedy}, QEMU's default without {bug.missing} (--cpu chooses another)"
        return said._replace(cpu=bug.remedy), [safe(f"{told}; {remedy}")]
    if bug.avoided_by(said.cpu or ""):
        return said, []
    return said, [safe(f"{told}; to avoid it, leave --cpu out or add ,-{bug.missing} to it")]
