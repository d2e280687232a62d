"""From the command line to the prompt: the report first, then the given commands, then the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from pvhdbg.commands.declare import Answer, Command, Context, NoOptions, options_of, takes
from pvhdbg.commands.options import OutputOptions, PromptOptions
from pvhdbg.commands.output import open_output, style_for
from pvhdbg.commands.progress import ProgressLine
from pvhdbg.errors import BadInput

if TYPE_CHECKING:
    from pvhdbg.repl.conversation import Conversation


def converses(command: Command, values: Mapping[str, Any]) -> bool:
    """Whether a command line leads to the prompt, or to commands that run there. Raises BadInput where both were asked for and cannot be."""
    if not command.converses:
        return False
    prompt, asked = options_of(PromptOptions, values), options_of(OutputOptions, values)
    if values.get("compare_tcg"):
        if prompt.commands:
            raise BadInput("--compare-tcg boots two machines, and the prompt has one", "leave out --compare-tcg, or -ex and -x")
        return False
    if command.name == "repl" or prompt.commands:
        return True
    return asked.format == "text" and not asked.output and not prompt.batch and on_terminal()


def on_terminal() -> bool:
    """Whether standard input and output are a terminal."""
    return bool(sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty())


def converse(command: Command, values: Mapping[str, Any], stderr: TextIO) -> int:
    """The whole conversation; returns the exit code: the report's, else that of the first command that failed.

    Raises PvhdbgError where the machine does not reach its entry, or the report cannot be written.
    """
    from pvhdbg.repl.conversation import Conversation
    from pvhdbg.repl.options import ConversationOptions

    asked, code = options_of(OutputOptions, values), 0
    talk: Conversation | None = None
    try:
        with open_output(asked.output) as output:
            with ProgressLine(stderr, asked.detail) as progress:
                talk = Conversation(command.name, options_of(ConversationOptions, values), progress)
                talk.open()
            talk.telling = lambda working: ProgressLine(stderr, asked.detail, working)
            talk.over = "\r\x1b[K" if stderr.isatty() else ""
            if command.name != "repl":
                answer = _report(command, talk, values, stderr)
                text = answer.render(asked.format, style_for(asked, output.stream))
                (output.show if asked.format == "text" else output.write)(text)
                code = answer.exit_code
        with open_output(None) as output:
            talk.style, talk.output = style_for(asked, output.stream), output
            prompt = options_of(PromptOptions, values)
            talk.shows_context = on_terminal() and not prompt.batch
            if command.name == "repl":
                output.show("".join(f"{line}\n" for line in talk.greeting()))
            failed = _talk(talk, prompt, stderr)
            output.write(talk.close())
    finally:
        if talk is not None:
            talk.close()
    return code or failed


def _report(command: Command, talk: Conversation, values: Mapping[str, Any], stderr: TextIO) -> Answer:
    """The command's answer before the prompt: `run` and `attach` judge; the others are commands of a session, too."""
    from pvhdbg.commands.table import LIVE

    said = next((one for one in LIVE if one.name == command.name), None) or next(one for one in LIVE if one.name == "check")
    with ProgressLine(stderr, options_of(OutputOptions, values).detail) as progress:
        answer = said(values, Context(progress, talk.session))
    talk.look()
    return answer


def _talk(talk: Conversation, prompt: PromptOptions, stderr: TextIO) -> int:
    failed = 0
    for kind, text in prompt.commands:
        code = _say(talk, f"source {text}" if kind == "file" else text, stderr)
        failed = failed or code
        if talk.leaving:
            return failed
    if prompt.batch:
        return failed
    if on_terminal():
        from pvhdbg.repl.terminal import Terminal

        return Terminal(talk).run() or failed
    if prompt.commands or sys.stdin is None:
        return failed
    for line in sys.stdin:
        code = _say(talk, line, stderr)
        failed = failed or code
        if talk.leaving:
            break
    return failed


def _say(talk: Conversation, line: str, stderr: TextIO) -> int:
    result = talk.run(line)
    talk.tell(result)
    if result.error:
        stderr.write(f"pvhdbg: {result.error}\n")
    return result.exit_code


@takes(NoOptions)
def repl(options: NoOptions, context: Context) -> Answer:
    """`repl` outside the command line. Raises BadInput."""
    raise BadInput("repl opens a prompt, which needs the command line", "start it from a shell: pvhdbg repl SUBJECT")
