"""Fixtures that tests of every room share."""

import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import real_kernel
from tests.support.cli_runner import Cli, Machine, scratch
from tests.support.forked import Forker
from tests.support.linked_kernels import paging_kernel, small_kernel_32

pytest_plugins = ["tests.support.sorting"]

gc.set_threshold(50_000)  # objects between two collections: with Python's 700, collections are a fifth of the tests' CPU time


@pytest.fixture(scope="session")
def qemu() -> str:
    """QEMU. A fixture that starts it asks for this, so that its tests are marked `boot`."""
    return "qemu-system-x86_64"


@pytest.fixture(scope="session")
def gdb() -> str:
    """GDB. A fixture that starts it asks for this, so that its tests are marked `gdb`."""
    return "gdb"


@pytest.fixture(scope="session")
def packages() -> None:
    """The distribution's packages, fetched or kept. A fixture that takes files out of them asks for this: its tests are not fast ones."""


@pytest.fixture(scope="session")
def vmlinux(packages: None) -> Path:
    """The ELF of the distribution's cloud kernel."""
    return real_kernel.or_skip(real_kernel.vmlinux)


@pytest.fixture(scope="session")
def vmlinux_debug(packages: None) -> Path:
    """The same kernel with debug info. A test that asks for it is marked `real`."""
    return real_kernel.or_skip(real_kernel.vmlinux_debug)


@pytest.fixture(scope="session")
def vmlinuz(packages: None) -> Path:
    """The same kernel as a bzImage."""
    return real_kernel.or_skip(real_kernel.vmlinuz)


@pytest.fixture(scope="session")
def vmlinux32(packages: None) -> Path:
    """The ELF32 of Debian's kernel for 32-bit PCs. Ubuntu has no such kernel, so there is none to be had."""
    if platform.freedesktop_os_release().get("ID") == "ubuntu":
        pytest.skip("Ubuntu has no kernel for 32-bit PCs")
    return real_kernel.or_skip(real_kernel.vmlinux32)


@pytest.fixture(scope="session")
def xen_shim(packages: None) -> Path:
    """Xen's pv-shim."""
    return real_kernel.or_skip(real_kernel.xen_shim)


@pytest.fixture(scope="session")
def xen_gz(packages: None) -> Path:
    """The Xen hypervisor, compressed."""
    return real_kernel.or_skip(real_kernel.xen_gz)


@pytest.fixture(scope="session")
def grub_pvh(packages: None) -> Path:
    """GRUB as a PVH guest."""
    return real_kernel.or_skip(real_kernel.grub_pvh)


@pytest.fixture(scope="session")
def forker(pytestconfig: pytest.Config) -> Iterator[Forker | None]:
    """With --fast, the process whose forked children the commands are."""
    if not pytestconfig.getoption("--fast"):
        yield None
        return
    with closing(Forker()) as one:
        yield one


@pytest.fixture
def cli(forker: Forker | None) -> Iterator[Cli]:
    """The command line in a scratch TMPDIR of its own. Afterwards nothing of it may run, and nothing may be left."""
    with scratch() as folder:
        runner = Cli(folder, forker)
        try:
            yield runner
            runner.nothing_left()
        except BaseException:
            runner.clear()
            raise


@pytest.fixture
def machine(qemu: str) -> Iterator[Callable[..., Machine]]:
    """Starts QEMUs that are not pvhdbg's, and ends them."""
    started: list[Machine] = []

    def start(*words: str, **options: str) -> Machine:
        one = Machine(*words, **options)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def paging_kernels() -> Iterator[Callable[[int], str]]:
    """Kernels that turn on paging of 2, 3, 4 or 5 levels (2: 32-bit, 3: PAE), made when they are first asked for."""
    with scratch() as folder:
        yield lambda levels: paging_kernel(folder, levels)


@pytest.fixture(scope="session")
def small32() -> Iterator[Path]:
    """A 32-bit guest that takes Linux' way under Linux' names. What Debian's kernel shows where there is one, it shows everywhere."""
    with scratch() as folder:
        yield small_kernel_32(folder)


@pytest.fixture(scope="session", params=["small32", "vmlinux32"])
def kernel32(request: pytest.FixtureRequest, packages: None) -> Path:
    """The small 32-bit guest, and Debian's kernel for 32-bit PCs."""
    path: Path = request.getfixturevalue(request.param)
    return path
