"""`completion`: the scripts of the shells, and what they ask for: the words that may come next, by the commands' declarations.

The scripts (pvhdbg/completions) are as short as they can be: at each Tab they run `pvhdbg completion --words -- WORD…`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal

from pvhdbg.commands.declare import Answer, Argument, Command, Context, takes
from pvhdbg.commands.line import command_of
from pvhdbg.commands.schema import names
from pvhdbg.commands.table import COMMANDS
from pvhdbg.decode.cpu_mode import Mode
from pvhdbg.decode.text import printable
from pvhdbg.errors import BadInput, PvhdbgError
from pvhdbg.record import NamedTuple

FILES = ":files"  # a line that stands for the names of files, which the shell knows best
_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "completions")
_SCRIPTS = {"bash": "pvhdbg", "zsh": "_pvhdbg", "fish": "pvhdbg.fish"}
_MACHINES = ("pc", "q35", "microvm")  # those of QEMU that boot a PVH kernel
_MODES = (Mode.PROTECTED, Mode.PAGED, Mode.PAE, Mode.COMPATIBILITY, Mode.LONG)  # those that --until takes
_OF_FILES = ("FILE", "SUBJECT", "KERNEL", "ELF", "SNAPSHOT", "BZIMAGE", "LOG", "CORE", "TARGET", "OTHER", "INITRD")
_MOST = 200  # symbols that are offered at once

Candidate = tuple[str, str]  # what may come next, and what it means


class CompletionOptions(NamedTuple):
    """The options of `completion`: a shell; or `words`, and in `extra` the words of the line up to the cursor, the last may be empty."""

    shell: Literal["bash", "zsh", "fish"] | None = None
    words: bool = False
    extra: tuple[str, ...] = ()


@takes(CompletionOptions)
def completion(options: CompletionOptions, context: Context) -> Answer:
    """`completion`: a script for the shell, or the words that may come next. Raises BadInput."""
    if options.words:
        *before, word = options.extra or ("",)
        text = "".join(f"{one}\t{meaning}\n" if meaning else f"{one}\n" for one, meaning in next_words(before, word))
        return Answer(lambda _: text)
    if options.shell is None:
        raise BadInput("completion needs the name of a shell", "write: pvhdbg completion bash, zsh or fish")
    with open(os.path.join(_FOLDER, _SCRIPTS[options.shell]), encoding="utf-8") as file:
        script = file.read()
    return Answer(lambda _: script)


def next_words(before: list[str], word: str) -> list[Candidate]:
    """What may stand in the place of `word`, the beginning of a word, behind the words of a line `before`, the program left out."""
    if before[:1] == ["help"]:
        return _beginning(_commands(before[1:]), word)
    if "--" in before:  # what follows is another program's
        return [(FILES, "")]
    command = command_of(before)
    found = list(_commands(before)) if command is None or len(before) < 2 else []
    if command is not None:
        found += _of_command(command, before[len(command.name.split()) :], word, before)
    return _beginning(found, word)


def _beginning(words: Iterable[Candidate], word: str) -> list[Candidate]:
    return list(dict.fromkeys(one for one in words if one[0] == FILES or one[0].startswith(word)))


def _commands(before: list[str]) -> Iterator[Candidate]:
    """The words that continue the name of a command; of a family without a command of its own name, the family's name."""
    for command in COMMANDS:
        name = command.name.split()
        if name[: len(before)] == before and len(name) > len(before):
            whole = len(name) == len(before) + 1
            yield name[len(before)], command.help if whole else ""


def _of_command(command: Command, given: list[str], word: str, line: list[str]) -> Iterator[Candidate]:
    arguments = [*command.arguments_for(live=False), *command.output_arguments()]
    last = given[-1] if given else ""
    option = next((one for one in arguments if last in one.names and one.names[0].startswith("-")), None)
    if option is not None and _takes_value(option):
        yield from _values(option, line, word, command)
    elif word.startswith("-"):
        yield from _options(arguments, word)
    elif (place := _place(arguments, given)) is not None:
        yield from _values(place, line, word, command)


def _options(arguments: list[Argument], word: str) -> Iterator[Candidate]:
    """The options; of one with several names, those that the word begins."""
    for one in arguments:
        for name in one.names:
            if name.startswith("-") and (len(one.names) == 1 or len(word) < 2 or name.startswith(word)):
                yield name, _meaning(one)
    yield "--help", "show all about the command"


def _place(arguments: list[Argument], given: list[str]) -> Argument | None:
    """The argument without a name that comes next; None where all are taken."""
    taken, skip = 0, False
    for said in given:
        named = next((one for one in arguments if said in one.names), None)
        if not skip and not said.startswith("-"):
            taken += 1
        skip = named is not None and _takes_value(named)
    places = [one for one in arguments if not one.names[0].startswith("-")]
    if not places or (taken >= len(places) and places[-1].options.get("nargs") not in ("+", "*")):
        return None
    return places[min(taken, len(places) - 1)]


def _takes_value(argument: Argument) -> bool:
    return argument.options.get("action") not in ("store_true", "version", "help")


def _meaning(argument: Argument) -> str:
    return str(argument.options.get("help", "")).replace("%%", "%")


def _values(argument: Argument, line: list[str], word: str, command: Command) -> Iterator[Candidate]:
    """The values that an argument may have: its choices, or what its declaration says of it."""
    if "choices" in argument.options:
        yield from ((str(one), "") for one in argument.options["choices"])
        return
    if "--report" in argument.names:
        yield from ((f"{one}=", "") for one in command.formats)
    if "--machine" in argument.names:
        yield from ((one, "") for one in _MACHINES)
    if argument.names[0] == "shell":
        yield from ((one, "") for one in _SCRIPTS)
    if argument.names[0] == "name" and command.name == "schema":
        yield from ((one, "") for one in names())
    if "rule" in argument.completes.split():
        from pvhdbg.rules.catalogue import RULES

        yield from ((rule.id, rule.title) for rule in RULES)
    metavar = str(argument.options.get("metavar", ""))
    if "MODE" in metavar:
        yield from ((one.value, one.title) for one in _MODES)
    if "SYMBOL" in metavar:
        yield from _symbols(line, word)
    if "file" in argument.completes.split() or any(one in _OF_FILES for one in metavar.split("|")) or metavar in ("A", "B"):
        yield FILES, ""


def _symbols(line: list[str], word: str) -> Iterator[Candidate]:
    """The symbols of the first kernel file that the line names."""
    path = next((one for one in line if os.path.isfile(one)), None)
    if path is None:
        return
    from pvhdbg.kernel.image import open_kernel

    try:
        with open_kernel(path) as image:
            found = image.symbols().first(word, _MOST)
    except (PvhdbgError, OSError):
        return
    yield from ((printable(name), "") for name in found)
