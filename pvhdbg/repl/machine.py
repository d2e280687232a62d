"""The machine of a conversation: opened, run from stop to stop, and booted again when it is gone.

It outlives its VMM: when the connection or QEMU ends, `gone` holds the reason, the session stays, and `restart` boots the same subject to
its entry again. While the guest runs, `watch` is called about ten times a second, and `interrupted` stops it.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pvhdbg.commands.gdb import symbol_commands
from pvhdbg.driver.recorded_machine import recording_of
from pvhdbg.driver.traced_machine import refuse_what_does_not_run
from pvhdbg.errors import PvhdbgError, TargetError, TargetLost
from pvhdbg.machine.lease import Lease
from pvhdbg.machine.loaded_kernel import Confirm
from pvhdbg.machine.options import SubjectOptions
from pvhdbg.machine.recorder import attended
from pvhdbg.machine.running import run_to_entry
from pvhdbg.machine.session import Session, Settings
from pvhdbg.machine.subject import Opened, attach_stub, boot_kernel, open_kernel, open_subject
from pvhdbg.machine.subject_kind import refuse_all_but_kernels
from pvhdbg.machine.travel import Arrival
from pvhdbg.repl.gdb_echo import GdbEcho
from pvhdbg.repl.options import ConversationOptions
from pvhdbg.repl.running import Runner
from pvhdbg.repl.serial import Follower
from pvhdbg.repl.stops import StopPlaces
from pvhdbg.targets.address import StubAddress, parse_address
from pvhdbg.targets.recorded import RecordedTarget
from pvhdbg.targets.run import Progress
from pvhdbg.targets.target import END_IT, OWN_REBOOTS, RESET_RIP, Leave, Target

if TYPE_CHECKING:
    from pvhdbg.decode.text import SafeText
    from pvhdbg.kernel.image import KernelImage
    from pvhdbg.targets.gdb_mi import GdbTarget
    from pvhdbg.targets.keeper import Keeper
    from pvhdbg.tracing.recording import Recording
    from pvhdbg.vmm.qemu import QemuProcess

_LAST_WORDS = 0.5  # seconds that a VMM may take to end after it closed its connection


class Machine:
    """One machine; made by `open`, and ended by `close`."""

    session: Session

    def __init__(self, command: str, options: ConversationOptions, progress: Progress) -> None:
        self._command, self._options, self.progress = command, options, progress
        self._stack = ExitStack()
        self.qemu: QemuProcess | None = None
        self._keeper: Keeper | None = None
        self.serial: Follower | None = None
        self.breakpoints = StopPlaces()
        self.interrupted = threading.Event()
        self.running = False
        self.watch: Callable[[], None] = lambda: None
        self.attended = False  # a user is at a terminal
        self.gone: str | None = "it was not opened"  # how it ended; None while it is there
        self.ended: str | None = None  # the guest shut down, and its VMM keeps its state
        self.runner = Runner(self)
        self._symbols_given = False
        self._chosen: KernelImage | None = None  # by the command `kernel`
        self._kernel: KernelImage | None = None  # the subject, open for time travel
        self.recording: Recording | None = None  # of a machine under the deterministic clock
        self._booted_again = False  # it was reset since it was started: the flight recorder's numbers are of several boots
        self._shown: Follower | None = None  # of the current machine, while another one runs in its place

    # --- coming and going -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Run the subject to its entry. Raises PvhdbgError; nothing is left behind then."""
        opened = self._enter(self._options.about)
        settings = Settings(self._options.about.revision, self._options.strict)
        self.session = Session(
            self._echoed(opened.target),
            opened.image,
            settings,
            warnings=opened.warnings,
            confirm=Confirm(),
            naming="name the kernel: kernel ELF",
            lessor=self.lease,
            traveller=self if opened.qemu is not None else None,
        )
        self._adopt(opened)

    def _enter(self, about: SubjectOptions) -> Opened:
        with ExitStack() as stack:
            opened = stack.enter_context(_opening(self._command, about, self.progress))
            repeatable = opened.qemu if about.launch.deterministic else None
            self.recording = stack.enter_context(recording_of(repeatable))
            self._stack = stack.pop_all()
        self.qemu, self.gone, self.ended = opened.qemu, None, None
        self._booted_again = False
        self._keeper = opened.keeper
        self._symbols_given = False
        self.runner.starts_anew()
        self.serial = Follower(opened.qemu.serial_log) if opened.qemu is not None else None
        return opened

    def use_kernel(self, path: str) -> None:
        """Another kernel file from now on, also over a restart. Raises BadInput; then the old one stays."""
        self._chosen = open_kernel(path)
        self._symbols_given = False
        self.session.use_image(self._chosen)

    def _echoed(self, target: Target) -> Target:
        return GdbEcho(target) if self._options.show_gdb else target

    def _adopt(self, opened: Opened) -> None:
        self.session.confirm.file, self.session.confirm.path = opened.file, opened.found
        self.session.adopt(opened.boot)

    @property
    def recorded(self) -> bool:
        """Whether it is a snapshot."""
        return isinstance(self._plain_target, RecordedTarget)

    @property
    def _plain_target(self) -> Target:
        target = self.session.target
        return target.inner if isinstance(target, GdbEcho) else target

    def close(self, leave: Leave | None = None) -> str:
        """Leave the machine: as asked, else by its options, else killed if it was started here and stopped if not.

        Returns a sentence when something is left behind. Safe to call twice.
        """
        leave = leave or Leave(self._options.about.way.leave or ("killed" if self.qemu is not None else "stopped"))
        left = ""
        if self.gone is None:
            ended = self.session.target.close(leave)
            if self.qemu is None and not ended:
                left = f"the VMM at {self.session.target.name} did not end when it was told to: {END_IT}"
            if self.qemu is not None and leave is not Leave.KILLED and self.qemu.poll() is None:
                left = f"QEMU (pid {self.qemu.pid}) was left {leave.value}; its gdbstub is {self.qemu.gdb_socket}"
                self.qemu.release()
        self._end()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        self.gone = self.gone or ("killed" if leave is Leave.KILLED else "detached")
        return left

    def _end(self) -> None:
        self.recording = None
        if self.qemu is not None:
            self.qemu.close()  # not what was released
        self._stack.close()

    def restart(self) -> None:
        """Boot the same subject again, to its entry. Raises PvhdbgError."""
        self.session.needs_control("restart")
        if self.gone is None and self.qemu is None:
            self.runner.disarm()
            self.ended = None
            run_to_entry(self.session, self.seconds, reset=True)
        else:
            if self.gone is None:
                self.gone = "it is started again"
            self._end()
            about = self._options.about
            opened = self._enter(about._replace(way=about.way._replace(reset=self.qemu is None)))
            self.session.replace_target(self._echoed(opened.target))
            self.session.use_image(self._chosen or opened.image)
            self.session.warnings[:] = opened.warnings
            self._adopt(opened)
        self.breakpoints.place(self.session)

    def reset(self) -> None:
        """Reset the machine to before its first instruction. Raises PvhdbgError."""
        self.session.needs_control("reset")
        if self.qemu is not None:
            with self.qemu.qmp() as qmp:  # it was started with -no-reboot; from here on it reboots
                qmp.execute("set-action", reboot="reset")
        self._booted_again = True
        self.session.target.monitor("system_reset")
        deadline = time.monotonic() + 2
        while self.session.target.read_registers()["rip"] != RESET_RIP:
            if time.monotonic() > deadline:
                raise TargetError("the machine did not reset within 2 s", "a QEMU that was started with -no-reboot never resets")
        self.runner.reboots, self.ended = OWN_REBOOTS, None
        self.session.forget()

    # --- time travel: see machine.travel --------------------------------------------------------------------------

    @property
    def about(self) -> SubjectOptions:
        return self._options.about

    @property
    def image(self) -> KernelImage:
        if self._kernel is None:
            self._kernel = open_kernel(self._options.about.subject)
        return self._kernel

    @property
    def repeatable(self) -> bool:
        """Whether the machine runs by the deterministic clock: it then goes on by booting again, so that its place stays known."""
        return self.recording is not None

    def breakpoints_now(self) -> tuple[int, ...]:
        return tuple(sorted(self.breakpoints.addresses()))

    def follow(self, qemu: QemuProcess | None) -> None:
        self.running = qemu is not None
        if qemu is None:
            self.interrupted.clear()
        if self.serial is not None and self.qemu is not None:
            self._shown = self.serial
            self.serial = self.serial.on((qemu or self.qemu).serial_log)

    def asked(self) -> bool:
        self.watch()
        return self.interrupted.is_set()

    def take(self, arrival: Arrival) -> None:
        followed, self._shown = self._shown or self.serial, None
        self.gone = self.gone or "another one takes its place"
        self._end()
        self._stack, self.qemu, self._keeper, self.recording = arrival.stack, arrival.qemu, None, arrival.recording
        self.gone, self.ended, self._booted_again = None, arrival.ended, False
        self.runner.reboots, self._symbols_given = 0, False
        self.runner.starts_anew()
        self.serial = None if followed is None else followed.on(arrival.qemu.serial_log)
        self.session.travelled(self._echoed(arrival.target), arrival.number)
        image = self._chosen or self.image
        if self.session.named is not image:
            self.session.use_image(image)
        self.breakpoints.place(self.session)

    # --- GDB ------------------------------------------------------------------------------------------------------

    @property
    def gdb(self) -> GdbTarget | None:
        """The GDB that holds the stub, if any."""
        from pvhdbg.targets.gdb_mi import GdbTarget

        target = self._plain_target
        return target if isinstance(target, GdbTarget) else None

    @property
    def may_use_gdb(self) -> bool:
        """Whether GDB can take over the stub: it is installed, and --via remote was not given."""
        return self.gdb is not None or (
            self._options.about.way.via is None and not self.recorded and shutil.which("gdb") is not None
        )

    def hand_to_gdb(self) -> GdbTarget:
        """Let GDB hold the stub from now on, with the kernel's symbols; the machine stays as it is. Raises PvhdbgError."""
        from pvhdbg.targets.gdb_mi import GdbTarget

        held = self.gdb
        if held is None:
            self.needs_machine()
            self.runner.disarm()
            self.session.target.close(Leave.STOPPED)
            try:
                held = GdbTarget(self._address(), timeout=self.seconds, progress=self.progress, keeper=self._keeper)
            except PvhdbgError:
                self._hold(self._directly())
                raise
            self._hold(held)
        if not self._symbols_given:
            self._symbols_given = True
            self._give_symbols(held)
        return held

    @contextmanager
    def directly(self) -> Iterator[None]:
        """Hold the stub without GDB inside this context: thousands of steps are many times slower through GDB."""
        gdb, shown = self.gdb, self.session.target
        if gdb is None:
            yield
            return
        self.runner.disarm()
        gdb.let_go()
        try:
            target = self._directly()
            self.session.target = target
            try:
                yield
            finally:
                self.runner.disarm()
                target.close(Leave.STOPPED)
        finally:
            self.session.target = shown
            gdb.take_again()

    def lease(self, work: Callable[[Lease], Any]) -> Any:
        """See `machine.lease`: without GDB in between, and without our breakpoints, so that only the lease's work sets stops."""
        self.needs_machine()
        self.runner.ready_to_run("the trace")
        session = self.session
        found, done, lease = None, False, Lease(session.target)
        self.running = True
        try:
            with self.directly():
                self.runner.disarm()
                recorded = self.qemu is not None and self.qemu.recorded and not self._booted_again
                lease = Lease(session.target, qemu=self.qemu, recorded=recorded)
                found, done = work(lease), True
        except TargetLost:
            if not done:
                raise  # without this, GDB would try to connect to a machine that has ended
        finally:
            self.running = False
            self.interrupted.clear()
            self._take_back(lease)
        return found

    def _take_back(self, lease: Lease) -> None:
        self.ended = lease.ended
        if self.lost() is not None:
            return
        try:
            if self.session.target.read_registers()["rip"] == RESET_RIP:
                self.ended, self.runner.reboots = None, OWN_REBOOTS
            self.breakpoints.place(self.session)
        except PvhdbgError:
            pass  # the next command reports the error

    def _give_symbols(self, gdb: GdbTarget) -> None:
        image, place = self.session.image, self.session.placement
        for command in (
            symbol_commands(image, load_bias=place.load_bias, virtual_bias=place.virtual_bias) if image is not None else ()
        ):
            gdb.passed_on(command, lambda _: None, self.interrupted, lambda: None)  # GDB reports itself if it lacks the command

    def _directly(self) -> Target:
        from pvhdbg.targets.remote import RemoteTarget

        return RemoteTarget.connect(self._address(), timeout=self.seconds, keeper=self._keeper)

    def _hold(self, target: Target) -> None:
        self._stack.callback(target.close, Leave.STOPPED)
        self._symbols_given = False
        self.runner.starts_anew()
        self.session.target = self._echoed(target)

    def _address(self) -> StubAddress:
        if self.qemu is not None:
            return StubAddress(path=self.qemu.gdb_socket)
        return parse_address(self._options.about.subject)

    @property
    def seconds(self) -> float:
        """`--timeout`: how long one `until`, a reply or the run to the entry may take."""
        return self._options.about.way.seconds()

    @property
    def patience(self) -> float:
        """How long `continue` may take: as long as it likes where somebody can interrupt it."""
        return math.inf if self.attended else self.seconds

    def speak_anew(self) -> None:
        """A fresh connection, after an interrupt in the middle of a reply. The next command reports a failure."""
        if self.gone is None and not self.recorded and self.gdb is None:
            self.session.target.close(Leave.STOPPED)
            try:
                self._hold(self._directly())
            except PvhdbgError:
                pass
            self.session.changed()

    # --- the machine's end ----------------------------------------------------------------------------------------

    def lost(self, error: PvhdbgError | None = None) -> str | None:
        """A sentence when the machine has ended since the last check; None while it is there, or was known to be gone."""
        if self.gone is not None or self.recorded:
            return None
        gdb = self.gdb
        if gdb is not None and not gdb.gdb_alive() and (self.qemu is None or self.qemu.poll() is None):
            said = error.what if error is not None else "GDB ended"
            try:
                self._hold(self._directly())
            except PvhdbgError:
                pass  # the machine is gone with it
            else:
                self.session.changed()
                return f"{said}; the machine is held without it now"
        if error is None and (self.qemu is None or self.qemu.poll() is None) and self.session.target.alive():
            return None
        self.gone = self._fate(error)
        self.session.target.close(Leave.STOPPED)
        return self.gone

    def _fate(self, error: PvhdbgError | None) -> str:
        status = self.qemu.wait(_LAST_WORDS) if self.qemu is not None else None
        if self.qemu is not None and status is not None:
            killed = self.qemu.killed()
            said = " / ".join(self.qemu.stderr_tail(2))
            return killed.what if killed is not None else f"QEMU ended with exit status {status}" + (f": {said}" if said else "")
        return error.what if error is not None else f"{self.session.target.name} closed the connection"

    def needs_machine(self) -> None:
        """Raises TargetLost once it is gone."""
        if self.gone is not None:
            raise TargetLost(f"the machine is gone: {self.gone}", "boot it again: restart")


@contextmanager
def _opening(command: str, about: SubjectOptions, progress: Progress) -> Iterator[Opened]:
    """Open the subject as the command of that name does. A kernel gets what `why` needs."""
    if command == "attach":
        with attach_stub(about, progress) as opened:
            yield opened
        return
    warnings: list[SafeText] = []
    recorded = attended(about, warnings, progress)
    if command in ("run", "goto"):
        refuse_all_but_kernels(about.subject)
        opening = boot_kernel(about, progress, tied=False, recorded=recorded)
    else:
        if command == "why":
            refuse_what_does_not_run(about)
        debugcon = not about.launch.deterministic  # the machines of time travel have none
        opening = open_subject(about, progress, tied=False, recorded=recorded, onward=True, debugcon=debugcon)
    with opening as opened:
        opened.warnings += warnings
        yield opened
