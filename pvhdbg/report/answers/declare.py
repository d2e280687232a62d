"""How an answer is declared: its name, and fields that are parts of the document of another schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

T = TypeVar("T")
NAMES: dict[type[Any], str] = {}  # the answers that were imported


def answer(name: str) -> Callable[[type[T]], type[T]]:
    """Declares that a named tuple is the answer of that name."""

    def declared(kind: type[T]) -> type[T]:
        NAMES[kind] = name
        return kind

    return declared


class PartOf(NamedTuple):
    """Marks a field that has the form of a property in another schema: its name and the path to the property in it."""

    schema: str
    way: tuple[str | int, ...]


START_INFO = ("properties", "start_info", "anyOf", 0, "properties")
TraceLine = Annotated[Mapping[str, Any], PartOf("trace", ())]  # a line of a saved trace
