"""Programs that a test cannot do without."""

import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Skip the test where one of the programs is missing; fail it in CI, where nothing may be missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
