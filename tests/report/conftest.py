"""Fixtures for the reports' tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.browser import browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, one for a module's tests."""
    with browser() as tab:
        yield tab
