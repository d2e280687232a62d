"""The commands' declarations as argparse parsers."""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import partial
from typing import Any, NoReturn

from pvhdbg.commands.declare import Command
from pvhdbg.commands.output import open_output
from pvhdbg.commands.overview import CLOSING, address_of, family, overview, page_of
from pvhdbg.commands.settings import apply
from pvhdbg.commands.table import COMMANDS
from pvhdbg.commands.tables.shared import section_of
from pvhdbg.errors import BadInput
from pvhdbg.report.wrapping import wrapped
from pvhdbg.version import VERSION

# argparse makes a formatter for each argument. Without a width each calls shutil, which imports every compressor that Python has.
_UNSHOWN = partial(argparse.RawDescriptionHelpFormatter, width=80)


class _StoreOnce(argparse._StoreAction):
    """An option with one value: of two, the last must not win silently."""

    _given: object = None

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        super().__call__(parser, *rest)
        value = rest[1]
        if self.option_strings and self._given is not None:
            parser.error(f"{self.option_strings[0]} is given twice: {self._given} and {value}")
        self._given = value


class StrictParser(argparse.ArgumentParser):
    """A parser that refuses an option with one value when it is given twice."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.register("action", None, _StoreOnce)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, and lines end between words."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width, hang=0).splitlines()


class _Parser(StrictParser):
    def format_help(self) -> str:
        self.formatter_class = _Formatter
        return super().format_help()

    def print_help(self, file: Any = None) -> None:
        """To `file`, or to standard output: in a pager where it is long."""
        if file is not None or sys.stdout is None:
            super().print_help(file)
            return
        with open_output(None) as output:
            output.show(self.format_help(), paging=True)

    def error(self, message: str) -> NoReturn:
        raise BadInput(message, f"see: {self.prog} --help")


def parse(words: list[str]) -> tuple[Command, dict[str, Any]]:
    """The command and its arguments' values. Raises BadInput for words that do not fit; `--help` exits as argparse does."""
    words, passed_on = _split(words)
    words = gathered(words)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    command = command_of(words)
    if command is None:
        raise _no_command(words)
    if passed_on and not command.passes_on:
        raise BadInput(f"pvhdbg {command.name} passes nothing on to {command.passes_to}", f"see: pvhdbg {command.name} --help")
    values = _values(command, words[len(command.name.split()) :])
    with_rules(values)
    if "report" in values:
        values["report"] = [_report(word, command) for word in values["report"]]
        _refuse_twice([*([values["output"]] if values["output"] else []), *(path for _, path in values["report"])])
    return command, {**values, "extra": tuple(passed_on)}


def _no_command(words: list[str]) -> BadInput:
    """The error for words that name no command. Raises SystemExit after an overview that was asked for."""
    if not words or words[0].startswith("-"):
        overview = overview_parser()
        if not words:
            overview.print_help()
            raise SystemExit(BadInput.exit_code)
        overview.parse_args(words[:1])  # --help, --version, or an option that belongs after a command
    if (commands := family(words[0])) and words[1:] and words[1] in ("-h", "--help"):
        _shown(f"pvhdbg {words[0]}", f"commands:\n{commands}", f"pvhdbg {words[0]} COMMAND --help describes one.").print_help()
        raise SystemExit(0)
    from difflib import get_close_matches

    said = " ".join(words[: 2 if commands else 1])
    near = get_close_matches(said, [command.name for command in COMMANDS], 2) or sorted(
        command.name for command in COMMANDS if command.name.startswith(f"{words[0]} ")
    )
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return BadInput(f"{said} is not a command", f"{hint}see: pvhdbg --help")


def _values(command: Command, words: list[str]) -> dict[str, Any]:
    parser = parser_of(command)
    values, unknown = parser.parse_known_args(words)
    if not unknown:
        found = vars(values)
        apply(found, _given(parser, words))
        return found
    from difflib import get_close_matches

    option = next((word for word in unknown if word.startswith("-")), "")
    known = [name for action in parser._actions for name in action.option_strings]
    near = get_close_matches(option.partition("=")[0], known, 1) if option.startswith("--") else []
    longer = [one.name for one in COMMANDS if one.name.startswith(f"{command.name} ")]
    near = near or get_close_matches(f"{command.name} {words[0]}", longer, 1, 0.8)  # `trace qurey boot.jsonl`
    todo = f"did you mean {near[0]}? " if near else ""
    if option and not near and command.passes_on:
        todo = f"give {command.passes_to}'s own options at the end, after --; "
    raise BadInput(f"unrecognized arguments: {' '.join(unknown)}", f"{todo}see: {parser.prog} --help")


def _given(parser: argparse.ArgumentParser, words: list[str]) -> set[str]:
    """The names of the options that the words give."""
    known = {name: action.dest for action in parser._actions for name in action.option_strings}
    return {known[name] for word in words for name in (word.partition("=")[0], word[:2]) if name in known}


def with_rules(values: dict[str, Any]) -> dict[str, Any]:
    """The same with `--select`, `--ignore` and `--as` as lists of words. Raises BadInput for an empty one."""
    for name, option in (("select", "--select"), ("ignore", "--ignore"), ("loaders", "--as")):
        if name in values:
            given = values[name]
            values[name] = [part for word in given for part in word.replace(",", " ").split()]
            if given and not values[name]:
                raise BadInput(f"{option} names no rule", "list all with: pvhdbg rules")
    return values


def _report(word: str, command: Command) -> tuple[str, str]:
    format, _, path = word.partition("=")
    if format not in command.formats:
        raise BadInput(f"--report {word}: {format!r} is not a format", f"choose one of {', '.join(command.formats)}")
    if not path:
        raise BadInput(f"--report {word} names no file", f"write it as {format}=FILE")
    return format, path


def _refuse_twice(paths: list[str]) -> None:
    """Raises BadInput for two answers to one file: they would overwrite each other. A device or standard output takes both."""
    try:
        files = [os.path.realpath(path) for path in paths if path != "-" and (not os.path.exists(path) or os.path.isfile(path))]
    except OSError as error:  # os.getcwd
        raise BadInput(f"the working directory cannot be read: {error.strerror}", "change to a folder that exists") from error
    except ValueError as error:  # a NUL
        raise BadInput(f"an output is not a path: {error}", "give --report and --output the name of a file") from error
    for path in files:
        if files.count(path) > 1:
            raise BadInput(f"{path} would be written twice", "give each --report and --output a file of its own")


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


_RULE = re.compile(r"(?:PVH|SI|DA|ELF)(?:[-,][A-Z0-9,-]*)?", re.ASCII | re.IGNORECASE)


def gathered(words: list[str]) -> list[str]:
    """`--select PVH-CR0 SI-MM vmlinux` as `--select PVH-CR0,SI-MM vmlinux`: a word that is not a rule's id ends the list."""
    joined: list[str] = []
    for word in words:
        listing = len(joined) > 1 and joined[-2] in ("--select", "--ignore") and _RULE.fullmatch(joined[-1])
        if listing and _RULE.fullmatch(word):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def command_of(words: list[str]) -> Command | None:
    """The command with the longest name that the words begin with: `trace query` is not `trace`."""
    named = [command for command in COMMANDS if words[: len(parts := command.name.split())] == parts]
    return max(named, key=lambda command: len(command.name), default=None)


def parser_of(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"pvhdbg {command.name}",
        usage=_usage(command),
        description=f"{command.help[0].upper()}{command.help[1:]}.\n\nexample: {command.example}",
        epilog=_epilog(command),
        formatter_class=_UNSHOWN,
        allow_abbrev=False,
    )
    sections: dict[str, argparse._ArgumentGroup] = {}
    for one in command.arguments_for(live=False):
        title = one.names[0].startswith("-") and section_of(one)
        if title and title not in sections:
            sections[title] = parser.add_argument_group(title)
        (sections[title] if title else parser).add_argument(*one.names, **one.options)
    output = parser.add_argument_group("output")
    for one in command.output_arguments():
        output.add_argument(*one.names, **one.options)
    return parser


def _usage(command: Command) -> str:
    """What must be given, in order; the optional arguments have their own lines below."""
    needed, places = [], []
    for one in command.arguments_for(live=False):
        shown = str(one.options.get("metavar") or one.names[0])
        if one.options.get("required"):
            shown = shown if "metavar" in one.options else f"{{{','.join(one.options['choices'])}}}"
            needed.append(f"{one.names[0]} {shown}")
        elif not one.names[0].startswith("-"):
            places.append({"?": f"[{shown}]", "*": f"[{shown} …]", "+": f"{shown} …"}.get(one.options.get("nargs", ""), shown))
    words = [
        f"pvhdbg {command.name}",
        *places,
        *needed,
        "[OPTION …]",
        *([f"[-- {command.passes_to}'s own]"] if command.passes_on else []),
    ]
    return " ".join(words).replace("%", "%%")


def _epilog(command: Command) -> str:
    lines = [f"words after -- go to {command.passes_to} unchanged"] if command.passes_on else []
    if others := family(command.name):
        lines += [*([""] if lines else []), "commands that begin with this word:", others.rstrip("\n")]
    return "\n".join([*lines, f"more: {address_of(page_of(command.name))}"])


def overview_parser() -> argparse.ArgumentParser:
    parser = _shown("pvhdbg", overview(), CLOSING)
    parser.add_argument("-V", "--version", action="version", version=f"pvhdbg {VERSION}")
    return parser


def _shown(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=prog,
        usage=f"{prog} COMMAND …",
        description=description,
        epilog=epilog,
        formatter_class=_UNSHOWN,
        allow_abbrev=False,
    )
