"""Loads the helpers of these tests under the names that they have for mypy; see tests/frontends/conftest.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _beside(name: str) -> Any:
    full = f"tests.report.{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


_beside("reports")
_browser = _beside("browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, one for a module's tests."""
    with _browser.browser() as tab:
        yield tab
