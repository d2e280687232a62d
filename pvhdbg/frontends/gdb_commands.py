"""GDB's face of the verbs: the command `pvh`, its settings, and its functions. Runs in GDB's own Python only.

Every live verb is a subcommand; what GDB needs besides is declared here in the same way. Nothing of GDB's is redefined, and at a
stop nothing is read but registers, and those only once `pvh` was used on this connection.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import gdb

from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.frontends import gdb_printers, live
from pvhdbg.frontends.lending import Lent
from pvhdbg.frontends.session import Session, Settings, UnknownVerb
from pvhdbg.frontends.verb import Answer, Request, Verb, argument
from pvhdbg.frontends.verbs import LIVE
from pvhdbg.model import Unavailable
from pvhdbg.targets.from_thread import FromThread
from pvhdbg.targets.inside_gdb import InsideGdb, connection

if TYPE_CHECKING:
    from pvhdbg.kernel_image import KernelImage
    from pvhdbg.report.document import Report
    from pvhdbg.rules.declare import Rule

T = TypeVar("T")
_PREFIX = "pvh "
_NAMING = "name the kernel: set pvh kernel FILE"
_HERE = "pvhdbg.frontends.gdb_commands"

OWN: tuple[Verb, ...] = (
    Verb(
        "break",
        "set a hardware breakpoint at the PVH entry, or at a symbol before paging and after",
        "",
        f"{_HERE}:set_break",
        (
            argument("symbol", metavar="SYMBOL", nargs="?", help="a symbol of the kernel; the entry without it", completes="symbol"),
            argument("--temporary", action="store_true", help="delete it when it is hit"),
        ),
        formats=("text",),
        live=True,
        live_example="break",
    ),
    Verb(
        "run-to-entry",
        "let the guest run to its PVH entry",
        "",
        f"{_HERE}:run_to_entry",
        (
            argument("--reset", action="store_true", help="reboot the machine first"),
            argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="how long it may take (default: 30)"),
        ),
        formats=("text",),
        live=True,
        live_example="run-to-entry --reset",
    ),
)
SUBCOMMANDS: tuple[Verb, ...] = (*LIVE, *OWN)


# --- one session for a connection ---------------------------------------------------------------------------------


class _State:
    """The session of GDB's current connection, and the kernel file that was opened for it."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._connection: gdb.TargetConnection | None = None
        self._image: KernelImage | None = None
        self._opened: tuple[str, int] | None = None
        self.busy = False  # the machine runs and stops on our own behalf

    def session(self) -> Session:
        """The session with the machine that GDB is connected to. Raises PvhdbgError."""
        stub = connection()
        if self._session is None or self._connection is not stub:
            self._connection = stub
            self._session = Session(InsideGdb(stub), evaluate=_evaluated, naming=_NAMING, lender=_lend)
        self._configure(self._session)
        return self._session

    def offline(self) -> Session:
        """A session for what needs no machine: the one there is, or one with the kernel file alone. Raises PvhdbgError."""
        session = self._session or Session(_NO_MACHINE, naming=_NAMING)
        self._configure(session)
        return session

    def watched(self) -> Session | None:
        """The session whose machine runs and stops on the user's behalf; None while it does so on ours, or there is none."""
        return None if self.busy else self._session

    def _configure(self, session: Session) -> None:
        session.settings = Settings(str(gdb.parameter("pvh spec")), bool(gdb.parameter("pvh strict")))
        image = self.image()
        if session.image is not image:
            session.use_image(image)

    def image(self) -> KernelImage | None:
        """The kernel of `set pvh kernel`, or else the program or symbol file that GDB was given. Raises PvhdbgError."""
        chosen = str(gdb.parameter("pvh kernel") or "")
        path = os.path.expanduser(chosen) or _file_of_gdb()
        if not path:
            self._opened = self._image = None
            return None
        try:
            stamp = (path, os.stat(path).st_mtime_ns)
            if stamp != self._opened:
                from pvhdbg.kernel_image import open_kernel

                self._opened, self._image = None, None
                self._image = open_kernel(path)
                self._opened = stamp
        except (OSError, PvhdbgError) as error:
            if not chosen:
                return None  # GDB's file may be anything
            if isinstance(error, OSError):
                raise BadInput(f"{path} cannot be read: {error.strerror}", "set pvh kernel to another file") from error
            raise
        return self._image


STATE = _State()


def _lend(session: Session, work: Callable[[Lent], Any]) -> Any:
    """See `lending`: GDB runs the machine in this thread, its own, while the work looks on in another."""
    machine = session.target
    assert isinstance(machine, InsideGdb)
    lent = FromThread(machine)
    try:
        with machine.alone():
            return lent.serve(lambda: work(Lent(lent, lent.interruptible)))
    finally:
        numbers = " ".join(str(one.number) for one in machine.disabled)
        if numbers:
            gdb.write(f"pvh: the machine is gone, and GDB enables no hardware breakpoint without one: enable {numbers}\n", gdb.STDERR)


def _file_of_gdb() -> str:
    space = gdb.current_progspace()
    if space is None:
        return ""
    return space.filename or next((one.filename or "" for one in space.objfiles() if one.filename), "")


def _evaluated(text: str) -> int:
    """An expression of GDB's as a number. Raises BadInput with GDB's own words."""
    try:
        value = gdb.parse_and_eval(text)
        if value.type.strip_typedefs().code in (gdb.TYPE_CODE_FUNC, gdb.TYPE_CODE_ARRAY) and value.address is not None:
            value = value.address
        return int(value) & (1 << 64) - 1
    except (gdb.error, ValueError, OverflowError) as error:
        raise BadInput(str(error), "") from None


# --- what every entry point from GDB does -------------------------------------------------------------------------


def _guarded(work: Callable[[], T]) -> T:
    """Do `work`; what goes wrong becomes one line of GDB's."""
    try:
        return work()
    except PvhdbgError as error:
        raise gdb.GdbError(one_line(error)) from None
    except Unavailable as gap:
        raise gdb.GdbError(_safe(gap.reason)) from None
    except gdb.GdbError:
        raise
    except KeyboardInterrupt:
        raise gdb.GdbError("interrupted") from None
    except Exception as error:
        if gdb.parameter("python print-stack") == "full":
            gdb.write(traceback.format_exc(), gdb.STDERR)
        raise gdb.GdbError(f"pvh: internal error: {type(error).__name__}: {_safe(str(error))} "
                           "(report it, with what `set python print-stack full` shows)") from None  # fmt: skip


def one_line(error: PvhdbgError) -> str:
    """An error as one line of safe text: what happened, and what to do next."""
    return _safe(f"{error.what} (next: {error.todo})" if error.todo else error.what)


def _safe(text: str) -> str:
    from pvhdbg.decode.text import safe

    return safe(" ".join(text.split()))


def _answer(verb: Verb, rest: str) -> Answer:
    values = live.values(verb, rest, _PREFIX)
    needs_machine = verb.name not in ("help", "apropos", "explain", "rules", "notes")
    STATE.busy = True
    try:
        session = STATE.session() if needs_machine else STATE.offline()
        return verb(Request(values, lambda _: None, session))
    finally:
        STATE.busy = False


def _no_machine() -> Any:
    from pvhdbg.model import Snapshot
    from pvhdbg.targets.recorded import RecordedTarget

    return RecordedTarget(Snapshot(), "nothing")


_NO_MACHINE = _no_machine()


# --- commands -----------------------------------------------------------------------------------------------------


class _Pvh(gdb.Command):
    """Boot debugger for the Xen PVH ABI: `help pvh` lists what it can do, `pvh run-to-entry` is a beginning."""

    def __init__(self) -> None:
        super().__init__("pvh", gdb.COMMAND_USER, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Without a subcommand; GDB also calls it with one that it does not know."""
        _guarded(lambda: _unknown(argument))


def _unknown(text: str) -> None:
    if text.split():
        try:
            live.find(text, SUBCOMMANDS)
        except UnknownVerb as error:
            raise BadInput(error.what, error.todo if error.candidates or error.near else "list them with: help pvh") from None
    raise BadInput("which subcommand?", "list them with: help pvh")


class _Group(gdb.Command):
    """The word that several verbs begin with."""

    def __init__(self, name: str) -> None:
        self._name = f"{_PREFIX}{name}"
        super().__init__(self._name, gdb.COMMAND_USER, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Without the second word, or with one that there is not."""
        raise gdb.GdbError(f"{self._name} {_safe(argument)}".rstrip() + f" is no verb (next: help {self._name})")


class _Subcommand(gdb.Command):
    """One verb; the docstring that GDB shows is made of its declaration."""

    def __init__(self, verb: Verb) -> None:
        self._verb = verb
        super().__init__(f"{_PREFIX}{verb.name}", gdb.COMMAND_USER)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Print the answer; `--exit` ends GDB with the exit code."""
        self.dont_repeat()
        leaving = "--exit" in argument.split()
        try:
            answer = _guarded(lambda: self._told(argument))
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
            answer = _answer(self._verb, argument)
            words = live.values(self._verb, argument, _PREFIX)
            from pvhdbg.report.style import PLAIN

            gdb.write(answer.render(str(words.get("format") or "text"), PLAIN))
            return answer
        except PvhdbgError as error:
            self._failed = error.exit_code
            raise

    def complete(self, text: str, word: str | None) -> Sequence[str]:
        """What the last word can become. GDB wants only what follows its own idea of where that word begins."""
        if word is None:
            return []  # GDB asks first whether its idea is to be another one
        words = text.split()
        last = "" if not text or text[-1].isspace() else words.pop()
        try:
            found = live.argument_words(STATE.offline(), self._verb, words, last)
        except Exception:  # a completion never complains
            return []
        return [one[len(last) - len(word) :] for one in found] if last.endswith(word) else found


def set_break(request: Request) -> Answer:
    """`pvh break`: hardware breakpoints of GDB's own, at the entry or at every address of a symbol."""
    session = request.session
    assert session is not None
    if request.symbol is None:
        addresses: tuple[int, ...] = (_entry_of(session),)
    else:
        addresses = session.placement.aliases(str(request.symbol))
    for address in addresses:
        try:
            gdb.Breakpoint(f"*{address:#x}", type=gdb.BP_HARDWARE_BREAKPOINT, temporary=bool(request.temporary))
        except gdb.error as error:
            raise TargetError(f"no hardware breakpoint at {address:#x}: {error}", "delete one of the others") from error
    doubt = session.placement.missing if request.symbol is not None else ""
    return Answer(lambda _: doubt and f"{doubt}\n")  # where it is, GDB has said already


def _entry_of(session: Session) -> int:
    entry = session.find_entry()
    if entry is None or entry.address is None:
        raise TargetError("where the entry is could not be learnt", _NAMING)
    return entry.address


def run_to_entry(request: Request) -> Answer:
    """`pvh run-to-entry`: to the entry, over a reset if asked for."""
    from pvhdbg.decode.text import printable

    session = request.session
    assert session is not None
    if not 0 < request.timeout < 1e6:
        raise BadInput(f"--timeout {request.timeout:g} is not a time", "give a number of seconds greater than 0")
    entry = session.run_to_entry(float(request.timeout), bool(request.reset)).snapshot.entry
    symbol = f" <{printable(entry.symbol)}>" if entry.symbol else ""
    return Answer(lambda _: f"at the entry {entry.address:#x}{symbol}, found by {entry.found_by}\n")


class _InfoPvh(gdb.Command):
    """Show what pvhdbg knows: its version, settings, kernel, and the machine's entry."""

    def __init__(self) -> None:
        super().__init__("info pvh", gdb.COMMAND_STATUS, gdb.COMPLETE_NONE)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """One line each."""
        gdb.write("".join(f"{line}\n" for line in _guarded(_overview)))


def _overview() -> list[str]:
    from pvhdbg.version import VERSION

    image = STATE.image()
    lines = [
        f"pvhdbg {VERSION}, judging by {gdb.parameter('pvh spec')}{', strict' if gdb.parameter('pvh strict') else ''}",
        f"kernel  {_safe(image.path) if image is not None else 'not known (set pvh kernel FILE)'}",
    ]
    try:
        session = STATE.session()
    except TargetError as error:
        return [*lines, f"machine {one_line(error)}"]
    entry = session.find_entry()
    where = "not known" if entry is None or entry.address is None else f"{entry.address:#x}, found by {entry.found_by}"
    return [*lines, f"machine {_safe(session.target.name)}", f"entry   {where}"]


# --- settings -----------------------------------------------------------------------------------------------------


class _SettingsPrefix(gdb.Command):
    """The settings of pvhdbg."""

    def __init__(self, name: str) -> None:
        self._show = name.startswith("show")
        super().__init__(name, gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Without a name: all of them are shown, none is set."""
        if argument.strip() or not self._show:
            raise gdb.GdbError("which setting? (next: help set pvh)")
        for name in ("kernel", "spec", "strict"):
            gdb.execute(f"show pvh {name}")


class _Setting(gdb.Parameter):
    """Base of ours: GDB prints nothing of its own when one is set."""

    def get_set_string(self) -> str:
        return ""


class _Spec(_Setting):
    """The revision of the PVH ABI to judge by: draft-a, v0 or v1."""

    set_doc = "Set the revision of the PVH ABI to judge by."
    show_doc = "Show the revision of the PVH ABI to judge by."

    def __init__(self) -> None:
        super().__init__("pvh spec", gdb.COMMAND_DATA, gdb.PARAM_ENUM, ("draft-a", "v0", "v1"))
        self.value = "v1"

    def get_show_string(self, value: str) -> str:
        return f"The revision to judge by is {value}."


class _Strict(_Setting):
    """Whether SHOULD rules and known deviations fail too, and what is undecided exits with 4."""

    set_doc = "Set whether SHOULD rules and known deviations fail too."
    show_doc = "Show whether SHOULD rules and known deviations fail too."

    def __init__(self) -> None:
        super().__init__("pvh strict", gdb.COMMAND_DATA, gdb.PARAM_BOOLEAN)
        self.value = False

    def get_show_string(self, value: str) -> str:
        return f"Strict judging is {value}."


class _Kernel(_Setting):
    """The kernel file that the machine was given; without one, the file that GDB has symbols of."""

    set_doc = "Set the kernel file that the machine was given."
    show_doc = "Show the kernel file that the machine was given."

    def __init__(self) -> None:
        super().__init__("pvh kernel", gdb.COMMAND_FILES, gdb.PARAM_OPTIONAL_FILENAME)
        self.value = ""

    def get_show_string(self, value: str) -> str:
        return f"The kernel file is {value}." if value else "The kernel file is GDB's own."


# --- functions ----------------------------------------------------------------------------------------------------


class _Function(gdb.Function):
    """A convenience function; `work` is what it returns."""

    def __init__(self, name: str, work: Callable[..., Any]) -> None:
        super().__init__(name)
        self._work = work

    def invoke(self, *arguments: gdb.Value) -> Any:
        """Called by GDB's expressions."""
        return _guarded(lambda: self._work(*arguments))


def _entry_address() -> int:
    return _entry_of(STATE.session())


def _start_info() -> Any:
    address = STATE.session().hand_off().start_info.address
    try:
        pointer = gdb.lookup_type("struct hvm_start_info").pointer()
    except gdb.error:
        return address
    return gdb.Value(address).cast(pointer)


def _report(rules: Iterable[Rule]) -> Report:
    from pvhdbg.frontends.judging import report
    from pvhdbg.frontends.subject import Observed

    session = STATE.session()
    return report(Observed(session.hand_off(), (), session.file), rules, session.settings.strict)


def _ok() -> bool:
    from pvhdbg.rules.catalogue import RULES

    return _report(RULES).exit_code == 0


def _verdict(id: gdb.Value) -> str:
    from pvhdbg.rules.catalogue import find

    return _report([find(id.string())]).verdicts[0].outcome.value


_FUNCTIONS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("pvh_entry", "The address of the machine's PVH entry: break *$pvh_entry()", _entry_address),
    ("pvh_start_info", "The physical address of start_info; with debug information, a struct hvm_start_info *.", _start_info),
    ("pvh_ok", "1 if the hand-off conforms, by `set pvh spec` and `set pvh strict`; else 0.", _ok),
    ("pvh_verdict", 'The outcome of one rule, as a string: $_streq($pvh_verdict("PVH-CR0-PE"), "pass")', _verdict),
)


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
            session.forget()  # the machine is gone, or is another one: the next verb finds out


def _on_change(event: object) -> None:
    session = STATE.watched()
    if session is not None:
        session.changed()


def install() -> None:
    """Give GDB its commands, settings, functions and printers. A second `source` replaces what the first one made."""
    _SettingsPrefix("set pvh")
    _SettingsPrefix("show pvh")
    for setting in (_Spec, _Strict, _Kernel):
        setting()
    _Pvh()
    for group in sorted({verb.name.split()[0] for verb in SUBCOMMANDS if " " in verb.name}):
        type("_Words", (_Group,), {"__doc__": _Group.__doc__})(group)
    for verb in SUBCOMMANDS:
        type("_Verb", (_Subcommand,), {"__doc__": live.help_text(verb, _PREFIX).rstrip("\n")})(verb)
    _InfoPvh()
    gdb_printers.register()
    for name, doc, work in _FUNCTIONS:
        type("_Named", (_Function,), {"__doc__": doc})(name, work)
    if not _INSTALLED:
        gdb.events.cont.connect(_on_continue)
        gdb.events.stop.connect(_on_stop)
        gdb.events.memory_changed.connect(_on_change)
        gdb.events.register_changed.connect(_on_change)
        _INSTALLED.append(True)


_INSTALLED: list[bool] = []
