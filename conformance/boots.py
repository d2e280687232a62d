"""One boot: what is started, and what was observed of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pvhdbg
from pvhdbg import guests
from pvhdbg.model import Vmm
from pvhdbg.rules.declare import FileRule, Verdict

PVH = "PVH"
TIMEOUT = 30.0  # seconds; usual is 0.05


@dataclass(frozen=True)
class Setup:
    """A QEMU program, a machine type, and the firmware image for it (None: QEMU's default).

    `firmware` is the firmware that was recognised in a boot with that image, None before the boot.
    """

    qemu: str
    machine: str
    bios: str | None = None
    firmware: str | None = None

    @property
    def options(self) -> str:
        """QEMU's options for this setup."""
        return f"-M {self.machine}" + (f" -bios {self.bios}" if self.bios else "")


@dataclass(frozen=True)
class Case:
    """One boot to make. `memory` is in QEMU's notation, `module` the size of the initrd in bytes (0: none)."""

    setup: Setup
    guest: str
    memory: str
    module: int

    def __str__(self) -> str:
        module = f"initrd of {self.module} bytes" if self.module else "no initrd"
        return f"{self.guest} on {self.setup.options}, {self.memory}, {module}"


@dataclass(frozen=True)
class Boot:
    """The result of a case: the verdicts on the hand-off, and those on the guest's file. `failure` says why there are none."""

    case: Case
    vmm: Vmm = field(default_factory=Vmm)
    firmware: str | None = None
    protocol: str = PVH
    verdicts: tuple[Verdict, ...] = ()
    file_verdicts: tuple[Verdict, ...] = ()
    failure: str = ""


def boot(case: Case, initrds: Path, timeout: float = TIMEOUT) -> Boot:
    """Boot one case to the entry in its note and judge it. The folder `initrds` holds the initrds, named by their size.

    What the guest does later is not judged: a guest that plays a bad loader is at a good entry here.
    """
    try:
        report = pvhdbg.check(
            str(guests.path(case.guest)),
            qemu=case.setup.qemu,
            machine=case.setup.machine,
            memory=case.memory,
            initrd=str(initrds / str(case.module)) if case.module else None,
            extra=("-bios", case.setup.bios) if case.setup.bios else (),
            timeout=timeout,
        )
    except pvhdbg.PvhdbgError as error:
        return Boot(case, failure=error.what)
    seen = report.boot
    files = tuple(verdict for verdict in report.verdicts if isinstance(verdict.rule, FileRule))
    machine = tuple(verdict for verdict in report.verdicts if not isinstance(verdict.rule, FileRule))
    protocol = seen.other_protocol.title if seen.other_protocol is not None else PVH
    return Boot(case, seen.snapshot.vmm, seen.firmware.name if seen.firmware else None, protocol, machine, files)
