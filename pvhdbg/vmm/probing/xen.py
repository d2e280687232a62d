"""Xen itself as the loader of a PVH dom0, under QEMU's emulation of an AMD machine: no host with Xen is needed.

QEMU loads Xen by multiboot and gives it the probe as its first module, which is dom0's kernel. Xen prints what dom0 writes to its
serial port, with "(d0) " in front of each line, and halts the machine when dom0 halts.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

from pvhdbg.errors import BadInput, VmmFailed
from pvhdbg.model import Vmm
from pvhdbg.vmm.failures import INSTALL
from pvhdbg.vmm.options import DEFAULT_QEMU
from pvhdbg.vmm.probing import programs
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish

# cpuidle=off: without it Xen 4.20 waits for a timer that the emulation delivers late.
_XEN_OPTIONS = "console=com1 loglvl=all guest_loglvl=all cpuidle=off dom0=pvh"
_MACHINE = ("-M", "q35", "-cpu", "EPYC", "-device", "amd-iommu")
_XENS_OWN = 768  # MiB of the machine that are not dom0's
_IMAGE_LIMIT = 64 << 20  # bytes, unpacked
_NAME = re.compile(r"xen-([0-9.]+)(?:-amd64)?(?:\.gz)?")
_VERSION = re.compile(rb"\(XEN\) Xen version ([0-9]{1,3}(?:\.[0-9]{1,3}){1,2})")
_PACKAGES = "xen-hypervisor-[0-9.]+-amd64"
_PATIENCE = 300.0  # seconds for a download of 2 MB


def cache() -> Path:
    """The folder that a fetched Xen is in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvhdbg" / "xen"


def images() -> list[Path]:
    """The Xen images of this machine's boot folder and of our cache, the newest version first."""
    found = [path for folder in (Path("/boot"), *_unpacked(cache())) for path in folder.glob("xen-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_release, reverse=True)


def fetch(folder: Path) -> Path:
    """Download this release's package of Xen by apt-get and unpack it into `folder`; nothing is installed. Raises VmmFailed."""
    for need in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(need) is None:
            raise VmmFailed(f"Xen cannot be fetched: {need} is not here", "name an image of Xen with --binary")
    names = sorted(re.findall(_PACKAGES, _said(("apt-cache", "pkgnames", "xen-hypervisor-"), folder=None)), key=_numbers)
    if not names:
        raise VmmFailed("this release has no package of Xen", "run apt-get update, or name an image of Xen with --binary")
    target = folder / names[-1]
    if not list(target.glob("boot/xen-*.gz")):
        target.mkdir(parents=True, exist_ok=True)
        _said(("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", names[-1]), folder=target)
        for package in target.glob("*.deb"):
            _said(("dpkg-deb", "-x", str(package), str(target)), folder=target)
            package.unlink()
    found: list[Path] = [path for path in target.glob("boot/xen-*.gz") if _NAME.fullmatch(path.name)]
    if not found:
        raise VmmFailed(f"the package {names[-1]} holds no image of Xen", "name an image of Xen with --binary")
    return found[0]


def _said(command: tuple[str, ...], folder: Path | None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise VmmFailed(
            f"{' '.join(command[:2])} failed: {error}", "run apt-get update, or name an image of Xen with --binary"
        ) from error
    return done.stdout


def _find(binary: str | None) -> Found:
    qemu = programs.program(None, DEFAULT_QEMU, INSTALL.replace(", or name one with --qemu", ""), kvm=False)
    if qemu.missing:
        return qemu._replace(missing=f"Xen is booted in QEMU: {qemu.missing}")
    path = Path(binary) if binary else next(iter(images()), None)
    if path is None:
        todo = (
            "add --fetch, which downloads the release's package of Xen (2 MB) into ~/.cache/pvhdbg and installs nothing, or name "
        )
        return Found(missing="there is no image of Xen in /boot", todo=f"{todo}an image with --binary")
    if not path.is_file():
        return Found(missing=f"{path} is not a file", todo="check the path given with --binary")
    name = _NAME.fullmatch(path.name)
    return Found(str(path), name[1] if name else "")


def _prepare(wish: Wish, found: Found, folder: str) -> Launch:
    image = os.path.join(folder, "xen")
    _unpack(Path(found.path), Path(image))
    console = os.path.join(folder, "console")
    modules = [wish.kernel + (f" {wish.append}" if wish.append else ""), *wish.initrds]
    options = f"{_XEN_OPTIONS} dom0_mem={wish.mib}M"
    qemu = shutil.which(DEFAULT_QEMU) or DEFAULT_QEMU
    command = [qemu, *_MACHINE, "-m", str(wish.mib + _XENS_OWN), "-kernel", image, "-append", options]
    command += ["-initrd", ",".join(module.replace(",", ",,") for module in modules)]  # QEMU's list of multiboot modules
    command += ["-display", "none", "-nic", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{console}"]
    return Launch(tuple(command), Vmm("Xen", found.version or None, None, tuple(command)), console, _VERSION)


def _unpack(image: Path, to: Path) -> None:
    """The image, unpacked where it is compressed: QEMU loads an ELF. Raises BadInput."""
    try:
        with open(image, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(image) if packed else open(image, "rb") as source:
            data = source.read(_IMAGE_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{image} cannot be read: {error}", "give the image of a Xen hypervisor, as xen-4.17-amd64.gz") from error
    if not data.startswith(b"\x7fELF") or len(data) > _IMAGE_LIMIT:
        raise BadInput(f"{image} is not an image of Xen that QEMU loads", "give the hypervisor as ELF, as xen-4.17-amd64.gz")
    to.write_bytes(data)


def _unpacked(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/boot"))


def _release(path: Path) -> tuple[int, ...]:
    found = _NAME.fullmatch(path.name)
    return _numbers(found[1]) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text))


XEN = ProbedVmm(
    "xen", "Xen", _find, _prepare, modules=16, seconds=90.0, silent="Xen could not build dom0; see its messages with --save"
)
