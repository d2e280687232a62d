"""The verbs' declarations as argparse parsers."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, NoReturn

from pvhdbg.errors import BadInput
from pvhdbg.frontends.verbs import VERBS, Verb
from pvhdbg.version import VERSION


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message, f"see: {self.prog} --help")


def parse(words: list[str]) -> tuple[Verb, dict[str, Any]]:
    """The verb and its arguments' values. Raises BadInput for words that do not fit; `--help` exits as argparse does."""
    words, passed_on = _split(words)
    words = gathered(words)
    verb = _verb(words)
    if verb is None:
        overview = _overview()
        if not words:
            overview.print_help()
            raise SystemExit(BadInput.exit_code)
        overview.parse_args(words[:1])  # --help, --version, or an error that lists the verbs
        raise BadInput(f"{' '.join(words[:2])} is not a command", "see: pvhdbg --help")
    if passed_on and not verb.passes_on:
        raise BadInput(f"pvhdbg {verb.name} passes nothing on to {verb.passes_to}", f"see: pvhdbg {verb.name} --help")
    values = vars(_parser(verb).parse_args(words[len(verb.name.split()) :]))
    with_rules(values)
    if "report" in values:
        values["report"] = [_report(word, verb) for word in values["report"]]
        _refuse_twice([*([values["output"]] if values["output"] else []), *(path for _, path in values["report"])])
    return verb, {**values, "extra": tuple(passed_on)}


def with_rules(values: dict[str, Any]) -> dict[str, Any]:
    """The same with `--select`, `--ignore` and `--as` as lists of words. Raises BadInput for one that names none."""
    for name in ("select", "ignore", "as"):
        if name in values:
            given = values[name]
            values[name] = [part for word in given for part in word.replace(",", " ").split()]
            if given and not values[name]:
                raise BadInput(f"--{name} names no rule", "list all with: pvhdbg rules")
    return values


def _report(word: str, verb: Verb) -> tuple[str, str]:
    format, _, path = word.partition("=")
    if format not in verb.formats:
        raise BadInput(f"--report {word}: there is no format {format!r}", f"choose one of {', '.join(verb.formats)}")
    if not path:
        raise BadInput(f"--report {word} names no file", f"write it as {format}=FILE")
    return format, path


def _refuse_twice(paths: list[str]) -> None:
    """Two answers would overwrite each other in one file; a device or standard output takes both."""
    files = [os.path.realpath(path) for path in paths if path != "-" and (not os.path.exists(path) or os.path.isfile(path))]
    for path in files:
        if files.count(path) > 1:
            raise BadInput(f"{path} is to be written twice", "give each --report and --output a file of its own")


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


_RULE = re.compile(r"(?:PVH|SI|DA|ELF)(?:[-,][A-Z0-9,-]*)?", re.ASCII | re.IGNORECASE)


def gathered(words: list[str]) -> list[str]:
    """`--select PVH-CR0 SI-MM vmlinux` as `--select PVH-CR0,SI-MM vmlinux`: what is no rule's id ends the list."""
    joined: list[str] = []
    for word in words:
        listing = len(joined) > 1 and joined[-2] in ("--select", "--ignore") and _RULE.fullmatch(joined[-1])
        if listing and _RULE.fullmatch(word):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def _verb(words: list[str]) -> Verb | None:
    for verb in VERBS:
        name = verb.name.split()
        if words[: len(name)] == name:
            return verb
    return None


def _parser(verb: Verb) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"pvhdbg {verb.name}",
        description=verb.help,
        epilog=f"example: {verb.example}" + (f"\nwords after -- are passed on to {verb.passes_to}" if verb.passes_on else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for one in verb.arguments_for(live=False):
        parser.add_argument(*one.names, **one.options)
    if "json" in verb.formats:
        parser.add_argument("--format", choices=verb.formats, default="text", help="how to print the answer")
        parser.add_argument("--output", metavar="FILE", help="write the answer there instead of to the terminal")
        parser.add_argument("--report", action="append", metavar="FORMAT=FILE", default=[],
                            help="write it in that format to that file as well; may be given several times")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colour (NO_COLOR is honoured)")
    return parser


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {verb.name:<14} {verb.help}" for verb in VERBS]
    parser = _Parser(
        prog="pvhdbg",
        usage="pvhdbg COMMAND …",
        description="Boot debugger for the Xen PVH (x86/HVM direct boot) ABI.\n\ncommands:\n" + "\n".join(lines),
        epilog="pvhdbg COMMAND --help tells more.\n\nexit codes: 0 conforms, 1 violated, 2 usage or unreadable input, "
        "3 not observed up to the entry,\n4 undecided under --strict, 70 internal error",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"pvhdbg {VERSION}")
    parser.add_argument("command", metavar="COMMAND", choices=[verb.name.split()[0] for verb in VERBS])
    return parser
