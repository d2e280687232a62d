"""Start a QEMU that waits at its first instruction, control it, and never leave it behind.

Everything of a run lives in one private folder: two unix sockets (debugger, control) and two files (COM1, QEMU's own
messages). A guardian process ends QEMU and removes the folder when pvhdbg closes it or dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pvhdbg.decode.text import SafeText, safe, shorten
from pvhdbg.errors import BadInput, TargetLost, TargetTimeout, VmmFailed, cause_of
from pvhdbg.leaving import putting_back
from pvhdbg.record import replace
from pvhdbg.vmm.failures import check_version, ended_at_once, killed, not_installed
from pvhdbg.vmm.guardian import Guardian, await_end
from pvhdbg.vmm.log_bound import LogBound
from pvhdbg.vmm.options import DEFAULT_QEMU, QemuOptions, RecorderOptions, Sockets, command_line
from pvhdbg.vmm.qmp import Qmp

__all__ = ["QemuOptions", "QemuProcess", "RecorderOptions", "start", "version_of"]

Watch = Callable[[str], None]

START_TIMEOUT = 10.0  # seconds; usual is 0.05
TAIL_BYTES = 64 * 1024  # of a log, as many bytes from its end are read
LINE_WIDTH = 400  # characters of a log line that are shown
POLITE = 1.0  # seconds that QEMU gets to flush recordings and disk images before it is killed
_FROM_OUTSIDE = (-signal.SIGBUS, -signal.SIGKILL)  # a full disk and a system without memory end QEMU so
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.003  # seconds between two looks


class QemuProcess:
    """A running QEMU. Made by `start`; a context manager that ends it.

    `gdb_socket` and `qmp_socket` are paths of unix sockets that take one client each; `recording` is the flight recorder's file,
    where one was asked for; `version` is QEMU's own,
    `accelerator` is "kvm" or "tcg" as it is in use, `command` its arguments.
    """

    def __init__(self, command: list[str], sockets: Sockets, guardian: Guardian, *, tied: bool = False) -> None:
        """Launch `command`, without checking that it works. `tied`: see `Guardian.launch`. Raises VmmFailed without a process."""
        self.command = tuple(command)
        self.gdb_socket = sockets.gdb
        self.qmp_socket = sockets.qmp
        self.serial_log = Path(sockets.serial)
        self.recording = Path(sockets.recording)
        self.debugcon_log = Path(sockets.debugcon) if "-debugcon" in command and sockets.debugcon else None
        self.recorded = "-plugin" in command
        self.version = ""
        self.accelerator = ""
        self._messages = Path(guardian.folder, "messages")
        self._guardian = guardian
        self._status: int | None = None
        self._last_serial: list[SafeText] = []
        self._last_messages: list[SafeText] = []
        self._closed = False
        try:
            with open(self._messages, "xb") as messages:
                self._process = guardian.launch(command, messages.fileno(), tied=tied)
        except OSError as exc:
            raise VmmFailed(f"QEMU cannot be started: {exc.strerror}", "see what limits this process") from exc
        logs = (self.serial_log, self._messages, *(one for one in (self.debugcon_log,) if one is not None))
        self._bound = LogBound([one for one in logs if one.is_relative_to(guardian.folder)])  # not a file that the user keeps

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal), or None while QEMU runs."""
        if self._status is None:
            with contextlib.suppress(ChildProcessError):  # other code in this process reaps all children
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return None
                self._kill_group()  # a helper that QEMU started; the pid cannot be reused yet
            self._guardian.gone()
            self._status = self._process.wait()
        return self._status

    def wait(self, timeout: float) -> int | None:
        """The exit status once QEMU has ended, or None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        pause = FIRST_PAUSE
        if self.poll() is None:
            await_end(self.pid, timeout)
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        return self.poll()

    def exit_status(self, timeout: float = POLITE) -> int | None:
        """As `wait`. Raises VmmFailed where a signal ended QEMU, which says nothing about the guest."""
        error = self.killed(timeout)
        if error is not None:
            raise error
        return self._status

    def killed(self, timeout: float = 0.0) -> VmmFailed | None:
        """What there is to say where a signal ended QEMU; None after `timeout` seconds if it runs, if it ended by itself, or by us."""
        status = None if self._closed else self.wait(timeout)
        if status is None or status >= 0:
            return None
        folder = os.path.dirname(self._guardian.folder)
        return killed(-status, folder, _free(folder), self.stderr_tail(2))

    def serial_tail(self, lines: int = 20) -> list[SafeText]:
        """The last `lines` lines that the guest wrote to COM1, escaped. Stays readable after `close`."""
        return (self._last_serial if self._closed else _tail(self.serial_log))[-lines:] if lines > 0 else []

    def debugcon_tail(self, lines: int = 20) -> list[SafeText]:
        """The last `lines` lines that the guest wrote to port 0xe9, escaped; none without `debugcon`, and after `close`."""
        return _tail(self.debugcon_log)[-lines:] if lines > 0 and self.debugcon_log is not None and not self._closed else []

    def stderr_tail(self, lines: int = 20) -> list[SafeText]:
        """The last `lines` lines that QEMU itself wrote, to either output, escaped. Stays readable after `close`."""
        return (self._last_messages if self._closed else _tail(self._messages))[-lines:] if lines > 0 else []

    def qmp(self, timeout: float = 5.0) -> Qmp:
        """A control connection; close it before the next one. Raises TargetErrors."""
        try:
            return Qmp(self.qmp_socket, timeout)
        except OSError as exc:
            raise TargetLost(f"QEMU's control socket does not answer: {exc.strerror}") from exc

    def close(self) -> None:
        """End QEMU and remove the folder. Safe to call twice, and after QEMU has ended on its own."""
        if self._closed:
            return
        with putting_back(f"QEMU (pid {self.pid})"):
            try:
                if self.poll() is None:
                    self._process.terminate()
                    if self.wait(POLITE) is None:
                        self._kill_group()
                        self.wait(POLITE)
                self._last_serial = _tail(self.serial_log)
                self._last_messages = _tail(self._messages)
            finally:
                self._closed = True
                self._bound.close()
                self._guardian.close()
                self.wait(POLITE)

    def release(self) -> None:
        """Let QEMU live on when pvhdbg ends, with its folder; `close` then does nothing. The guardian removes the folder later."""
        if self._closed or self.poll() is not None:
            return
        self._last_serial = _tail(self.serial_log)
        self._last_messages = _tail(self._messages)
        self._closed = True
        self._bound.close()
        self._guardian.release()
        self._process.returncode = 0  # we do not wait for it

    def __enter__(self) -> QemuProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def start(
    options: QemuOptions,
    timeout: float = START_TIMEOUT,
    progress: Watch = lambda _: None,
    *,
    tied: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> QemuProcess:
    """A QEMU that has built its machine, loaded the kernel and is stopped before its first instruction.

    `tied` is for one that will not be released: see `Guardian.launch`. `meanwhile` is called while QEMU builds its machine.
    Raises VmmFailed when QEMU is missing, too old or ends at once (with its last message), TargetTimeout when it
    is not ready after `timeout` seconds, BadInput for arguments that cannot be passed on.
    """
    program = options.qemu or DEFAULT_QEMU
    found = shutil.which(program)
    if found is None:
        raise not_installed(program)
    options = replace(options, qemu=found)
    command_line(options, Sockets("", "", ""))  # reject bad options before anything is created
    guardian = Guardian()
    process = None
    try:
        sockets = Sockets(*(os.path.join(guardian.folder, name) for name in ("gdb", "qmp", "serial", "recording", "debugcon")))
        if options.serial is not None:
            sockets = replace(sockets, serial=_writable(options.serial))
        command = command_line(options, sockets)
        progress(f"starting {os.path.basename(found)}: {shlex.join(command[1:])}")
        with putting_back("QEMU, which starts"):  # a signal may come between its start and the assignment
            process = QemuProcess(command, sockets, guardian, tied=tied)
        meanwhile()
        _await_ready(process, time.monotonic() + timeout, timeout)
    except BaseException:
        if process is None:
            guardian.close()
        else:
            process.close()
        raise
    progress(f"QEMU {process.version} is up, with {process.accelerator}")
    return process


def version_of(qemu: str | None = None, timeout: float = START_TIMEOUT) -> str:
    """The version that a QEMU reports, without booting: "7.2.22 (Debian 1:7.2+dfsg-7)". Raises VmmFailed."""
    name = qemu or DEFAULT_QEMU
    found = shutil.which(name)
    if found is None:
        raise not_installed(name)
    try:
        done = subprocess.run([found, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise VmmFailed(f"{name} does not report its version", f"see what it prints: {name} --version") from exc
    said = re.search(rb"version (\d+\.\d+\.\d+(?: \([^()\n]{1,100}\))?)", done.stdout[:TAIL_BYTES])
    if said is None:
        raise VmmFailed(f"{name} does not report its version as QEMU does", f"see what it prints: {name} --version")
    return safe(said[1])


def _await_ready(process: QemuProcess, deadline: float, timeout: float) -> None:
    """Return once QEMU's main loop answers: then the kernel is loaded and the debugger's socket is open.

    This does not connect to the debugger's socket, which serves its first client only.
    """
    pause = FIRST_PAUSE
    while process.poll() is None:
        try:
            with Qmp(process.qmp_socket, max(deadline - time.monotonic(), 0.001)) as qmp:
                kvm = qmp.execute("query-kvm")
                process.version = qmp.version
            process.accelerator = "kvm" if isinstance(kvm, dict) and kvm.get("enabled") is True else "tcg"
            check_version(process.version)
            if os.path.exists(process.gdb_socket):
                return
        except OSError:  # not there yet
            pass
        except TargetLost:  # QEMU exited while it built the machine: its exit status follows
            process.wait(POLITE)
        except TargetTimeout:
            break
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
    status = process.poll()
    if status is None:
        raise TargetTimeout(f"QEMU was not ready within {timeout:g} s", "allow more time (--timeout), or less memory")
    if status in _FROM_OUTSIDE and (error := process.killed()) is not None:
        raise error
    raise ended_at_once(os.path.basename(process.command[0]), status, process.stderr_tail(40), plugin=process.recorded)


def _writable(path: str | Path) -> str:
    """The absolute path of the file for COM1. Raises BadInput where it cannot be written."""
    try:
        with open(path, "ab"):
            return os.path.abspath(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"--serial {path} cannot be written: {cause_of(error)}", "choose another file") from error


def _free(folder: str) -> int | None:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _tail(path: Path) -> list[SafeText]:
    """The last lines of a file that another process writes, without control characters. Never more than TAIL_BYTES."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start_at = max(size - TAIL_BYTES, 0)
            file.seek(start_at)
            data = file.read(TAIL_BYTES)
    except OSError:
        return []
    lines = data.split(b"\n")
    if start_at:
        lines = lines[1:] or lines  # the first is a part of a line
    if not lines[-1]:
        lines.pop()
    return [shorten(safe(line.rstrip(b"\r")), LINE_WIDTH) for line in lines]
