"""The files in fuzz/corpus/TARGET: inputs that no writer makes, and past failures, each a regression."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def files(name: str) -> list[Path]:
    """Those of one target."""
    folder = FOLDER / name
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
