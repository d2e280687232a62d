"""Run a VMM with the guest `probe` until its report is complete, and leave nothing behind.

The run is over when the probe's last line is there, when the VMM ends, or at the time limit. Some hosts' KVM ends or pauses the
machine at `lar`, behind the probe's first `end` line: what was printed until then is the report, once nothing follows.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import VmmFailed
from pvhdbg.leaving import putting_back
from pvhdbg.vmm.guardian import SHELL, Guardian
from pvhdbg.vmm.log_bound import LogBound
from pvhdbg.vmm.probing.seam import Found, Launch, ProbedVmm, Wish

_LOOK = 0.02  # seconds between two looks at the console
_QUIET = 1.0  # without a new byte after the first `end` line: nothing follows any more
_POLITE = 1.0
_UNDO = 10.0  # seconds for the command that removes what the VMM made outside of our processes
_PIECE = 1 << 20
_TAIL = 64 * 1024
_LINE = 300
_END = re.compile(rb"PVHPROBE[0-9]{1,4} ([0-9a-f]{8} [0-9a-f]{4}) end ")
_OURS = re.compile(rb"PVHPROBE[0-9]")
_LONGEST_HEAD = 32
# The command of an undo belongs to a process that outlives pvhdbg: it waits until its pipe is closed, in whatever way.
_WAIT = "trap '' HUP INT QUIT TERM PIPE; read -r line; exec \"$@\""


@dataclass
class Boot:
    """One boot of the probe. `console` is the file of its output; `status` is the VMM's exit status, None where it was ended by us."""

    launch: Launch
    console: Path
    messages: Path
    status: int | None = None
    complete: bool = False
    timed_out: bool = False

    def version(self) -> str | None:
        """The version that the VMM printed, where it does."""
        if self.launch.tells is None:
            return None
        with open(self.console, "rb") as file:
            said = self.launch.tells.search(file.read(_PIECE))
        return safe(said[1]) if said else None

    def last_message(self) -> str:
        """The VMM's own last line, escaped; empty where it printed none."""
        for path in dict.fromkeys((self.messages, self.console)):
            with suppress(OSError), open(path, "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
                lines = [line.strip() for line in file.read(_TAIL).splitlines()]
                said = [line for line in lines if line and not _OURS.search(line)]
                if said:
                    return shorten(safe(said[-1]), _LINE)
        return ""


@contextmanager
def booted(runner: ProbedVmm, wish: Wish, found: Found, seconds: float) -> Iterator[Boot]:
    """Boot the probe and yield when its report is there, at the end of the VMM, or after `seconds`; the folder exists inside the block.

    Raises VmmFailed where the VMM cannot be started, BadInput for a wish that it cannot fulfil.
    """
    runner.refuse(wish)
    with ExitStack() as stack:
        guardian = Guardian()
        stack.callback(guardian.close)
        launch = runner.prepare(wish, found, guardian.folder)
        messages = Path(guardian.folder, "messages")
        boot = Boot(launch, Path(launch.console) if launch.console else messages, messages)
        if launch.undo:
            stack.enter_context(_undone(launch.undo))
        with open(messages, "xb") as output:
            try:
                process = guardian.launch(launch.command, output.fileno(), tied=True)
            except OSError as error:
                raise VmmFailed(f"{runner.title} cannot be started: {error.strerror}", "see what limits this process") from error
        stack.callback(_end, process, guardian)
        bound = LogBound((messages, boot.console))
        stack.callback(bound.close)
        _follow(boot, process, time.monotonic() + seconds)
        yield boot


def _follow(boot: Boot, process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for the end of the probe's report."""
    console = _Console(boot.console)
    heard = time.monotonic()
    while True:
        ended = _ended(process)
        if console.read():
            heard = time.monotonic()
        boot.complete = console.ends > 1
        if boot.complete or (console.ends and time.monotonic() - heard > _QUIET):
            boot.complete = True
            return
        if ended is not None:
            boot.status = ended
            boot.complete = console.ends > 0
            return
        if time.monotonic() > deadline:
            boot.timed_out = True
            return
        time.sleep(_LOOK)


class _Console:
    """Counts the `end` lines of one boot in a file that grows, or that is replaced by a newer one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at, self._file = 0, -1
        self._rest = b""
        self._ends: set[bytes] = set()

    @property
    def ends(self) -> int:
        return len(self._ends)

    def read(self) -> bool:
        """Read what is new; False where nothing is."""
        try:
            with open(self._path, "rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._file:
                    self._at, self._file, self._rest = 0, about.st_ino, b""
                file.seek(self._at)
                piece = file.read(_PIECE)
        except OSError:  # not there yet
            return False
        self._at += len(piece)
        data = self._rest + piece
        self._ends.update(_END.findall(data))
        self._rest = data[-_LONGEST_HEAD:]
        return bool(piece)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status, without freeing the pid: the guardian still knows it."""
    done = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if done is None:
        return None
    return done.si_status if done.si_code == os.CLD_EXITED else -done.si_status


def _end(process: subprocess.Popen[bytes], guardian: Guardian) -> None:
    with putting_back(f"the VMM (pid {process.pid})"):
        _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _POLITE
        while _ended(process) is None and time.monotonic() < deadline:
            time.sleep(_LOOK)
        _signal(process, signal.SIGKILL)  # also what it started
        guardian.gone()
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextmanager
def _undone(command: tuple[str, ...]) -> Iterator[None]:
    """Execute `command` when the block is left, or when this process has ended in any way."""
    reader, writer = os.pipe()
    try:
        watcher = subprocess.Popen(
            [SHELL, "-c", _WAIT, "pvhdbg-undo", *command],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(reader)
    try:
        yield
    finally:
        with putting_back(f"what {command[0]} removes"):
            os.close(writer)
            try:
                watcher.wait(_UNDO)
            except subprocess.TimeoutExpired:
                os.killpg(watcher.pid, signal.SIGKILL)
                watcher.wait()
