"""The JSON schema of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pvhdbg.model import HEX
from pvhdbg.report.answers.catalogue import ANSWERS
from pvhdbg.report.answers.declare import PartOf
from pvhdbg.report.answers.forms import contents, fields_of, not_null


def schema(name: str, others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of the answer of that name. `others` are the schemas that it takes parts of, by name."""
    kind = ANSWERS[name]
    definitions: dict[str, Any] = {}
    found = _of(kind, others, definitions)
    properties = {"schema": {"const": f"pvhdbg/{name}/1"}, **found["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"pvhdbg/{name}/1",
        "title": " ".join(str(kind.__doc__).split()),
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }


def _of(kind: Any, others: Mapping[str, Mapping[str, Any]], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type. What other schemas define is added to `definitions`."""
    if get_origin(kind) is Annotated:
        inner, mark = get_args(kind)
        if isinstance(mark, PartOf):
            return _part(mark, others[mark.schema], definitions)
        definitions["hex"] = {"type": "string", "pattern": "^-?0x[0-9a-f]+$"}
        return {"$ref": "#/$defs/hex"} if mark == HEX else _of(inner, others, definitions)
    if fields := fields_of(kind):
        shown = {name: _of(one, others, definitions) for name, one in fields.items()}
        return {"type": "object", "properties": shown, "required": list(shown), "additionalProperties": False}
    if (inside := contents(kind)) is not None:
        found = _of(inside, others, definitions)
        return {"type": "array", "items": found} if get_origin(kind) is tuple else {"type": "object", "additionalProperties": found}
    if (one := not_null(kind)) is not None:
        return {"anyOf": [_of(one, others, definitions), {"type": "null"}]}
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string", bytes: "string"}[kind]}


def _part(part: PartOf, whole: Mapping[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A part of another schema, and what it refers to, as definitions under that schema's name."""
    found: Any = whole
    for step in part.way:
        found = found[step]
    if not part.way:
        found = {name: one for name, one in whole.items() if not name.startswith("$") and name != "title"}
    key = f"{part.schema}-{part.way[-1]}" if part.way else part.schema
    waiting = {key: found}
    while waiting:
        name, one = waiting.popitem()
        definitions[name] = _renamed(one, part.schema)
        for other, inner in whole.get("$defs", {}).items():
            if f"'#/$defs/{other}'" in str(one) and f"{part.schema}-{other}" not in definitions:
                waiting[f"{part.schema}-{other}"] = inner
    return {"$ref": f"#/$defs/{key}"}


def _renamed(part: Any, schema: str) -> Any:
    if isinstance(part, Mapping):
        return {
            name: f"#/$defs/{schema}-{one.removeprefix('#/$defs/')}" if name == "$ref" else _renamed(one, schema)
            for name, one in part.items()
        }
    return [_renamed(one, schema) for one in part] if isinstance(part, list) else part
