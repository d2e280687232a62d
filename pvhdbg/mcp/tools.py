"""The commands as tools: their names, the JSON schemas of their arguments, and the words of a call. Nothing of the SDK is used here.

A tool follows from a command's declaration. What names programs, QEMU's own arguments or files to write is left out of it: an agent
must not be able to run more than a guest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pvhdbg.commands.declare import Argument, Command
from pvhdbg.commands.table import COMMANDS
from pvhdbg.driver.saved_traces import is_saved
from pvhdbg.errors import BadInput
from pvhdbg.machine.subject_kind import subject_kind
from pvhdbg.repl.own_commands import ALL

# They write a file, start another VMM than ours, or are a report before a prompt.
_LEFT_OUT = frozenset({"run", "attach", "probe", "boot", "boot diff"})
_NEVER_RUN = frozenset({"elf", "explain", "rules", "schema", "doctor", "trace query", "trace diff", "boot show", "boot profile"})
_OF_PROMPT = (
    "continue", "stepi", "until", "finish", "break", "watch", "delete", "info breakpoints", "x", "context", "reset", "restart", "back",
    "last-write",
)  # fmt: skip
_HIDDEN = frozenset({"--output", "--serial", "--qemu", "--via", "--exit", "--bisect", "--leave"})
_SUBJECTS = ("subject", "a", "b")
OPEN, CLOSE, SNAPSHOT = "open_machine", "close_machine", "snapshot"
LONGEST = 120.0  # seconds that one call may let a machine run
SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST, "description": "how long the guest may run (default: 10)"}


class AgentTool(NamedTuple):
    """One tool. `alone` is the command for a subject of its own, `live` that for the open machine; one of them may be missing."""

    name: str
    description: str
    schema: Mapping[str, Any]
    alone: Command | None
    live: Command | None

    @property
    def reads(self) -> bool:
        """Whether it never runs a machine, whatever its subject is."""
        return self.alone is not None and self.alone.name in _NEVER_RUN


def tools(allow_run: bool) -> dict[str, AgentTool]:
    """All tools by name; those that only work on a machine that runs need `allow_run`."""
    live = {command.name: command for command in ALL}
    found = [
        _tool(command, live.get(command.name) if allow_run else None)
        for command in COMMANDS
        if "json" in command.formats and command.name not in _LEFT_OUT
    ]
    if allow_run:
        found += [_tool(None, live[name]) for name in _OF_PROMPT if name in live]
        check = next(command for command in COMMANDS if command.name == "check")
        wanted = {"subject", "--append", "--initrd", "--machine", "--memory", "--cpus", "--cpu", "--accel", "--deterministic", "--entry",
                  "--kernel", "--reset", "--here", "--timeout"}  # fmt: skip
        some = [one for one in check.arguments_for(live=False) if one.names[0] in wanted]
        text = "Start a kernel file, or attach to a gdbstub, run to the PVH entry, and keep the machine for further calls without a subject."
        found.append(AgentTool(OPEN, text, _schema(some, ["subject"]), None, None))
        found.append(
            AgentTool(CLOSE, "End the machine that was opened; a gdbstub's machine stays stopped.", _schema([], []), None, None)
        )
        text = "Save the machine that was opened as it is now. The answer names the file: a subject for check, regs, info, diff … until this server ends."
        found.append(AgentTool(SNAPSHOT, text, _schema([], []), None, None))
    return {tool.name: tool for tool in found}


def _tool(alone: Command | None, live: Command | None) -> AgentTool:
    command = alone or live
    assert command is not None
    arguments = [one for one in (alone.arguments_for(live=False) if alone else ()) if _shown(one)]
    names = {one.names for one in arguments}
    arguments += [one for one in (live.arguments_for(live=True) if live else ()) if _shown(one) and one.names not in names]
    required = [] if live is not None and alone is not None else [_property(one) for one in arguments if _is_required(one)]
    text = f"{command.help[0].upper()}{command.help[1:]}."
    if live is not None and alone is not None:
        text += " Without a subject: of the machine that was opened."
    schema = _schema(arguments, required)
    if alone is None:
        schema["properties"]["run_seconds"] = SECONDS
    return AgentTool(command.name.replace(" ", "_").replace("-", "_"), text, schema, alone, live)


def _shown(argument: Argument) -> bool:
    return not _HIDDEN & set(argument.names)


def _is_required(argument: Argument) -> bool:
    positional = not argument.names[0].startswith("-")
    return bool(argument.options.get("required")) or (positional and argument.options.get("nargs") not in ("?", "*"))


def _property(argument: Argument) -> str:
    """The name of the argument in a call: subject, until, no_recorder."""
    return argument.names[0].lstrip("-").replace("-", "_").rstrip("_")


def _schema(arguments: list[Argument], required: list[str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for one in arguments:
        kind = one.options.get("type")
        item: dict[str, Any] = {"type": "integer" if kind is int else "number" if kind is float else "string"}
        if "choices" in one.options:
            item["enum"] = list(one.options["choices"])
        if one.options.get("action") == "store_true":
            item = {"type": "boolean"}
        elif one.options.get("action") == "append" or one.options.get("nargs") in ("*", "+"):
            item = {"type": "array", "items": item}
        properties[_property(one)] = {**item, "description": str(one.options.get("help", "")).replace("%%", "%")}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def words_of(command: Command, live: bool, given: Mapping[str, Any]) -> list[str]:
    """A call's arguments as the words of a line. Raises BadInput for one that the tool does not have, or that looks like an option."""
    left = dict(given)
    words: list[str] = []
    for one in command.arguments_for(live=live):
        value = left.pop(_property(one), None) if _shown(one) else None
        if value is not None and value is not False:
            words += _words(one, value)
    if left:
        raise BadInput(f"{command.name} does not take {', '.join(left)}", "see the tool's input schema")
    return words


def _words(argument: Argument, value: Any) -> Iterator[str]:
    many = value if isinstance(value, list) else [value]
    name = next((one for one in argument.names if one.startswith("--")), argument.names[0])
    for one in many:
        if name.startswith("-"):
            yield name if one is True else f"{name}={one}"
        elif str(one).startswith("-"):
            raise BadInput(f"{one} looks like an option", "give options by their own names")
        else:
            yield str(one)


def runs(tool: AgentTool, given: Mapping[str, Any]) -> bool:
    """Whether a call would start a machine, stop one at a gdbstub, or let it run."""
    if tool.reads:
        return False
    subjects = [str(given[name]) for name in _SUBJECTS if given.get(name)]
    return not subjects or any(not is_saved(one) and subject_kind(one).runs for one in subjects)
