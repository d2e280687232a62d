"""Fixtures for the command line's tests; see cli_runner for what they hand out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontends.cli_runner import Cli, Machine, need, paging_kernel, scratch, small_kernel_32


@pytest.fixture
def cli() -> Iterator[Cli]:
    """The command line in a scratch TMPDIR of its own. Afterwards nothing of it may run, and nothing may be left."""
    with scratch() as folder:
        runner = Cli(folder)
        try:
            yield runner
            runner.nothing_left()
        finally:
            runner.clear()


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Starts QEMUs that are not pvhdbg's, and ends them."""
    need("qemu-system-x86_64")
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
    """A 32-bit guest that goes Linux' way under Linux' names: what Debian's kernel shows where there is one, it shows everywhere."""
    with scratch() as folder:
        yield small_kernel_32(folder)


@pytest.fixture(scope="session", params=["small32", "vmlinux32"])
def kernel32(request: pytest.FixtureRequest) -> Path:
    """The small 32-bit guest, and Debian's kernel for 32-bit PCs."""
    path: Path = request.getfixturevalue(request.param)
    return path
