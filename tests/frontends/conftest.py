"""Fixtures for the command line's tests; see cli_runner for what they hand out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# --import-mode=importlib puts no folder on the path: the helpers are loaded by file, under the name they have for mypy.
for _file in ("cli_runner", "terminal", "emulator"):
    _name = f"tests.frontends.{_file}"
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).parent / f"{_file}.py")
        assert _spec is not None
        assert _spec.loader is not None
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_name] = _module
        _spec.loader.exec_module(_module)

from tests.frontends.cli_runner import Cli, Machine, need, paging_kernel, scratch  # noqa: E402


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
