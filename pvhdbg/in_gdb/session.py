"""GDB's connection as a session, and the conversion of its errors to GDB's. Runs in GDB's own Python only."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import gdb

from pvhdbg.decode.text import safe
from pvhdbg.driver.travel import Travel
from pvhdbg.errors import BadInput, PvhdbgError, TargetError
from pvhdbg.in_gdb import disassembler
from pvhdbg.in_gdb.travel import GdbTraveller
from pvhdbg.kernel.image import KernelImage, open_kernel
from pvhdbg.machine.lease import Lease
from pvhdbg.machine.session import Session, Settings
from pvhdbg.model import Snapshot, Unavailable
from pvhdbg.targets.from_thread import FromThread
from pvhdbg.targets.gdb_quiet import untraced
from pvhdbg.targets.inside_gdb import InsideGdb, connection

if TYPE_CHECKING:
    from pvhdbg.decode.text import SafeText
    from pvhdbg.machine.options import SubjectOptions

T = TypeVar("T")
NAMING = "name the kernel: set pvh kernel FILE"
STARTING = "leave this one with: disconnect; and start the kernel here: pvh start"


def _no_machine() -> Any:
    from pvhdbg.targets.recorded import RecordedTarget

    return RecordedTarget(Snapshot(), "nothing")


_NO_MACHINE = _no_machine()


class _State:
    """The session of GDB's current connection, and the kernel file that was opened for it."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._connection: gdb.TargetConnection | None = None
        self._image: KernelImage | None = None
        self._opened: tuple[str, int] | None = None
        self._traveller: GdbTraveller | None = None  # of the machine that was started here last
        self.busy = False  # a command of ours runs and stops the machine

    def session(self) -> Session:
        """The session with the machine that GDB is connected to. Raises PvhdbgError."""
        stub = connection()
        if self._session is None or self._connection is not stub:
            self._connection = stub
            machine = InsideGdb(stub)
            self._session = Session(machine, evaluate=_evaluated, naming=NAMING, lessor=partial(_lease, machine), starting=STARTING)
        self._session.traveller = self.traveller
        self._configure(self._session)
        return self._session

    def start(self, about: SubjectOptions, progress: Callable[[str], None]) -> Session:
        """A machine of our own at its entry, and its session. Raises PvhdbgError."""
        if gdb.selected_inferior().connection is not None and not (self._traveller and self._traveller.connected):
            raise TargetError("GDB is connected to another machine", "leave that one first: disconnect")
        traveller = GdbTraveller(about, open_kernel(about.subject), self._moved)
        before = self._traveller
        self._session = None
        Travel.begin(traveller, progress)
        self._traveller = traveller
        if before is not None:
            before.close()
        session = self.session()
        session.boot()  # the hand-off, as long as the machine is at its entry
        session.number = 0
        return session

    @property
    def traveller(self) -> GdbTraveller | None:
        """That of the machine that GDB is connected to, where it was started here."""
        return self._traveller if self._traveller is not None and self._traveller.connected else None

    def _moved(self, number: int | None) -> None:
        """GDB is connected to another machine of the same boot."""
        if self._session is None:
            return
        self._connection = stub = connection()
        machine = InsideGdb(stub)
        self._session.lessor = partial(_lease, machine)
        self._session.travelled(machine, number)

    def offline(self) -> Session:
        """A session for commands that need no machine: the current one, or one with the kernel file only. Raises PvhdbgError."""
        session = self._session or Session(_NO_MACHINE, naming=NAMING)
        self._configure(session)
        return session

    def watched(self) -> Session | None:
        """The session, if the user runs and stops its machine; None while a command of ours does, or without a session."""
        return None if self.busy else self._session

    def _configure(self, session: Session) -> None:
        session.settings = Settings(str(gdb.parameter("pvh spec")), bool(gdb.parameter("pvh strict")))
        image = self.image()
        if session.named is not image:
            session.use_image(image)

    def image(self) -> KernelImage | None:
        """The kernel of `set pvh kernel`, or else the program or symbol file in GDB. Raises PvhdbgError."""
        chosen = str(gdb.parameter("pvh kernel") or "")
        path = os.path.expanduser(chosen) or _file_of_gdb()
        if not path:
            self._opened = self._image = None
            return None
        try:
            stamp = (path, os.stat(path).st_mtime_ns)
            if stamp != self._opened:
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


def _lease(machine: InsideGdb, work: Callable[[Lease], Any]) -> Any:
    """See `machine.lease`: GDB runs the machine in this thread, its own, while the work runs in another."""
    traveller = STATE.traveller
    qemu, recording = (None, None) if traveller is None else (traveller.qemu, traveller.recording)
    leased = FromThread(machine, lambda: recording is not None and bool(recording.header.register_until))
    try:
        with machine.alone(), disassembler.asked_through(leased.call):
            return leased.serve(lambda: work(Lease(leased, leased.interruptible, qemu, recording is not None)))
    finally:
        numbers = " ".join(str(one.number) for one in machine.disabled)
        if numbers:
            gdb.write(
                f"pvh: the machine is gone, and GDB enables hardware breakpoints only with one: enable {numbers}\n", gdb.STDERR
            )


def _file_of_gdb() -> str:
    space = gdb.current_progspace()
    if space is None:
        return ""
    return space.filename or next((one.filename or "" for one in space.objfiles() if one.filename), "")


def _evaluated(text: str) -> int:
    """A GDB expression as a number. Raises BadInput with GDB's message."""
    try:
        value = gdb.parse_and_eval(text)
        if value.type.strip_typedefs().code in (gdb.TYPE_CODE_FUNC, gdb.TYPE_CODE_ARRAY) and value.address is not None:
            value = value.address
        return int(value) & (1 << 64) - 1
    except (gdb.error, ValueError, OverflowError) as error:
        raise BadInput(str(error), "") from None


def guarded(work: Callable[[], T]) -> T:
    """Do `work`; an error becomes one GdbError line."""
    try:
        with untraced():
            return work()
    except PvhdbgError as error:
        raise refusal(one_line(error)) from None
    except Unavailable as gap:
        raise refusal(line_of(gap.reason)) from None
    except gdb.GdbError:
        raise
    except KeyboardInterrupt:
        raise refusal(line_of("interrupted")) from None
    except Exception as error:
        if gdb.parameter("python print-stack") == "full":
            gdb.write(traceback.format_exc(), gdb.STDERR)
        raise refusal(line_of(f"pvh: internal error: {type(error).__name__}: {error} "
                              "(report it, with what `set python print-stack full` shows)")) from None  # fmt: skip


def refusal(text: SafeText) -> gdb.GdbError:
    """The error that GDB prints as this one line, without a traceback."""
    return gdb.GdbError(text)


def one_line(error: PvhdbgError) -> SafeText:
    """An error as one line of safe text: what happened, and what to do next."""
    return line_of(f"{error.what} (next: {error.todo})" if error.todo else error.what)


def line_of(text: str) -> SafeText:
    return safe(" ".join(text.split()))


def entry_address(session: Session) -> int:
    entry = session.find_entry()
    if entry is None or entry.address is None:
        raise TargetError("the entry's address is unknown", NAMING)
    return entry.address
