"""Documents that must meet the schemas that `pvhdbg schema` prints."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from pvhdbg.commands.declare import Context
from pvhdbg.commands.line import parse
from pvhdbg.commands.schema import SchemaOptions, schema
from pvhdbg.report.style import PLAIN


@cache
def validator(name: str) -> Any:
    """The validator for pvhdbg/NAME/1."""
    found = json.loads(schema(SchemaOptions(name), Context()).render("text", PLAIN))
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"] == f"pvhdbg/{name}/1"
    return jsonschema.Draft202012Validator(found)


def valid(found: Any) -> Any:
    """The document, given itself or as text, which meets the schema that it names."""
    document = json.loads(found) if isinstance(found, str) else found
    validator(document["schema"].removeprefix("pvhdbg/").removesuffix("/1")).validate(document)
    return document


def answered(*words: str | Path) -> Any:
    """The document of a command, which runs in this process."""
    command, values = parse([*map(str, words), "--format", "json"])
    return valid(command(values, Context()).render("json", PLAIN))
