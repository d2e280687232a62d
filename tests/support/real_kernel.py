"""Real kernels for the tests, from the distribution's own packages: fetched once, without root, and kept in one place.

Debian's linux-image-cloud-amd64 (on Ubuntu linux-image-virtual) and, for 32 bits, its linux-image-686-pae, the xen-shim of the
newest xen-utils, the hypervisor of the newest xen-hypervisor, and GRUB's PVH image, made of grub-xen-bin's modules by its own
grub-mkimage. The ELF is taken out of the bzImage by the project's own code.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg.kernel.image import extract

KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
KERNEL_PACKAGES_32 = ("linux-image-686-pae",)
_LAST_WITH_32 = ("bookworm", 12)  # the last release of Debian that has it: later ones fetch it from there
_FETCH_TIME = 300


class Unobtainable(Exception):
    """The package cannot be had here; the message says why."""


def cache() -> Path:
    """Where what was fetched is kept: the user's cache, or the checkout's when that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvhdbg"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    base = Path(__file__).parents[2] / ".cache" / "pvhdbg"
    base.mkdir(parents=True, exist_ok=True)
    return base


def vmlinux() -> Path:
    """The ELF kernel inside the distribution's current cloud kernel."""
    return _kept("vmlinux", lambda place: _extracted(vmlinuz(), place))


def vmlinuz() -> Path:
    """That kernel as the distribution ships it: a bzImage."""
    return _kept("vmlinuz", lambda place: _from_package(_kernel_package(), "boot/vmlinuz-*", place))


def vmlinux_debug() -> Path:
    """The same kernel's own vmlinux with all debug info, of the distribution's package of debug symbols: 300 MB to fetch, 800 MB to keep."""
    return _kept("vmlinux-dbg", lambda place: _from_package(f"{_kernel_package()}-dbg", "usr/lib/debug/boot/vmlinux-*", place))


def vmlinux32() -> Path:
    """The ELF32 inside the distribution's kernel for 32-bit PCs."""
    return _kept("vmlinux32", _kernel_for_32_bits)


def xen_shim() -> Path:
    """Xen's pv-shim: an ELF32 with a multiboot header and a PVH note."""
    return _kept("xen-shim", lambda place: _from_package(_newest("xen-utils-4."), "usr/lib/xen-*/boot/xen-shim", place))


def xen_gz() -> Path:
    """The Xen hypervisor: a gzip around an ELF32 with multiboot headers, and no PVH note where it was built without."""
    return _kept("xen.gz", lambda place: _from_package(_newest("xen-hypervisor-4.", "-amd64"), "boot/xen-*.gz", place))


def grub_pvh() -> Path:
    """GRUB as a PVH guest (platform i386-xen_pvh): an ELF32 whose PT_NOTE has no address."""
    return _kept("grub-pvh", _grub_image)


def memtest() -> Path:
    """memtest86+: a bzImage that holds no payload."""
    return _kept("memtest", lambda place: _from_package("memtest86+", "boot/memtest86+*64.bin", place))


def ovmf() -> Path:
    """OVMF, UEFI for virtual machines, as one image for -bios."""
    return _kept("ovmf", lambda place: _from_package("ovmf", "usr/share/qemu/OVMF.fd", place))


def xen_toolstack() -> Path:
    """A folder with the libraries of Xen's toolstack and their headers, as they would lie under /."""
    place = cache() / "xen-toolstack"
    with _locked("xen-toolstack"):
        if not place.exists():
            partial = place.with_name(f".xen-toolstack.{os.getpid()}")
            with _unpacked(*_xen_libraries()) as root:
                shutil.copytree(root, partial, symlinks=True)
            partial.replace(place)
    return place


def _printed(expression: str, *command: str | Path) -> str:
    """The first group of an expression in what a program prints."""
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(expression, listing, re.MULTILINE)
    assert found is not None
    return found[1]


def elf_entry(kernel: Path) -> int:
    """e_entry as readelf reads it: of a Linux startup_64, physical, its first instruction in long mode."""
    return int(_printed(r"Entry point address: +0x([0-9a-f]+)", "readelf", "-hW", kernel), 16)


def symbol_of(kernel: Path, name: str) -> int:
    """The link-time address of a symbol as nm prints it."""
    return int(_printed(rf"^([0-9a-f]+) . {re.escape(name)}$", "nm", kernel), 16)


def noted_entry(kernel: Path) -> int:
    """The PVH entry as readelf prints its note: owner Xen, type 0x12, the address as bytes."""
    data = _printed(r"^  Xen .*\(0x00000012\)\s+description data: ((?:[0-9a-f]{2} )+)", "readelf", "-nW", kernel)
    return int.from_bytes(bytes.fromhex(data), "little")


def image_start(kernel: Path) -> int:
    """The lowest physical address that readelf prints of a PT_LOAD."""
    listing = subprocess.run(["readelf", "-lW", str(kernel)], capture_output=True, text=True, check=True).stdout
    return min(int(start, 16) for start in re.findall(r"^  LOAD +0x\w+ 0x\w+ 0x(\w+) ", listing, re.MULTILINE))


def code_at(kernel: Path, address: int, size: int) -> bytes:
    """The file's bytes at a physical address, by the program headers that readelf prints."""
    listing = subprocess.run(["readelf", "-lW", str(kernel)], capture_output=True, text=True, check=True).stdout
    for row in re.findall(r"^  LOAD +0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) ", listing, re.MULTILINE):
        offset, start, length = (int(word, 16) for word in row)
        if start <= address <= address + size <= start + length:
            with kernel.open("rb") as file:
                file.seek(offset + address - start)
                return file.read(size)
    raise AssertionError(f"{kernel} has nothing at {address:#x}")


def or_skip(get: Callable[[], Path]) -> Path:
    """The file; where it cannot be had the test fails under CI=true and is skipped elsewhere."""
    try:
        return get()
    except Unobtainable as error:
        if os.environ.get("CI"):
            pytest.fail(f"the real kernel is missing: {error}")
        pytest.skip(str(error))


def _kernel_for_32_bits(place: Path) -> None:
    image = place.with_name(f"{place.name}.bz")
    try:
        _from_package(_kernel_package(KERNEL_PACKAGES_32, "i386"), "boot/vmlinuz-*", image, "i386")
        _extracted(image, place)
    finally:
        image.unlink(missing_ok=True)


def _extracted(source: Path, place: Path) -> None:
    extract(str(source), str(place))


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    place = cache() / name
    with _locked(name):
        if not place.exists():
            partial = place.with_name(f".{name}.{os.getpid()}")
            make(partial)
            partial.replace(place)
    return place


@contextmanager
def _locked(name: str) -> Iterator[None]:
    with open(cache() / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist's workers all want it at the same moment
        yield


# --- apt, without root --------------------------------------------------------------------------------------------


def _apt_options(architecture: str = "") -> list[str]:
    """Options that let apt keep its lists in our cache; empty where the system's lists are there to be used."""
    if not architecture and any(Path("/var/lib/apt/lists").glob("*Packages*")):
        return []
    state = cache() / f"apt{architecture}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::Lists={state}/lists", f"Dir::Cache={state}/cache", "APT::Sandbox::User="]
    options += [f"{name}={architecture}" for name in ("APT::Architecture", "APT::Architectures") if architecture]
    words = [word for option in options for word in ("-o", option)]
    if architecture and _newer_than_32_bits():
        (state / "sources.list").write_text(f"deb {_mirror()} {_LAST_WITH_32[0]} main\n")
        options = [*options, f"Dir::Etc::SourceList={state}/sources.list", "Dir::Etc::SourceParts=/dev/null"]
        words = [word for option in options for word in ("-o", option)]
    if not any((state / "lists").glob("*Packages*")):
        try:
            _run("apt-get", *words, "update")
        except Unobtainable:
            if not any((state / "lists").glob("*Packages*")):  # one list of several may be between two states of the mirror
                raise
    return words


def _newer_than_32_bits() -> bool:
    """Whether this is a Debian without kernels for 32-bit PCs."""
    about = platform.freedesktop_os_release()
    return about.get("ID") == "debian" and int(about.get("VERSION_ID", 1 << 16)) > _LAST_WITH_32[1]


def _mirror() -> str:
    """Where the system's own packages come from."""
    return _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()[0]


def _run(*words: str, cwd: Path | None = None) -> str:
    if shutil.which(words[0]) is None:
        raise Unobtainable(f"{words[0]} is not installed")
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=_FETCH_TIME, check=False)
    except subprocess.TimeoutExpired:
        raise Unobtainable(f"{' '.join(words[:3])} took longer than {_FETCH_TIME} s") from None
    if done.returncode:
        raise Unobtainable(f"{' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _kernel_package(packages: tuple[str, ...] = KERNEL_PACKAGES, architecture: str = "") -> str:
    for meta in packages:
        try:
            listing = _run("apt-cache", *_apt_options(architecture), "depends", meta)
        except Unobtainable:
            continue
        found = re.search(r"Depends: (linux-image-[0-9]\S+)", listing)
        if found is not None:
            return found[1]
    raise Unobtainable(f"apt knows none of {', '.join(packages)}")


def _newest(before: str, after: str = "") -> str:
    """The package of that name with the highest number between the two words."""
    pattern = f"{re.escape(before)}([0-9]+){re.escape(after)}"
    listing = _run("apt-cache", *_apt_options(), "search", "--names-only", f"^{pattern}$")
    numbers = [int(number) for number in re.findall(f"^{pattern} ", listing, re.MULTILINE)]
    if not numbers:
        raise Unobtainable(f"apt knows no {before}N{after}")
    return f"{before}{max(numbers)}{after}"


def _from_package(package: str, pattern: str, place: Path, architecture: str = "") -> None:
    with _unpacked(package, architecture=architecture) as root:
        found = sorted(root.glob(pattern))
        if not found:
            raise Unobtainable(f"{package} holds no {pattern}")
        shutil.copyfile(found[0], place)


@contextmanager
def _unpacked(*packages: str, architecture: str = "") -> Iterator[Path]:
    """The files of the packages, in a folder that is there as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="pvhdbg-deb-") as folder:
        work = Path(folder)
        _run("apt-get", *_apt_options(architecture), "-o", "APT::Sandbox::User=", "download", *packages, cwd=work)
        for archive in work.glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(work / "root"))
        yield work / "root"


def _xen_libraries() -> list[str]:
    """libxen-dev and the libraries that it is for."""
    listing = _run("apt-cache", *_apt_options(), "depends", "libxen-dev")
    return ["libxen-dev", *re.findall(r"Depends: (libxen\S+)", listing)]


def _grub_image(place: Path) -> None:
    with _unpacked("grub-xen-bin", "grub-common", "libdevmapper1.02.1") as root:
        libraries = ":".join(str(one) for one in (*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu")))
        modules = root / "usr/lib/grub/i386-xen_pvh"
        words = ["-O", "i386-xen_pvh", "-d", str(modules), "-p", "/boot/grub", "-o", str(place), "normal", "echo"]
        _run("env", f"LD_LIBRARY_PATH={libraries}", str(root / "usr/bin/grub-mkimage"), *words)
