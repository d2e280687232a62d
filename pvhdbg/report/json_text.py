"""A document as every JSON answer writes it. `json` is imported by who wants one: text, the usual answer, goes without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def written(document: Mapping[str, Any]) -> str:
    """ASCII, whatever the guest named things; indented for people; a newline at the end."""
    import json

    return json.dumps(document, indent=2) + "\n"
