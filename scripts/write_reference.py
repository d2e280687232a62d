"""The pages of the reference, made of the declarations: commands, exit codes, JSON schemas, and the Python API."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pvhdbg
from pvhdbg.api import OTHER_NAMES
from pvhdbg.commands.declare import Argument, Command
from pvhdbg.commands.overview import CLOSING, by_topic, page_of
from pvhdbg.commands.schema import FOLDER, names
from pvhdbg.commands.table import COMMANDS, LIVE
from pvhdbg.commands.tables.shared import section_of
from pvhdbg.expect.fields import every_path, resolve
from pvhdbg.guests import names as guest_names
from pvhdbg.spec.deviations import DEVIATIONS
from pvhdbg.spec.linux_symbols import MILESTONES
from pvhdbg.tracing.milestones import TITLES


def write_reference(folder: Path) -> None:
    """Write all pages into the folder. A page that has not changed stays as it is, so that Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    pages = {"commands": _commands(), "schemas": _schemas(), "python": _python(), "lists": _lists()}
    for name, lines in pages.items():
        path, text = folder / f"{name}.md", "\n".join(lines) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("%%", "%")


# --- commands -----------------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield from ("# Commands", "", "Each command with its options, as `pvhdbg COMMAND --help` has them.", "")
    yield from ("```text", CLOSING, "```", "")
    for topic, commands in by_topic():
        yield from (f"## {topic[0].upper()}{topic[1:]}", "")
        for command in commands:
            yield from _command(command)
    yield from ("## In a session only", "", "These are commands of the prompt and of GDB.", "")
    for command in LIVE:
        if command not in COMMANDS:
            yield from _command(command)


def _command(command: Command) -> Iterator[str]:
    yield from (
        f"### `{command.name}`",
        "",
        f"{command.help[0].upper()}{command.help[1:]}. More: [{page_of(command.name)}](../{page_of(command.name)}.md)",
        "",
    )
    if command.example:
        yield from ("```text", f"$ {command.example}", "```", "")
    sections: dict[str, list[Argument]] = {}
    live = not command.example
    for one in command.arguments_for(live=live):
        sections.setdefault(section_of(one) if one.names[0].startswith("-") else "", []).append(one)
    if not live:
        sections["output"] = list(command.output_arguments())
    for title, arguments in sections.items():
        yield from (f"*{title}*", "") if title else ()
        yield from ("| argument | what it is |", "|---|---|")
        yield from (f"| {_name(one)} | {_cell(str(one.options.get('help', '')))} |" for one in arguments)
        yield ""


def _name(argument: Argument) -> str:
    value = argument.options.get("metavar") or (",".join(map(str, argument.options.get("choices", ()))))
    if not argument.names[0].startswith("-"):
        return f"`{_cell(str(value or argument.names[0]))}`"
    shown = ", ".join(argument.names) + (f" {value}" if value else "")
    return f"`{_cell(shown)}`"


# --- JSON ---------------------------------------------------------------------------------------------------------


def _schemas() -> Iterator[str]:
    yield from ("# JSON answers", "", "`--format json` gives one document. Its field `schema` is the id of its schema, and `pvhdbg schema NAME`", "prints that.",
                "Addresses, register values and sizes are hexadecimal strings, counts are numbers; what was not observed is null.", "")  # fmt: skip
    for name in names():
        schema = json.loads(Path(FOLDER, f"{name}-1.json").read_text(encoding="utf-8"))
        yield from (f"## `pvhdbg/{name}/1`", "", _cell(str(schema.get("title", ""))), "")
        properties = schema.get("properties", {})
        if properties:
            yield "| field | type |"
            yield "|---|---|"
            yield from (f"| `{field}` | {_cell(_type(one))} |" for field, one in properties.items())
            yield ""


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):  # `items: false`
        return "nothing"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix("#/$defs/")
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_type(one) for one in schema[word])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


# --- Python -------------------------------------------------------------------------------------------------------


def _python() -> Iterator[str]:
    yield from (
        "# All names of Python",
        "",
        "`import pvhdbg` has these names; [from Python](../python.md) has examples. In short:",
        "",
    )
    yield from ("| command | function |", "|---|---|")
    yield from (f"| `pvhdbg {command}` | [`{name}`](#{name.lower()}) |" for command, name in functions())
    yield ""
    for name in sorted(pvhdbg.__all__, key=str.lower):
        one = getattr(pvhdbg, name)
        yield from (f"## `{name}`", "")
        if inspect.isclass(one) or inspect.isfunction(one):
            yield from (
                "```python",
                f"{'class ' if inspect.isclass(one) else ''}{name}{_signature(one)}",
                "```",
                "",
                *_text(one),
                "",
            )
            if (command := command_of(name)) is not None:
                yield from (f"The command [`pvhdbg {command}`](commands.md#{command.replace(' ', '-')}).", "")
            yield from _methods(one) if inspect.isclass(one) else ()
        else:
            shown = repr(one)
            yield from (f"A constant: `{shown}`" if len(shown) < 60 else f"A {type(one).__name__} of {len(one)}.", "")


def command_of(name: str) -> str | None:
    """The command that a name of `pvhdbg` is the function of, if any."""
    commands = {command.name: command.name for command in COMMANDS}
    return (
        commands.get(OTHER_NAMES.get(name, ""))
        or commands.get(name)
        or commands.get(name.replace("_", " "))
        or commands.get(name.replace("_", "-"))
    )


def functions() -> list[tuple[str, str]]:
    """Each command with its function, in the commands' order; a command may have several."""
    found = [(command, name) for name in pvhdbg.__all__ if (command := command_of(name)) is not None]
    order = [command.name for command in COMMANDS]
    return sorted(found, key=lambda pair: order.index(pair[0]))


def _methods(kind: type) -> Iterator[str]:
    for name, one in vars(kind).items():
        function = one.fget if isinstance(one, property) else one
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        shown = f".{name}" if isinstance(one, property) else f".{name}{_signature(function)}"
        yield from ("```python", shown, "```", "", *_text(function), "")


def _signature(one: Any) -> str:
    try:
        return str(inspect.signature(one)).replace("'", "")
    except ValueError:
        return ""


def _text(one: Any) -> Iterator[str]:
    text = inspect.getdoc(one) or ""
    yield from ("```text", text, "```") if "::" in text or "\n    " in text else (_cell(text).replace("*", "\\*"),)


# --- lists --------------------------------------------------------------------------------------------------------


def _lists() -> Iterator[str]:
    yield from ("# Deviations, milestones, fields, guests", "", "## Deviations on record", "")
    yield from ("| name | rule | why |", "|---|---|---|")
    yield from (f"| `{one.key}` | [{one.rule}](../rules.md#{one.rule.lower()}) | {_cell(one.why)} |" for one in DEVIATIONS)
    yield from ("", "## Milestones of a boot", "", "| name | meaning |", "|---|---|")
    yield from (f"| `{name}` | {_cell(title)} |" for name, title in TITLES.items())
    yield from (f"| `{name}` | Linux' function of this name |" for name in MILESTONES)
    yield from (
        "",
        "## Fields of expectations",
        "",
        "Of a list, those of its first entry. [What can be asked of them](../expectations.md).",
        "",
    )
    yield from ("| field | value |", "|---|---|", *(f"| `{path}` | {resolve(path).kind.value} |" for path in every_path()))
    yield from (
        "",
        "## Sample guests",
        "",
        f"{', '.join(f'`{name}`' for name in guest_names())}: [their page](../sample-guests.md).",
        "",
    )
