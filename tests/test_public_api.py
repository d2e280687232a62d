"""The public surface: exactly `__all__`, sorted as ruff sorts it, every name with a docstring, lazily imported."""

from __future__ import annotations

import subprocess
import sys

import pvhdbg


def test_all_is_what_can_be_imported() -> None:
    for name in pvhdbg.__all__:
        assert getattr(pvhdbg, name) is not None
    assert set(pvhdbg.__all__) == set(pvhdbg._HOME)


def test_public_classes_and_functions_are_documented() -> None:
    for name in pvhdbg.__all__:
        value = getattr(pvhdbg, name)
        if isinstance(value, type) or callable(value):
            assert value.__doc__, name


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, pvhdbg; print([m for m in sys.modules if m.startswith('pvhdbg.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
