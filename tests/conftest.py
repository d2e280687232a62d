"""Fixtures that tests of every room share."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests import real_kernel


@pytest.fixture(scope="session")
def vmlinux() -> Path:
    """The ELF of the distribution's cloud kernel."""
    return real_kernel.or_skip(real_kernel.vmlinux)


@pytest.fixture(scope="session")
def vmlinuz() -> Path:
    """The same kernel as a bzImage."""
    return real_kernel.or_skip(real_kernel.vmlinuz)


@pytest.fixture(scope="session")
def vmlinux32() -> Path:
    """The ELF32 of Debian's kernel for 32-bit PCs. Ubuntu has no such kernel, so there is none to be had."""
    if platform.freedesktop_os_release().get("ID") == "ubuntu":
        pytest.skip("Ubuntu has no kernel for 32-bit PCs")
    return real_kernel.or_skip(real_kernel.vmlinux32)


@pytest.fixture(scope="session")
def xen_shim() -> Path:
    """Xen's pv-shim."""
    return real_kernel.or_skip(real_kernel.xen_shim)


@pytest.fixture(scope="session")
def xen_gz() -> Path:
    """The Xen hypervisor, compressed."""
    return real_kernel.or_skip(real_kernel.xen_gz)


@pytest.fixture(scope="session")
def grub_pvh() -> Path:
    """GRUB as a PVH guest."""
    return real_kernel.or_skip(real_kernel.grub_pvh)
