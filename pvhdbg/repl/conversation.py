"""The prompt without a terminal: `run(line)` returns a Result, `complete(line)` the completions.

A line is a command, optionally followed by `| COMMAND` or `> FILE`. The conversation survives every error: an error is one line of
the Result, and so is the end of the machine.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from pvhdbg import leaving
from pvhdbg.commands import live
from pvhdbg.commands.declare import Answer, Command, Context
from pvhdbg.commands.output import Output
from pvhdbg.decode.text import NOTHING, SafeText, safe
from pvhdbg.errors import BadInput, PvhdbgError, TargetLost, cause_of
from pvhdbg.machine import context_view
from pvhdbg.machine.session import Session
from pvhdbg.machine.source_line import SourceLines
from pvhdbg.machine.stop_text import position
from pvhdbg.model import Unavailable
from pvhdbg.repl import lines, own_commands
from pvhdbg.repl.displays import Displays
from pvhdbg.repl.gdb_echo import GdbEcho
from pvhdbg.repl.machine import Machine
from pvhdbg.repl.options import ConversationOptions
from pvhdbg.repl.serial import Follower
from pvhdbg.report.answers.prompt import ContextAnswer
from pvhdbg.report.style import PLAIN, Style

_EXPRESSION = re.compile(r"[()\[\]&>]", re.ASCII)  # of C: GDB knows it
_DEEPEST = 16  # files that source one another


@dataclass(frozen=True)
class Result:
    """The result of a line: `text`, or `error` in one line; `exit_code` as on the command line; `leaves` ends the prompt.

    `exact` text is a document: it is printed as it is.
    """

    text: str = ""
    error: SafeText = NOTHING
    exit_code: int = 0
    leaves: bool = False
    exact: bool = False


class Conversation:
    """One conversation with one machine."""

    def __init__(self, command: str, options: ConversationOptions, progress: Callable[[str], None] = lambda _: None) -> None:
        self.commands = own_commands.ALL
        self.machine = Machine(command, options, progress)
        self.telling: Callable[[str], AbstractContextManager[Callable[[str], None]]] = lambda _: nullcontext(lambda _: None)
        self.style: Style = PLAIN
        self.output: Output | None = None  # where text for people goes
        self.write: Callable[[str], None] = (
            self._write
        )  # output that does not wait for the Result: serial output, and sourced lines
        self.over = ""  # erases a line of progress at a terminal, for output that comes meanwhile
        self.confirm: Callable[[str], bool] = lambda _: True
        self.shows_context = False  # at each stop, instead of the next instruction alone
        self.patient = False  # debug info of any size is read for the context's source line
        self.parts = set(context_view.Part)  # of the context
        self.displays = Displays()
        self.leaving = False
        self.where = ("", "")  # the machine's place after the last line, for the toolbar
        self._lines: SourceLines | None = None
        self._last_serial: SafeText | None = None
        self._follower: Follower | None = None  # whose line that is
        self._seen = 0  # the session's `moves` when its stop was shown last
        self._vmm = ""
        self._repeat = ""
        self._goes_on: str | None = None
        self._depth = 0
        self.machine.watch = self.show_serial

    @property
    def session(self) -> Session:
        return self.machine.session

    def open(self) -> None:
        """Run the machine to its entry. Raises PvhdbgError."""
        self.machine.open()
        vmm = self.session.boot().snapshot.vmm
        self._vmm = " ".join(word for word in (vmm.name, vmm.version, vmm.accelerator) if word)
        self.look()
        self._arrived()
        self._told()  # not the commands of a user's line

    # --- a line ---------------------------------------------------------------------------------------------------

    def run(self, line: str) -> Result:
        """Run a line; an empty one repeats the last repeatable command. Never raises."""
        if lines.is_comment(line):
            return Result()
        line = line.strip() or self._repeat
        if not line:
            return Result()
        self._repeat, self._goes_on = "", None
        return self._safely(lambda: self._run(line))

    def do(self, command: Command, words: Sequence[str]) -> Result:
        """Run a command with these words as its arguments: nothing in them is a pipe, a file or a line for GDB. Never raises."""
        return self._safely(
            lambda: self._shown(command, live.values(command, shlex.join(words)), lines.PromptLine(""), command.name)
        )

    def _safely(self, work: Callable[[], Result]) -> Result:
        try:
            try:
                result = work()
            except Unavailable as gap:
                result = Result(error=safe(gap.reason), exit_code=3)
            except PvhdbgError as error:
                result = self._failed(error)
            self.show_serial(whole=True)
            return replace(result, text=result.text + self._new_stop())
        except KeyboardInterrupt:
            leaving.stay()
            self.machine.speak_anew()
            return Result(error=SafeText("interrupted"), exit_code=130)
        except Exception as error:
            return _internal(error)
        finally:
            self.show_serial(whole=True)
            self.look()
            self._told()

    def _run(self, text: str) -> Result:
        if text.startswith("!"):
            return self._shown(own_commands_named("shell"), {"command": [text[1:].strip()]}, lines.PromptLine(text), text)
        command = self._meant(lines.command_of(text).strip() or text)
        if command is None:
            return self._passed_on(text)
        rest = live.find(text, self.commands)[1] if command.name in own_commands.RAW else ""
        if command.name == "gdb":
            return self._passed_on(rest.strip())
        if command.name in own_commands.RAW:
            return self._shown(command, {"command": [rest.strip()]}, lines.PromptLine(text), text)
        line = lines.parse(text)
        command, rest = live.find(line.command, self.commands)
        return self._shown(command, live.values(command, rest), line, text)

    def _meant(self, text: str) -> Command | None:
        """Our command in a line; None for a line of GDB's. Raises live.UnknownCommand without a GDB."""
        first, *rest = text.replace("/", " /", 1).split()
        gdb = self.machine.may_use_gdb and self.machine.gone is None
        if gdb and first == "info" and rest and not rest[0].startswith("-") and not _second_word(rest[0]):
            return None
        try:
            found = live.find(text, self.commands, abbreviated=False)[0]
        except live.UnknownCommand:
            if gdb and (first in own_commands.GDB_WORDS or first == "x"):
                return None
        else:
            return None if gdb and found.name in own_commands.OF_VALUES and _EXPRESSION.search(text) else found
        try:
            return live.find(text, self.commands)[0]
        except live.UnknownCommand as unknown:
            if not gdb or unknown.candidates:
                raise
            return None

    def _passed_on(self, line: str) -> Result:
        """GDB runs the line, and its output is written as it comes; an error is shown in GDB's own words."""
        machine = self.machine
        machine.needs_machine()
        self.session.needs_control("gdb")
        if not machine.may_use_gdb:
            raise BadInput("GDB is disabled here, or not installed", "leave --via remote out; list our commands with: help")
        if not line:
            raise BadInput("gdb needs a line", "usage: gdb LINE")
        with self.telling("GDB is working") as machine.progress:
            gdb = machine.hand_to_gdb()
        machine.running = True
        try:
            error, ran = gdb.passed_on(line, lambda text: self.write(_clean(text)), machine.interrupted, self.show_serial)
        finally:
            machine.running = False
            machine.interrupted.clear()
        if ran:
            self.session.resumed()
            self.session.stopped()
        else:
            self.session.changed()
        if error is not None and error.startswith("Undefined command"):
            raise self._unknown(line)
        if ran or line.split()[0].partition("/")[0] in ("x", "list", "l"):
            self._repeat = line
        return Result(error=safe(" ".join((error or "").split())), exit_code=0 if error is None else 2)

    def _unknown(self, line: str) -> PvhdbgError:
        try:
            live.find(line, self.commands)
        except live.UnknownCommand as error:
            if error.candidates:
                return error
            near = f"did you mean {', '.join(error.near)}?" if error.near else "list them with: help"
            return BadInput(f"{line.split()[0]!r} is not a command, and GDB does not know it either", near)
        return BadInput(f"{line.split()[0]!r} is not a command, and GDB does not know it either", "list them with: help")

    def _shown(self, command: Command, values: dict[str, Any], line: lines.PromptLine, text: str) -> Result:
        if command.name not in own_commands.NO_MACHINE:
            self.machine.needs_machine()
        with self.telling(command.working) as progress:
            self.machine.progress = self.session.progress = progress
            answer = command(values, Context(progress, self.session, self.commands, self))
        if values.get("format") == "json":
            self._arrived()  # the document is the whole answer
        if command.repeats:
            self._repeat = self._goes_on or text
        plain = bool(line.shell or line.file)
        output = answer.render(str(values.get("format") or "text"), PLAIN if plain else self.style)
        output = "".join(f"(gdb) {safe(one)}\n" for one in self._told()) + output
        if line.shell:
            output = _piped(line.shell, output)
        elif line.file:
            _written(line, output)
            output = ""
        return Result(output, exit_code=answer.exit_code, leaves=self.leaving, exact=values.get("format") == "json")

    def _told(self) -> list[str]:
        target = self.session.target
        return target.told() if isinstance(target, GdbEcho) else []

    def context(self) -> ContextAnswer:
        """The context of the current stop, in the parts that are on. Raises TargetLost."""
        image = self.session.image
        if self._lines is None or self._lines.image is not image:
            self._lines = SourceLines(image) if image is not None else None
        if self._lines is not None:
            self._lines.patient = self._lines.patient or self.patient
        return context_view.context(self.session, self.parts, self._lines, self._last_serial)

    def stop_view(self) -> str:
        """What is shown of a stop: the context, if it is on, and the displays."""
        self._arrived()
        shown = context_view.text(self.context(), self.parts, self.style) if self.shows_context else []
        return "".join(f"{line}\n" for line in (*shown, *self.displays.lines(self.session)))

    def _arrived(self) -> None:
        """This stop is shown: the next one is compared with it."""
        self._seen = self.session.moves
        self.session.shown()

    def _new_stop(self) -> str:
        """What is shown where the machine has moved, also by a command that failed later; nothing where it cannot be read."""
        if self.leaving or self.machine.gone is not None or self.session.moves == self._seen:
            return ""
        try:
            return self.stop_view()
        except (PvhdbgError, Unavailable):
            return ""  # the next command reports it

    def goes_on(self, line: str) -> None:
        """Set the line that an empty line runs next, where that is not the same line again."""
        self._goes_on = line

    def _failed(self, error: PvhdbgError) -> Result:
        gone = self.machine.lost(error if isinstance(error, TargetLost) and self.machine.gone is None else None)
        if gone is not None:
            return Result(error=safe(f"the machine is gone: {gone} (boot it again: restart)"), exit_code=3)
        todo = f" ({error.todo})" if error.todo else ""
        return Result(error=safe(" ".join(f"{safe(error.what)}{safe(todo)}".split())), exit_code=error.exit_code)

    def _write(self, text: str) -> None:
        if self.output is not None:
            self.output.show(text)

    def tell(self, result: Result, paging: bool = False) -> None:
        """Write the text of a result, for a terminal's width; with `paging` in the pager where it is long."""
        if self.output is None:
            self.write(result.text)
        elif result.exact:
            self.output.write(result.text)
        else:
            self.output.show(result.text, paging)

    def greeting(self) -> list[str]:
        """The head of a report: the machine's place, or the context of the stop, and the warnings."""
        place = self.stop_view().splitlines() if self.shows_context else [", ".join(word for word in self.where if word)]
        return [*place, *self.session.warnings]

    # --- around it ------------------------------------------------------------------------------------------------

    def news(self) -> str | None:
        """A sentence when the machine has ended while the prompt waited for input."""
        if self.leaving:
            return None
        gone = self.machine.lost()
        if gone is None:
            return None
        self.look()
        return f"the machine is gone: {safe(gone)} (boot it again: restart)"

    def look(self) -> None:
        """Remember the machine's place."""
        if self.leaving:
            return
        if self.machine.gone is not None:
            self.where = ("no machine", "restart boots it again")
            return
        try:
            self.where = position(self.session)
        except (PvhdbgError, Unavailable):
            self.where = ("", "")  # the next command reports the error

    def toolbar(self) -> str:
        """The machine's place, its mode, and its VMM, in one line."""
        if self.machine.gone is not None:
            return " · ".join(self.where)
        cpu = self.session.target.cpu
        words = (
            self.where[0] and f"stopped at {self.where[0]}",
            self.where[1],
            "" if cpu is None else f"CPU {cpu}",
            self._vmm,
        )
        return " · ".join(word for word in words if word)

    def show_serial(self, whole: bool = False) -> None:
        """Write the guest's new output on COM1, where it can be read."""
        if self.machine.serial is not self._follower:  # another boot
            self._follower, self._last_serial = self.machine.serial, None
        if self.machine.serial is not None:
            for line in self.machine.serial.lines(whole):
                self._last_serial = line
                self.write(f"{self.over}{self.style('dim', '|')} {line}\n")

    def complete(self, line: str) -> list[str]:
        """Completions of the last word of `line`. Never reads the machine; asks GDB only where it holds the stub already."""
        found = live.complete(self.session, line, self.commands)
        gdb = self.machine.gdb if not found and self.machine.gone is None and not self.machine.running else None
        if gdb is None or not line.strip():
            return found
        head = line[: len(line) - len("" if line[-1].isspace() else line.split()[-1])]
        return [whole[len(head) :] for whole in gdb.words(line) if whole.startswith(head)]

    def source(self, path: str) -> Answer:
        """Run the lines of a file; output is written as it comes. Raises BadInput where one fails, with its place."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                script = file.read(1 << 20).splitlines()
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read: {cause_of(error)}", "name a file of lines") from error
        if self._depth >= _DEEPEST:
            raise BadInput(f"{path}: files source one another without end", "leave one `source` out")
        self._depth += 1
        try:
            for number, line in enumerate(script, 1):
                if not line.strip():
                    continue
                result = self.run(line)
                self.tell(result)
                if result.error:
                    raise BadInput(f"{path}:{number}: {result.error}", "")
                if result.leaves:
                    break
        finally:
            self._depth -= 1
        return Answer(lambda _: "")

    def close(self) -> str:
        """Leave the machine as the command line said; returns a line if something stays. Safe to call twice."""
        left = "" if self.leaving else self.machine.close()
        self.leaving = True
        return f"{left}\n" if left else ""


def _second_word(word: str) -> bool:
    return any(command.name.startswith(f"info {word}") for command in own_commands.OWN)


def _clean(text: str) -> str:
    """GDB's output with its line ends, and without other control characters."""
    return "".join(letter if letter in "\n\t" else safe(letter) for letter in text)


def own_commands_named(name: str) -> Command:
    """One of the prompt's own commands."""
    return next(command for command in own_commands.OWN if command.name == name)


def _piped(command: str, text: str) -> str:
    done = subprocess.run(  # noqa: S602 - the user asked for a shell
        command, shell=True, input=text, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout + done.stderr


def _written(line: lines.PromptLine, text: str) -> None:
    try:
        with open(line.file, "a" if line.appending else "w", encoding="utf-8") as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise BadInput(f"{line.file} cannot be written: {cause_of(error)}", "choose another file") from error


def _internal(error: Exception) -> Result:
    import os
    import traceback

    if os.environ.get("PVHDBG_TRACEBACK"):
        traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return Result(error=safe(f"internal error: {type(error).__name__}: {error} ({where}; report it)"), exit_code=70)
