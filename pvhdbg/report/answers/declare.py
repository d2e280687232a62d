"""What the fields of an answer can be besides plain values: a part of the document of another schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple


class PartOf(NamedTuple):
    """Marks a field that has the form of a property in another schema: its name and the way to the property in it."""

    schema: str
    way: tuple[str | int, ...]


START_INFO = ("properties", "start_info", "anyOf", 0, "properties")
TraceLine = Annotated[Mapping[str, Any], PartOf("trace", ())]  # a line of a saved trace
