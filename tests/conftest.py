"""Fixtures that tests of every room share."""

from __future__ import annotations

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
