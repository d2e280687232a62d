"""A line at the prompt: its comment, its pipe, its output file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvhdbg.errors import BadInput

_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'""")
_SIGN = re.compile(r"(>>|>|\|)\s*")


@dataclass(frozen=True)
class PromptLine:
    """`command`, and where its output goes: a `shell` command, or a `file` (`appending` to it)."""

    command: str
    shell: str = ""
    file: str = ""
    appending: bool = False


def parse(text: str) -> PromptLine:
    """`COMMAND … | COMMAND`, `COMMAND … > FILE`, `COMMAND … >> FILE`; quoted | and > are literal. Raises BadInput."""
    hidden = _QUOTED.sub(lambda found: "x" * len(found[0]), text)
    sign = _SIGN.search(hidden)
    if sign is None:
        return PromptLine(text.strip())
    command, rest = text[: sign.start()].strip(), text[sign.end() :].strip()
    if not rest or not command:
        raise BadInput(f"{sign[1]} needs a command before it and {'a file' if sign[1] != '|' else 'another'} after it",
                       "write: regs | grep cr0, or: regs > FILE")  # fmt: skip
    if sign[1] == "|":
        return PromptLine(command, shell=rest)
    file = rest[1:-1] if len(rest) > 1 and rest[0] == rest[-1] and rest[0] in "\"'" else rest
    return PromptLine(command, file=file, appending=sign[1] == ">>")


def command_of(text: str) -> str:
    """The part of a line before | or >."""
    sign = _SIGN.search(_QUOTED.sub(lambda found: "x" * len(found[0]), text))
    return text if sign is None else text[: sign.start()]


def is_comment(text: str) -> bool:
    """Whether a line is empty or a comment."""
    return text.lstrip().startswith("#")
