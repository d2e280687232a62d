"""Fixtures that tests of every room share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _beside(name: str) -> ModuleType:
    # --import-mode=importlib puts no folder on the path: helpers next to the tests are loaded by file.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


real_kernel = _beside("real_kernel")
elf_writer = _beside("elf_writer")
core_writer = _beside("core_writer")
defects = _beside("defects")
broken_notes = _beside("broken_notes")


@pytest.fixture(scope="session")
def vmlinux() -> Path:
    """The ELF of the distribution's cloud kernel."""
    path: Path = real_kernel.or_skip(real_kernel.vmlinux)
    return path


@pytest.fixture(scope="session")
def vmlinuz() -> Path:
    """The same kernel as a bzImage."""
    path: Path = real_kernel.or_skip(real_kernel.vmlinuz)
    return path


@pytest.fixture(scope="session")
def xen_shim() -> Path:
    """Xen's pv-shim."""
    path: Path = real_kernel.or_skip(real_kernel.xen_shim)
    return path


@pytest.fixture(scope="session")
def xen_gz() -> Path:
    """The Xen hypervisor, compressed."""
    path: Path = real_kernel.or_skip(real_kernel.xen_gz)
    return path


@pytest.fixture(scope="session")
def grub_pvh() -> Path:
    """GRUB as a PVH guest."""
    path: Path = real_kernel.or_skip(real_kernel.grub_pvh)
    return path
