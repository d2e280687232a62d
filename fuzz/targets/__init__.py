"""The targets, one a file: `TARGET` in each module. Importing this imports none of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from fuzz.target import Target


def names() -> list[str]:
    """Of all targets."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Target:
    """One target, with all that it imports."""
    found = import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(found, Target)
    return found
