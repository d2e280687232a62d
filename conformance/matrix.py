"""Which boots to make: the machines and firmwares of a QEMU, found by asking it and by test boots."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conformance.boots import Boot, Setup
from pvhdbg.errors import VmmFailed
from pvhdbg.vmm.failures import not_installed

MACHINES = ("pc", "pc,acpi=off", "q35", "q35,acpi=off", "microvm", "microvm,acpi=off")
MEMORY = ("256M", "3G", "5G")  # small; up to the PCI hole, which cuts it on q35; beyond it
# None; whole pages; one byte in the last page; a last page that lacks one byte
MODULES = (0, 12288, 8193, 12287)
# Names of QEMU's firmware files that can make a PVH hand-off. Booting a file shows which firmware it is.
IMAGES = ("bios-256k.bin", "bios-microvm.bin", "bios.bin", "qboot.rom")
PROBE = "hello"  # the guest that shows whether a setup makes a hand-off
PROBE_TIMEOUT = 10.0  # seconds; a firmware that is not for that machine loops for ever


@dataclass(frozen=True)
class Found:
    """The setups of one QEMU that make a hand-off, one for each machine and kind of firmware, and the others."""

    version: str
    setups: tuple[Setup, ...]
    barren: tuple[Setup, ...]


def machine_types(qemu: str) -> frozenset[str]:
    """The machine types that the program `qemu` has. Raises VmmFailed."""
    return frozenset(line.split()[0] for line in _ask(qemu, "-machine", "help")[1:] if line.strip())


def images(qemu: str) -> tuple[str, ...]:
    """The firmware images of `IMAGES` that are in the search path of the program `qemu`. Raises VmmFailed."""
    folders = [Path(line) for line in _ask(qemu, "-L", "help")]
    return tuple(name for name in IMAGES if any((folder / name).is_file() for folder in folders))


def find(qemu: str, machines: Sequence[str], boot_all: Callable[[Sequence[Setup]], Iterable[Boot]]) -> Found:
    """Boot the guest `PROBE` once on each machine with its default firmware and with each image, and keep one of each kind.

    `boot_all` boots that guest, with the smallest memory and no module. `decode.firmware` decides the kind from the machine at its entry, never from the image's name. The default is preferred.
    """
    has = machine_types(qemu)
    names = (None, *images(qemu))
    wanted = [Setup(qemu, machine, name) for machine in machines if machine.split(",")[0] in has for name in names]
    probes = {probe.case.setup: probe for probe in boot_all(wanted)}
    setups: dict[tuple[str, str | None], Setup] = {}
    for setup in wanted:
        kind = probes[setup].firmware
        if not probes[setup].failure:
            setups.setdefault((setup.machine, kind), replace(setup, firmware=kind))
    versions = [probe.vmm.version for probe in probes.values() if probe.vmm.version]
    return Found(versions[0] if versions else "", tuple(setups.values()), tuple(s for s in wanted if probes[s].failure))


def _ask(qemu: str, *words: str) -> list[str]:
    program = shutil.which(qemu)
    if program is None:
        raise not_installed(qemu)
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, errors="replace", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise VmmFailed(f"{qemu} {' '.join(words)} failed: {error}", "give a QEMU for x86 with --qemu") from error
    return done.stdout.splitlines()
