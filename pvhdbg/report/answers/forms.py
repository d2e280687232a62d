"""What a type of a declared answer consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


@cache
def fields_of(kind: Any) -> Mapping[str, Any]:
    """The fields of a dataclass or named tuple with their types; empty for any other type."""
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return get_type_hints(kind, include_extras=True)
    return {}


def contents(kind: Any) -> Any | None:
    """The type of the values in a tuple of any length, or in a mapping; None for any other type."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple and arguments[1:] == (Ellipsis,):
        return arguments[0]
    return arguments[1] if isinstance(origin := get_origin(kind), type) and issubclass(origin, Mapping) else None


def not_null(kind: Any) -> Any | None:
    """`X` of `X | None`; None for any other type."""
    arguments = get_args(kind)
    if NoneType not in arguments:
        return None
    return next(one for one in arguments if one is not NoneType)
