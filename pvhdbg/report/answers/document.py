"""An answer as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pvhdbg.model import HEX
from pvhdbg.report.answers.declare import NAMES, PartOf
from pvhdbg.report.answers.forms import contents, fields_of, not_null
from pvhdbg.report.json_text import written


def json_of(answer: NamedTuple) -> str:
    """The answer as a JSON document."""
    return written({"schema": f"pvhdbg/{NAMES[type(answer)]}/1", **plain(answer, type(answer))})


def plain(value: Any, kind: Any) -> Any:
    """A value as JSON has it, by its declared type."""
    if value is None:
        return None
    if get_origin(kind) is Annotated:
        inner, mark = get_args(kind)
        return value if isinstance(mark, PartOf) else f"{value:#x}" if mark == HEX else plain(value, inner)
    if fields := fields_of(kind):
        return {name: plain(getattr(value, name), one) for name, one in fields.items()}
    if (inside := contents(kind)) is not None:
        if isinstance(value, Mapping):
            return {str(name): plain(one, inside) for name, one in value.items()}
        return [plain(one, inside) for one in value]
    if (one := not_null(kind)) is not None:
        return plain(value, one)
    if isinstance(value, Enum):
        return value.value
    return value.hex() if isinstance(value, bytes) else value
