"""Lines of a live session: the command and its arguments, abbreviations, usage, help and completion."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NoReturn

from pvhdbg.commands.declare import Answer, Argument, Command, Context, takes
from pvhdbg.commands.line import StrictParser, gathered, with_rules
from pvhdbg.commands.table import LIVE
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.machine.session import Session
from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS, Unavailable
from pvhdbg.record import NamedTuple

if TYPE_CHECKING:
    from pvhdbg.rules.declare import Rule

_MOST = 400  # completions that are offered at once


class _Parser(StrictParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message, f"usage: {usage_of(self)}")


def usage_of(parser: argparse.ArgumentParser) -> str:
    """argparse's usage on one line, without its own heading."""
    return " ".join(parser.format_usage().removeprefix("usage:").split())


class UnknownCommand(BadInput):
    """The line does not begin with a command of ours; `candidates` are the commands that an ambiguous abbreviation matches."""

    def __init__(self, word: str, candidates: Collection[str] = (), near: Collection[str] = ()) -> None:
        if candidates:
            super().__init__(f"{word!r} is ambiguous: {', '.join(candidates)}", "type more of it")
        else:
            super().__init__(f"{word!r} is not a command", f"did you mean {', '.join(near)}?" if near else "list them with: help")
        self.candidates, self.near = tuple(candidates), tuple(near)


def run(session: Session, line: str) -> Answer:
    """Parse and run one line. Raises UnknownCommand, BadInput with the usage, and what the command raises."""
    command, rest = find(line)
    try:
        return command(values(command, rest), Context(session.progress, session))
    except Unavailable as gap:
        raise TargetError(gap.reason, "use a VMM whose gdbstub has QEMU's monitor") from None


def find(line: str, commands: tuple[Command, ...] = LIVE, *, abbreviated: bool = True) -> tuple[Command, str]:
    """The command at the start of the line, and the rest. A unique prefix of each word is enough. Raises UnknownCommand."""
    words = line.split(None, 2)
    if words and "/" in words[0]:
        words = line.replace("/", " /", 1).split(None, 2)
    full = _in_full(words, commands)
    if full is not None:
        command, count = full
        longer = _longer(command, words, commands) if abbreviated and count == 1 else None
        return (longer, _after(line, words, 2)) if longer is not None else (command, _after(line, words, count))
    candidates = _begun(words, commands) if abbreviated else []
    if len(candidates) == 1 and _fits(words, candidates[0]):
        return candidates[0], _after(line, words, len(candidates[0].name.split()))
    names = [command.name for command in candidates]
    near = difflib.get_close_matches(words[0] if words else "", [command.name for command in commands], 3)
    raise UnknownCommand(" ".join(words[:1]), names if len(names) > 1 else (), names or near)


def _in_full(words: list[str], commands: tuple[Command, ...]) -> tuple[Command, int] | None:
    """The command whose name, or another name of it, is the first two words, or the first one; and how many they are."""
    for count in (2, 1):
        for command in commands:
            if len(words) >= count and " ".join(words[:count]) in (command.name, *command.aliases):
                return command, count
    return None


def _begun(words: list[str], commands: tuple[Command, ...]) -> list[Command]:
    """The commands whose name the first word begins; of several the one whose second word the second begins, if it is one."""
    found = [one for one in commands if one.name.startswith(words[0] if words else "")]
    second = [one for one in found if len(words) > 1 and one.name.partition(" ")[2].startswith(words[1]) and " " in one.name]
    return second if len(found) > 1 and len(second) == 1 else found


def _fits(words: list[str], command: Command) -> bool:
    """Whether each word of the command's name was begun."""
    names = command.name.split()
    return len(words) >= len(names) and all(full.startswith(word) for full, word in zip(names, words, strict=False))


def _longer(command: Command, words: list[str], commands: tuple[Command, ...]) -> Command | None:
    """`info registers` for `info reg`, where `info` is a command as well."""
    found = [one for one in commands if len(words) > 1 and one.name.startswith(f"{command.name} {words[1]}")]
    return found[0] if len(found) == 1 else None


def _after(line: str, words: list[str], count: int) -> str:
    rest = line.lstrip()
    for word in words[:count]:
        rest = rest[len(word) :].lstrip()
    return rest


def parser(command: Command, prefix: str = "") -> argparse.ArgumentParser:
    """The command's arguments in a live session. Its errors are BadInput with the usage; it never exits."""
    found = _Parser(prog=prefix + command.name, add_help=False, allow_abbrev=False)
    for one in command.arguments_for(live=True):
        found.add_argument(*one.names, **one.options)
    if len(command.formats) > 1:
        found.add_argument("--format", choices=command.formats, default="text")
    return found


def values(command: Command, rest: str, prefix: str = "") -> dict[str, Any]:
    """The arguments' values in the rest of a line. Raises BadInput with the usage."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise BadInput(f"{error} in: {rest}", f"usage: {usage_of(parser(command, prefix))}") from None
    return with_rules(vars(parser(command, prefix).parse_args(gathered(words))))


def help_text(command: Command, prefix: str = "") -> str:
    """The text of `help COMMAND`: its purpose, usage, arguments, an example."""
    shown = parser(command, prefix)
    lines = [f"{command.help[0].upper()}{command.help[1:]}.", f"Usage: {usage_of(shown)}"]
    for one in command.arguments_for(live=True):
        if one.options.get("help"):
            metavar = one.options.get("metavar")
            names = one.names[-1] if one.names[-1].startswith("-") else str(metavar or one.names[0])
            lines.append(f"  {names:<14} {one.options['help']}")
    lines.append(f"Example: {prefix}{command.live_example or command.name}")
    return "\n".join(lines) + "\n"


class HelpOptions(NamedTuple):
    """The options of `help`: the words of a command's name."""

    command: tuple[str, ...] = ()


class AproposOptions(NamedTuple):
    """The options of `apropos`."""

    word: str


@takes(HelpOptions)
def help(options: HelpOptions, context: Context) -> Answer:
    """`help`: one line for each command, or all about one."""
    commands = context.commands or LIVE
    if options.command:
        text = help_text(find(" ".join(options.command), commands)[0])
    else:
        text = "".join(f"  {command.name:<14} {command.help}\n" for command in commands)
    return Answer(lambda _: text)


@takes(AproposOptions)
def apropos(options: AproposOptions, context: Context) -> Answer:
    """`apropos`: commands and rules whose help contains a word. Raises BadInput when none does."""
    word = options.word.lower()
    commands = context.commands or LIVE
    lines = [f"  {command.name:<20} {command.help}\n" for command in commands if word in f"{command.name} {command.help}".lower()]
    lines += [f"  {rule.id:<20} {rule.title}\n" for rule in _all_rules() if word in f"{rule.id} {rule.title} {rule.why}".lower()]
    if not lines:
        raise BadInput(f"no command and no rule mentions {options.word}", "list all with: help, rules")
    return Answer(lambda _: "".join(lines))


# --- completion ---------------------------------------------------------------------------------------------------


def complete(session: Session | None, line: str, commands: tuple[Command, ...] = LIVE) -> list[str]:
    """Completions of the last word of `line`. Uses only what is known already; never reads the machine."""
    words = line.split()
    last = "" if not line or line[-1].isspace() else words.pop()
    try:
        command, rest = find(" ".join(words), commands) if words else (None, "")
    except UnknownCommand:
        command, rest = None, ""
        names = [one.name.split() for one in commands]
        return sorted(
            {name[len(words)] for name in names if name[: len(words)] == words and name[len(words) :][:1]} if words else ()
        )
    if command is None:
        return sorted({one.name.split()[0] for one in commands if one.name.startswith(last)})
    seconds = [one.name.split()[1] for one in commands if one.name.startswith(f"{command.name} {last}")] if not rest else []
    return seconds + argument_words(session, command, rest.split(), last, commands)


def argument_words(
    session: Session | None, command: Command, before: list[str], last: str, commands: tuple[Command, ...] = LIVE
) -> list[str]:
    """Completions of `last` as an argument of `command`, after the arguments `before`."""
    arguments = command.arguments_for(live=True)
    if last.startswith("-"):
        return sorted(name for one in arguments for name in one.names if name.startswith(last) and name.startswith("-"))
    option = next((one for one in arguments if before and before[-1] in one.names and _takes_value(one)), None)
    if option is not None:
        return _words(session, option, last, commands)
    found: list[str] = []
    for one in arguments:
        if not one.names[0].startswith("-"):
            found += _words(session, one, last, commands)
    return found[:_MOST]


def _takes_value(argument: Argument) -> bool:
    return argument.options.get("action") in (None, "append")


def _words(session: Session | None, argument: Argument, last: str, commands: tuple[Command, ...]) -> list[str]:
    found: list[str] = []
    found += [word for word in (*(argument.options.get("choices") or ()), *argument.words) if str(word).startswith(last)]
    for kind in argument.completes.split():
        if kind == "command":
            found += [command.name for command in commands if command.name.startswith(last)]
        else:
            found += _KINDS[kind](session, last)
    return found


def _all_rules() -> tuple[Rule, ...]:
    from pvhdbg.rules.catalogue import RULES

    return RULES


def _rules(_session: Session | None, last: str) -> list[str]:
    head, comma, tail = last.rpartition(",")
    return [f"{head}{comma}{rule.id}" for rule in _all_rules() if rule.id.startswith(tail.upper())]


def _symbols(session: Session | None, last: str) -> list[str]:
    return session.symbols_like(last, _MOST) if session is not None and last else []


def _registers(_session: Session | None, last: str) -> list[str]:
    names = (*LOW_HALVES, *GENERAL, *EXTENDED, "rip", "eflags", *SELECTORS, *CONTROL)
    return [f"${name}" for name in names if f"${name}".startswith(last)] if last.startswith("$") else []


def _files(_session: Session | None, last: str) -> list[str]:
    folder, name = os.path.split(last)
    try:
        with os.scandir(folder or ".") as entries:
            found = [entry.name + ("/" if entry.is_dir() else "") for entry in entries if entry.name.startswith(name)]
    except OSError:
        return []
    return [os.path.join(folder, one) for one in sorted(found)[:_MOST]]


def _modes(_session: Session | None, last: str) -> list[str]:
    from pvhdbg.tracing.mode_words import FOREMOST, MODES

    words = (*FOREMOST, *(word for word in MODES if not any(one.startswith(word) for one in FOREMOST)))
    return [word for word in words if word.startswith(last)]


_KINDS = {"mode": _modes, "rule": _rules, "symbol": _symbols, "register": _registers, "file": _files}
