"""The commands in GDB: the command `pvh`. Runs in GDB's own Python only.

Every live command is a subcommand; additional commands for GDB are declared here in the same way. No command of GDB is redefined.
At a stop only registers are read, and only once `pvh` was used on this connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import gdb

from pvhdbg.commands import live
from pvhdbg.commands.declare import Answer, Command, Context, argument, takes
from pvhdbg.commands.progress import ProgressLine
from pvhdbg.commands.table import LIVE
from pvhdbg.commands.tables.shared import LAUNCH
from pvhdbg.commands.travel import moved
from pvhdbg.decode.text import printable
from pvhdbg.driver.options import time_limit
from pvhdbg.driver.travel import Travel
from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.in_gdb import disassembler
from pvhdbg.in_gdb import functions as gdb_functions
from pvhdbg.in_gdb import printers as gdb_printers
from pvhdbg.in_gdb import settings as gdb_settings
from pvhdbg.in_gdb.session import NAMING, STATE, entry_address, guarded, line_of, one_line, refusal
from pvhdbg.machine import running
from pvhdbg.machine.options import LaunchOptions, SubjectOptions
from pvhdbg.report.style import PLAIN
from pvhdbg.tracing.event import EndReason
from pvhdbg.version import VERSION

_PREFIX = "pvh "
_TRAVEL = ("pvhdbg.commands.travel:", "pvhdbg.commands.goto:")
_HERE = "pvhdbg.in_gdb.commands"

OWN: tuple[Command, ...] = (
    Command(
        "break",
        "set a hardware breakpoint at the PVH entry, or at a symbol before paging and after",
        "",
        f"{_HERE}:set_break",
        (
            argument(
                "symbol", metavar="SYMBOL", nargs="?", help="a symbol of the kernel; the entry without it", completes="symbol"
            ),
            argument("--temporary", action="store_true", help="delete it when it is hit"),
        ),
        formats=("text",),
        live=True,
        live_example="break",
    ),
    Command(
        "start",
        "start QEMU with the kernel, at its entry, by the deterministic clock: pvh goto, pvh back … then go back in its boot",
        "",
        f"{_HERE}:start",
        (*LAUNCH, argument("extra", metavar="WORD", nargs="*", help="further words for QEMU, behind --")),
        formats=("text",),
        live=True,
        live_example="start --append console=ttyS0",
    ),
    Command(
        "continue",
        "run on by the deterministic clock to the next breakpoint of GDB: interrupts come as without a debugger",
        "",
        f"{_HERE}:go_on",
        (argument("--for", dest="seconds", type=float, metavar="SECONDS", help="how long (default: 60)"),),
        formats=("text",),
        live=True,
        live_example="continue",
    ),
    Command(
        "run-to-entry",
        "run the guest to its PVH entry",
        "",
        f"{_HERE}:run_to_entry",
        (
            argument("--reset", action="store_true", help="reboot the machine first"),
            argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="time limit (default: 30)"),
        ),
        formats=("text",),
        live=True,
        live_example="run-to-entry --reset",
    ),
)
SUBCOMMANDS: tuple[Command, ...] = (*LIVE, *OWN)


def _answer(command: Command, rest: str) -> Answer:
    values = live.values(command, rest, _PREFIX)
    needs_machine = command.name not in ("help", "apropos", "explain", "rules", "notes", "elf")
    if command.action.startswith(_TRAVEL) and gdb.selected_inferior().connection is None:
        raise TargetError("GDB is connected to no machine", "start the kernel here: pvh start")
    STATE.busy = True
    try:
        session = STATE.session() if needs_machine and command.name != "start" else STATE.offline()
        with _telling(command.working and f"{_PREFIX}{command.working}") as progress:
            session.progress = progress
            return command(values, Context(progress, session))
    finally:
        STATE.busy = False


@contextmanager
def _telling(working: str) -> Iterator[Callable[[str], None]]:
    """What takes more than a second is shown where GDB's standard error is a terminal. GDB's own stream is for its own thread."""
    if not os.isatty(2):
        yield lambda _: None
        return
    with (
        open(2, "w", encoding="utf-8", errors="replace", closefd=False) as stream,
        ProgressLine(stream, working=working) as progress,
    ):
        yield progress


# --- commands -----------------------------------------------------------------------------------------------------


class _Pvh(gdb.Command):
    """Boot debugger for the Xen PVH ABI: `help pvh` lists the subcommands; start with `pvh run-to-entry`."""

    def __init__(self) -> None:
        super().__init__("pvh", gdb.COMMAND_USER, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Called without a subcommand, or with an unknown one."""
        guarded(lambda: _unknown(argument))


def _unknown(text: str) -> None:
    if text.split():
        try:
            live.find(text, SUBCOMMANDS)
        except live.UnknownCommand as error:
            raise BadInput(error.what, error.todo if error.candidates or error.near else "list them with: help pvh") from None
    raise BadInput("which subcommand?", "list them with: help pvh")


class _Group(gdb.Command):
    """The first word of several two-word commands."""

    def __init__(self, name: str) -> None:
        self._name = f"{_PREFIX}{name}"
        super().__init__(self._name, gdb.COMMAND_USER, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Called without the second word, or with an unknown one."""
        raise refusal(line_of(f"{self._name} {argument} is not a command (next: help {self._name})"))


class _Subcommand(gdb.Command):
    """One command; the docstring that GDB shows is made from its declaration."""

    def __init__(self, command: Command) -> None:
        self._command = command
        super().__init__(f"{_PREFIX}{command.name}", gdb.COMMAND_USER)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Print the answer; `--exit` ends GDB with the exit code."""
        self.dont_repeat()
        leaving = "--exit" in argument.split()
        try:
            answer = guarded(lambda: self._told(argument))
        except gdb.GdbError as error:
            if not leaving:
                raise
            gdb.write(f"{error}\n", gdb.STDERR)
            code = self._failed
        else:
            code = answer.exit_code
        if leaving:
            gdb.flush()
            gdb.execute("set confirm off")
            gdb.execute(f"quit {code}")

    _failed = 70

    def _told(self, argument: str) -> Answer:
        try:
            answer = _answer(self._command, argument)
            words = live.values(self._command, argument, _PREFIX)
            gdb.write(answer.render(str(words.get("format") or "text"), PLAIN))
            return answer
        except PvhdbgError as error:
            self._failed = error.exit_code
            raise

    def complete(self, text: str, word: str | None) -> Sequence[str]:
        """Completions of the last word. GDB expects them without the part that it does not count as the last word."""
        if word is None:
            return []  # GDB first asks whether it should divide the words differently
        words = text.split()
        last = "" if not text or text[-1].isspace() else words.pop()
        try:
            found = live.argument_words(STATE.offline(), self._command, words, last)
        except Exception:  # a completion never raises
            return []
        return [one[len(last) - len(word) :] for one in found] if last.endswith(word) else found


class BreakOptions(NamedTuple):
    """The options of `pvh break`."""

    symbol: str | None = None
    temporary: bool = False


class RunOptions(NamedTuple):
    """The options of `pvh run-to-entry`; `timeout` in seconds."""

    reset: bool = False
    timeout: float = 30.0


@takes(BreakOptions)
def set_break(options: BreakOptions, context: Context) -> Answer:
    """`pvh break`: hardware breakpoints of GDB's own, at the entry or at every address of a symbol."""
    session = context.session
    assert session is not None
    if options.symbol is None:
        addresses: tuple[int, ...] = (entry_address(session),)
    else:
        addresses = session.placement.aliases(options.symbol)
    for address in addresses:
        try:
            gdb.Breakpoint(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT, temporary=options.temporary)
        except gdb.error as error:
            raise TargetError(f"no hardware breakpoint at {address:#x}: {error}", "delete one of the others") from error
    doubt = session.placement.missing if options.symbol is not None else ""
    return Answer(lambda _: doubt and f"{doubt}\n")  # GDB has printed its place already


@takes(RunOptions)
def run_to_entry(options: RunOptions, context: Context) -> Answer:
    """`pvh run-to-entry`: run to the entry, after a reset if asked for."""
    session = context.session
    assert session is not None
    if not 0 < options.timeout < 1e6:
        raise BadInput(f"--timeout {options.timeout:g} is not a duration", "give a number of seconds greater than 0")
    entry = running.run_to_entry(session, options.timeout, options.reset).snapshot.entry
    symbol = f" <{printable(entry.symbol)}>" if entry.symbol else ""
    return Answer(lambda _: f"at the entry {entry.address:#x}{symbol}, found by {entry.found_by}\n")


class StartOptions(NamedTuple):
    """The options of `pvh start`."""

    launch: LaunchOptions = LaunchOptions()


class ContinueOptions(NamedTuple):
    """The options of `pvh continue`."""

    seconds: float | None = None


@takes(StartOptions)
def start(options: StartOptions, context: Context) -> Answer:
    """`pvh start`: a machine of our own, which GDB connects to."""
    image = STATE.image()
    if image is None:
        raise BadInput("which kernel?", NAMING)
    session = STATE.start(SubjectOptions(image.path, launch=options.launch._replace(deterministic=True)), context.progress)
    return moved(session)


@takes(ContinueOptions)
def go_on(options: ContinueOptions, context: Context) -> Answer:
    """`pvh continue`: to the next breakpoint, or to the guest's end."""
    session = context.session
    assert session is not None
    travel = Travel(session, "continue", context.progress, options.seconds)
    end = travel.onward_to_breakpoint(time_limit(options.seconds))
    return moved(session, "" if end.why is EndReason.ADDRESS else end.words)


class _InfoPvh(gdb.Command):
    """Show what pvhdbg knows: its version, settings, kernel, and the machine's entry."""

    def __init__(self) -> None:
        super().__init__("info pvh", gdb.COMMAND_STATUS, gdb.COMPLETE_NONE)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """One line each."""
        gdb.write("".join(f"{line}\n" for line in guarded(_overview)))


def _overview() -> list[str]:
    image = STATE.image()
    lines = [
        f"pvhdbg {VERSION}, judging by {gdb.parameter('pvh spec')}{', strict' if gdb.parameter('pvh strict') else ''}",
        f"kernel  {line_of(image.path) if image is not None else 'not known (set pvh kernel FILE)'}",
    ]
    try:
        session = STATE.session()
    except TargetError as error:
        return [*lines, f"machine {one_line(error)}"]
    entry = session.find_entry()
    where = "not known" if entry is None or entry.address is None else f"{entry.address:#x}, found by {entry.found_by}"
    return [*lines, f"machine {line_of(session.target.name)}", f"entry   {where}"]


# --- events -------------------------------------------------------------------------------------------------------


def _on_continue(event: object) -> None:
    session = STATE.watched()
    if session is not None:
        session.resumed()


def _on_stop(event: object) -> None:
    session = STATE.watched()
    if session is not None:
        try:
            session.stopped()
        except Exception:
            session.forget()  # the machine is gone, or is another one: the next command checks


def _on_change(event: object) -> None:
    session = STATE.watched()
    if session is not None:
        session.changed()


def install() -> None:
    """Give GDB its commands, settings, functions and printers. A second `source` replaces what the first one made."""
    gdb_settings.install()
    _Pvh()
    for group in sorted({command.name.split()[0] for command in SUBCOMMANDS if " " in command.name}):
        type("_Words", (_Group,), {"__doc__": _Group.__doc__})(group)
    for command in SUBCOMMANDS:
        type("_Command", (_Subcommand,), {"__doc__": live.help_text(command, _PREFIX).rstrip("\n")})(command)
    _InfoPvh()
    gdb_printers.register()
    gdb_functions.install()
    disassembler.install()
    if not _INSTALLED:
        gdb.events.cont.connect(_on_continue)
        gdb.events.stop.connect(_on_stop)
        gdb.events.memory_changed.connect(_on_change)
        gdb.events.register_changed.connect(_on_change)
        _INSTALLED.append(True)


_INSTALLED: list[bool] = []
