"""A line of a live session as a verb and its arguments: words, abbreviations, usage, help and completion."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from pvhdbg.commands.declare import Answer, Argument, Request, Verb
from pvhdbg.commands.line import gathered, with_rules
from pvhdbg.commands.table import LIVE
from pvhdbg.errors import BadInput, TargetError
from pvhdbg.machine.session import UnknownVerb
from pvhdbg.model import Unavailable

if TYPE_CHECKING:
    from pvhdbg.machine.session import Session

_MOST = 400  # completions that are offered at once


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message, f"usage: {usage_of(self)}")


def usage_of(parser: argparse.ArgumentParser) -> str:
    """argparse's usage on one line, without its own heading."""
    return " ".join(parser.format_usage().removeprefix("usage:").split())


def run(session: Session, line: str) -> Answer:
    """Parse and do one line. Raises UnknownVerb, BadInput with the usage, and what the verb raises."""
    verb, rest = find(line, session.verbs or LIVE)
    try:
        return verb(Request(values(verb, rest), session.progress, session))
    except Unavailable as gap:
        raise TargetError(gap.reason, "use a VMM whose gdbstub has QEMU's monitor") from None


def find(line: str, verbs: tuple[Verb, ...] = LIVE, *, abbreviated: bool = True) -> tuple[Verb, str]:
    """The verb that the line begins with, and the rest of the line. A unique prefix of each word will do. Raises UnknownVerb."""
    words = line.replace("/", " /", 1).split(None, 2) if "/" in line.split(None, 1)[0] else line.split(None, 2)
    for count in (2, 1):
        name = " ".join(words[:count])
        for verb in verbs:
            if len(words) >= count and name in (verb.name, *verb.aliases):
                longer = _longer(verb, words, verbs) if abbreviated and count == 1 else None
                return (longer, _after(line, words, 2)) if longer is not None else (verb, _after(line, words, count))
    first = words[0] if words else ""
    candidates = [verb for verb in verbs if abbreviated and verb.name.split()[0].startswith(first)]
    if len(candidates) > 1:
        named = [
            verb for verb in candidates if len(words) > 1 and verb.name.split()[1:2] and verb.name.split()[1].startswith(words[1])
        ]
        candidates = named if len(named) == 1 else candidates
    if len(candidates) == 1:
        count = len(candidates[0].name.split())
        if len(words) >= count and all(
            full.startswith(word) for full, word in zip(candidates[0].name.split(), words, strict=False)
        ):
            return candidates[0], _after(line, words, count)
    names = [verb.name for verb in candidates]
    near = difflib.get_close_matches(first, [verb.name for verb in verbs], 3)
    raise UnknownVerb(" ".join(words[:1]), names if len(names) > 1 else (), names or near)


def _longer(verb: Verb, words: list[str], verbs: tuple[Verb, ...]) -> Verb | None:
    """`info registers` for `info reg`, where `info` is a verb as well."""
    found = [one for one in verbs if len(words) > 1 and one.name.startswith(f"{verb.name} {words[1]}")]
    return found[0] if len(found) == 1 else None


def _after(line: str, words: list[str], count: int) -> str:
    rest = line.lstrip()
    for word in words[:count]:
        rest = rest[len(word) :].lstrip()
    return rest


def parser(verb: Verb, prefix: str = "") -> argparse.ArgumentParser:
    """The verb's arguments in a live session. Its errors are BadInput with the usage; it never exits."""
    found = _Parser(prog=prefix + verb.name, add_help=False, allow_abbrev=False)
    for one in verb.arguments_for(live=True):
        found.add_argument(*one.names, **one.options)
    if len(verb.formats) > 1:
        found.add_argument("--format", choices=verb.formats, default="text")
    return found


def values(verb: Verb, rest: str, prefix: str = "") -> dict[str, Any]:
    """The arguments' values in the rest of a line. Raises BadInput with the usage."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise BadInput(f"{error} in: {rest}", f"usage: {usage_of(parser(verb, prefix))}") from None
    return with_rules(vars(parser(verb, prefix).parse_args(gathered(words))))


def help_text(verb: Verb, prefix: str = "") -> str:
    """What `help VERB` shows: what it is for, how it is called, what its arguments mean, an example."""
    shown = parser(verb, prefix)
    lines = [f"{verb.help[0].upper()}{verb.help[1:]}.", f"Usage: {usage_of(shown)}"]
    for one in verb.arguments_for(live=True):
        if one.options.get("help"):
            metavar = one.options.get("metavar")
            names = one.names[-1] if one.names[-1].startswith("-") else str(metavar or one.names[0])
            lines.append(f"  {names:<14} {one.options['help']}")
    lines.append(f"Example: {prefix}{verb.live_example or verb.name}")
    return "\n".join(lines) + "\n"


def _verbs_of(session: Session | None) -> tuple[Verb, ...]:
    return session.verbs or LIVE if session is not None else LIVE


def help(request: Request) -> Answer:
    """`help`: a line a verb, or all about one."""
    verbs = _verbs_of(request.session)
    if request.verb:
        text = help_text(find(" ".join(request.verb), verbs)[0])
    else:
        text = "".join(f"  {verb.name:<14} {verb.help}\n" for verb in verbs)
    return Answer(lambda _: text)


def apropos(request: Request) -> Answer:
    """`apropos`: verbs and rules in whose help a word stands. Raises BadInput for a word that is nowhere."""
    from pvhdbg.rules.catalogue import RULES

    word = str(request.word).lower()
    verbs = _verbs_of(request.session)
    lines = [f"  {verb.name:<20} {verb.help}\n" for verb in verbs if word in f"{verb.name} {verb.help}".lower()]
    lines += [f"  {rule.id:<20} {rule.title}\n" for rule in RULES if word in f"{rule.id} {rule.title} {rule.why}".lower()]
    if not lines:
        raise BadInput(f"no verb and no rule speaks of {request.word}", "list all with: help, rules")
    return Answer(lambda _: "".join(lines))


# --- completion ---------------------------------------------------------------------------------------------------


def complete(session: Session | None, line: str) -> list[str]:
    """What the last word of `line` can become. Only looks at what is known already; the machine is not asked."""
    words = line.split()
    last = "" if not line or line[-1].isspace() else words.pop()
    verbs = _verbs_of(session)
    try:
        verb, rest = find(" ".join(words), verbs) if words else (None, "")
    except UnknownVerb:
        verb, rest = None, ""
        names = [one.name.split() for one in verbs]
        return sorted(
            {name[len(words)] for name in names if name[: len(words)] == words and name[len(words) :][:1]} if words else ()
        )
    if verb is None:
        return sorted({one.name.split()[0] for one in verbs if one.name.startswith(last)})
    seconds = [one.name.split()[1] for one in verbs if one.name.startswith(f"{verb.name} {last}")] if not rest else []
    return seconds + argument_words(session, verb, rest.split(), last)


def argument_words(session: Session | None, verb: Verb, before: list[str], last: str) -> list[str]:
    """What `last` can become as an argument of `verb`, after the arguments `before`."""
    arguments = verb.arguments_for(live=True)
    if last.startswith("-"):
        return sorted(name for one in arguments for name in one.names if name.startswith(last) and name.startswith("-"))
    option = next((one for one in arguments if before and before[-1] in one.names and _takes_value(one)), None)
    if option is not None:
        return _words(session, option, last)
    found: list[str] = []
    for one in arguments:
        if not one.names[0].startswith("-"):
            found += _words(session, one, last)
    return found[:_MOST]


def _takes_value(argument: Argument) -> bool:
    return argument.options.get("action") in (None, "append")


def _words(session: Session | None, argument: Argument, last: str) -> list[str]:
    found: list[str] = []
    found += [word for word in argument.options.get("choices") or () if str(word).startswith(last)]
    for kind in argument.completes.split():
        found += _KINDS[kind](session, last)
    return found


def _rules(_session: Session | None, last: str) -> list[str]:
    from pvhdbg.rules.catalogue import RULES

    head, comma, tail = last.rpartition(",")
    return [f"{head}{comma}{rule.id}" for rule in RULES if rule.id.startswith(tail.upper())]


def _symbols(session: Session | None, last: str) -> list[str]:
    return session.symbols_like(last, _MOST) if session is not None and last else []


def _registers(_session: Session | None, last: str) -> list[str]:
    from pvhdbg.model import CONTROL, EXTENDED, GENERAL, LOW_HALVES, SELECTORS

    names = (*LOW_HALVES, *GENERAL, *EXTENDED, "rip", "eflags", *SELECTORS, *CONTROL)
    return [f"${name}" for name in names if f"${name}".startswith(last)] if last.startswith("$") else []


def _verbs(session: Session | None, last: str) -> list[str]:
    return [verb.name for verb in _verbs_of(session) if verb.name.startswith(last)]


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


_KINDS = {"mode": _modes, "rule": _rules, "symbol": _symbols, "register": _registers, "verb": _verbs, "file": _files}
