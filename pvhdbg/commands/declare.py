"""The parts of a command: its declaration, the action with its options, the context of a call, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pvhdbg.record import NamedTuple, dataclass, field, replace

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session
    from pvhdbg.report.style import Style

O = TypeVar("O")  # a named tuple of options


@dataclass(frozen=True)
class Answer:
    """What a command returns: how to show it as text, its JSON where it has one, and the exit code.

    `others` are further formats by name; a command declares all of its names in `formats`. `value` is what Python's functions return.
    """

    text: Callable[[Style], str]
    json: Callable[[], str] | None = None
    exit_code: int = 0
    others: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    value: object = None

    def render(self, format: str, style: Style) -> str:
        """The answer in the format of that name; text, when it has no other."""
        if format == "json" and self.json is not None:
            return self.json()
        return self.others[format]() if format in self.others else self.text(style)


def shows(text: Callable[[Style], str], document: NamedTuple, exit_code: int = 0) -> Answer:
    """An answer whose JSON and whose value in Python are the same named tuple, one of `report.answers`."""

    def as_json() -> str:
        from pvhdbg.report.answers.document import json_of

        return json_of(document)

    return Answer(text, as_json, exit_code, value=document)


@dataclass(frozen=True)
class Context:
    """What a command gets in addition to its options: where its progress goes, and the live session (None on the command line).

    `commands` are those of the caller (REPL, GDB) where it has more than LIVE; `face` is the object that its own commands work on.
    """

    progress: Callable[[str], None] = lambda _: None
    session: Session | None = None
    commands: tuple[Command, ...] = ()
    face: object = None


class Action(Generic[O]):
    """A command's function with the type of the options that it takes."""

    def __init__(self, options: type[O], work: Callable[[O, Context], Answer]) -> None:
        self.options = options
        self._work = work

    def __call__(self, options: O, context: Context) -> Answer:
        return self._work(options, context)


def takes(options: type[O]) -> Callable[[Callable[[O, Context], Answer]], Action[O]]:
    """A decorator: makes an Action of a function that takes such options."""
    return lambda work: Action(options, work)


class NoOptions(NamedTuple):
    """For a command that takes no options."""


def options_of(kind: type[O], values: Mapping[str, Any]) -> O:
    """A named tuple of options made from a parsed line: each field by its name, also those of the named tuples inside it.

    A field that the line lacks, or has as None, keeps its default; a list becomes a tuple.
    """
    found: dict[str, Any] = {}
    shape: Any = kind
    for name in shape._fields:
        default = shape._field_defaults.get(name)
        if hasattr(default, "_fields"):
            found[name] = options_of(type(default), values)
        elif values.get(name) is not None:
            value = values[name]
            found[name] = tuple(value) if isinstance(value, list) else value
    return kind(**found)


@dataclass(frozen=True)
class Argument:
    """One argument, by argparse's keywords.

    `completes` says what its value is, for completion: "symbol", "rule", "file", "mode" or "register", several separated by
    blanks; `words` are further completions. `live` says where it is accepted: None both, True a live session only, False the command
    line only.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any]
    completes: str = ""
    live: bool | None = None
    words: tuple[str, ...] = ()


def argument(*names: str, completes: str = "", live: bool | None = None, words: tuple[str, ...] = (), **options: Any) -> Argument:
    return Argument(names, MappingProxyType(options), completes, live, words)


def prompt_line(text: str) -> tuple[str, str]:
    """The value of -ex, a line of the prompt; it shares a list with -x, because their order counts."""
    return "line", text


def prompt_file(text: str) -> tuple[str, str]:
    """The value of -x, a file of such lines."""
    return "file", text


def of_command_line(*arguments: Argument) -> tuple[Argument, ...]:
    """The same arguments, for the command line only."""
    return tuple(replace(one, live=False) for one in arguments)


@dataclass(frozen=True)
class Command:
    """One command. `action` is "module:function"; `passes_on` says that words after `--` belong to another program.

    `live` marks a command of the command line that a session has as well; `live_example` is its example there.
    """

    name: str
    help: str
    example: str
    action: str
    arguments: tuple[Argument, ...] = ()
    formats: tuple[str, ...] = ("text", "json")
    passes_on: bool = field(default=False)
    passes_to: str = "QEMU"
    live: bool = False
    live_example: str = ""
    aliases: tuple[str, ...] = ()  # in a session
    repeats: bool = False  # an empty line at the prompt repeats it
    converses: bool = False  # on a terminal the prompt follows it

    def output_arguments(self) -> tuple[Argument, ...]:
        """The arguments of the command line for the answer: its format, its file, its colour."""
        found = []
        if "json" in self.formats:
            found.append(argument("--format", choices=self.formats, default="text", help="the format of the answer"))
            if not self.writes:
                found.append(argument("--output", metavar="FILE", help="write the answer to this file instead of the terminal"))
            words = "also write it to FILE in that format; may be given several times"
            found.append(argument("--report", action="append", metavar="FORMAT=FILE", default=[], help=words))
        colours = ("auto", "always", "never")
        return (
            *found,
            argument("--color", choices=colours, default="auto", help="colour (NO_COLOR is honoured)"),
            argument(
                "-q",
                "--quiet",
                action="store_true",
                help="print the result only: no progress, and of a report what fails and the conclusion",
            ),
            argument(
                "-v", "--verbose", action="store_true", help="also say what is done and how long each step takes, on standard error"
            ),
        )

    @property
    def working(self) -> str:
        """What is shown while it takes long and says nothing; empty where the terminal may be another program's meanwhile."""
        return f"{self.name} is working" if "json" in self.formats else ""

    @property
    def writes(self) -> bool:
        """Whether the file of its --output is its own, and not that of the answer."""
        return any("--output" in one.names for one in self.arguments)

    def __call__(self, values: Mapping[str, Any], context: Context) -> Answer:
        """Run it, with the values of a parsed line by the arguments' names. Raises PvhdbgError."""
        action = self.loaded()
        return action(options_of(action.options, values), context)

    def loaded(self) -> Action[Any]:
        """The action, imported now."""
        module, function = self.action.split(":")
        action: Action[Any] = getattr(import_module(module), function)
        return action

    def arguments_for(self, live: bool) -> tuple[Argument, ...]:
        """The arguments that a live session (or the command line) takes."""
        return tuple(one for one in self.arguments if one.live is None or one.live is live)
