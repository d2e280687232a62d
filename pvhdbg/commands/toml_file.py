"""A TOML file that a user wrote, bounded and with the place of an error."""

from __future__ import annotations

import sys
from typing import Any

from pvhdbg.errors import BadInput, cause_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_BOUND = 1 << 20  # bytes


def toml_document(path: str, kind: str, todo: str) -> dict[str, Any]:
    """The file's content. `kind` is what it should be, for messages: "a file of expectations"; `todo` is the next step.

    Raises BadInput, with line and column where it is not TOML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BOUND + 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {cause_of(error)}", todo) from error
    if len(data) > FILE_BOUND:
        raise BadInput(f"{path} is larger than {FILE_BOUND >> 10} KiB: it is not {kind}", todo)
    try:
        document: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadInput(f"{path} is not TOML: it is not UTF-8 (at line {line}, column {column})", todo) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, and says where
        raise BadInput(f"{path} is not TOML: {error}", "see https://toml.io for how it is written") from error
    return document
