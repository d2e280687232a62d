"""`schema`: the JSON schemas of all answers, which are files of the package."""

from __future__ import annotations

import os

from pvhdbg.commands.declare import Answer, Context, shows, takes
from pvhdbg.errors import BadInput
from pvhdbg.record import NamedTuple
from pvhdbg.report.answers.tool import SchemasAnswer

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "report", "schemas")
_ENDING = "-1.json"


class SchemaOptions(NamedTuple):
    """The options of `schema`."""

    name: str | None = None


def names() -> list[str]:
    """The names of all schemas."""
    return sorted(one.removesuffix(_ENDING) for one in os.listdir(FOLDER) if one.endswith(_ENDING))


@takes(SchemaOptions)
def schema(options: SchemaOptions, context: Context) -> Answer:
    """`schema`: one schema, or their names. Raises BadInput for a name that there is not."""
    if options.name is None:
        ids = tuple(f"pvhdbg/{name}/1" for name in names())
        return shows(lambda _: "".join(f"{one}\n" for one in ids), SchemasAnswer(ids))
    name = options.name.removeprefix("pvhdbg/").removesuffix("/1")
    if name not in names():
        raise BadInput(f"{options.name} is not a schema", "list them with: pvhdbg schema")
    with open(os.path.join(FOLDER, f"{name}{_ENDING}"), encoding="utf-8") as file:
        text = file.read().rstrip("\n") + "\n"
    return Answer(lambda _: text, lambda: text)
