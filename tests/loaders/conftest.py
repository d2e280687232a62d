"""A folder with a short path: a loader's errors and a multiboot command line hold the kernel's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_runner import scratch


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path
