"""The QEMU that is started, without its own bugs that would be taken for the guest's (`spec.vmm_bugs`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from pvhdbg.decode.text import SafeText, safe
from pvhdbg.errors import PvhdbgError
from pvhdbg.machine.options import LaunchOptions
from pvhdbg.model import Vmm
from pvhdbg.spec.vmm_bugs import WRONG_EFLAGS


class VersionAsked:
    """The version of a program, asked for in a thread of its own: that takes as long as to read a kernel. `version_of` is what asks."""

    def __init__(self, program: str | None, version_of: Callable[[str | None], str]) -> None:
        self._program, self._version_of = program, version_of
        self._found: str | PvhdbgError = ""
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._found = self._version_of(self._program)
        except PvhdbgError as error:
            self._found = error

    def __call__(self, program: str | None) -> str:
        """The version. Raises what `version_of` raised."""
        if program != self._program:
            return self._version_of(program)
        self._thread.join()
        if isinstance(self._found, PvhdbgError):
            raise self._found
        return self._found


def without_bugs(said: LaunchOptions, version_of: Callable[[str | None], str]) -> tuple[LaunchOptions, list[SafeText]]:
    """The wish with what avoids bugs of the QEMU that it names, and sentences about that. `version_of` gives a program's version."""
    from pvhdbg.vmm.options import names_accelerator, option_names

    bug = WRONG_EFLAGS
    if said.accel in ("kvm", "auto") or names_accelerator(said.machine, said.extra):
        return said, []  # KVM executes what this QEMU would emulate wrongly
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
