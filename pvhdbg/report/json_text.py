"""The text form of every JSON answer. `json` is imported on demand: text, the usual format, does not need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def written(document: Mapping[str, Any]) -> str:
    """ASCII, with all other characters escaped; indented; a newline at the end."""
    import json

    return json.dumps(document, indent=2) + "\n"
