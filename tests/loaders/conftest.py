"""Puts this folder's helpers where its tests import them from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# --import-mode=importlib puts no folder on the path: the helpers are loaded by file, under the name they have for mypy.
for _name in ("generated", "real_qemu"):
    _full = f"tests.loaders.{_name}"
    if _full not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_full, Path(__file__).parent / f"{_name}.py")
        assert _spec is not None
        assert _spec.loader is not None
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_full] = _module
        _spec.loader.exec_module(_module)
