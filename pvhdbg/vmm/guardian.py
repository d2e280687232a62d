"""The guardian: a small shell process that outlives pvhdbg and cleans up after it, even after SIGKILL.

It reads a pipe whose only writer is pvhdbg. End of file means that pvhdbg has let go, on purpose or not; then the
guardian kills QEMU's process group and removes the private folder. There is one clean-up path, and every run takes it.

Lines on the pipe: `started PID` when QEMU runs, `gone` before its pid is free for another process, so that a pid is
never killed after reuse, `keep` when QEMU shall live on: then the folder is removed when QEMU ends, and its logs are bounded until
then. QEMU's own process writes `started` before it executes QEMU: if pvhdbg dies, either the line is there, or QEMU never ran.
The same process holds the pipe until then, so end of file comes after. The guardian makes the folder itself for the same reason:
as long as the folder exists, a process exists that removes it. If both are killed, the next start removes the folder (`left_folders`).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence

from pvhdbg.decode.text import safe
from pvhdbg.errors import VmmFailed
from pvhdbg.vmm.left_folders import held, sweep
from pvhdbg.vmm.log_bound import BOUND, KEPT

SHELL = "/bin/sh"

# $1 is the folder to make; only the one that was made is ever removed. The traps: pvhdbg handles Ctrl-C and a terminal's hang-up.
# A process without /proc/PID/exe is a zombie: it has ended, and its parent has not read its status.
GUARD = """
trap '' HUP INT QUIT TERM PIPE
umask 077
mkdir -- "$1" || exit
echo made
exec >/dev/null 2>&1
pid=
keep=
while read -r word value; do
    case $word in
        started) pid=$value ;;
        gone) pid= ;;
        keep) keep=yes ;;
    esac
done
if [ -n "$pid" ] && [ -n "$keep" ]; then
    while kill -s 0 "$pid" && [ -e "/proc/$pid/exe" ]; do
        sleep 1
        for log in "$1/serial" "$1/messages"; do
            size=$(stat -c %s -- "$log") && [ "$size" -gt BOUND ] && fallocate -p -o 0 -l $((size - KEPT)) -- "$log"
        done
    done
elif [ -n "$pid" ]; then
    kill -s KILL -- "-$pid"
fi
rm -rf -- "$1" || rm -rf -- "$1"
""".replace("BOUND", str(BOUND)).replace("KEPT", str(KEPT))

# Standard output is the guardian's pipe. The command's own goes where standard error goes, so the pipe does not leak.
LAUNCH = 'echo "started $$" && exec "$@" >&2'
TIE = ("setpriv", "--pdeathsig", "KILL", "--")  # util-linux: the kernel ends what follows when pvhdbg ends, guardian or not

LONGEST_PLACE = 80  # bytes: a unix socket's path has 107, and the names below it are short
PATIENCE = 5.0  # seconds for the guardian to kill and remove, before we do it ourselves


class Guardian:
    """A private folder (mode 0700) and the process that removes it and kills what was launched."""

    def __init__(self) -> None:
        """Raises VmmFailed when no folder can be made or no shell be started."""
        self.folder = _new_folder_name()
        sweep(os.path.dirname(self.folder))
        self._writer = -1
        self._held = -1
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except OSError as exc:
            self.close()
            raise VmmFailed(f"{SHELL} cannot be started: {exc.strerror}", "see what limits this process") from exc
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        reader, self._writer = os.pipe()  # close-on-exec, both
        try:
            self._process = subprocess.Popen(
                [SHELL, "-c", GUARD, "pvhdbg-guardian", self.folder],
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reader)
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            answer = answers.readline(500)
        if answer != b"made\n":
            what = f"no folder for QEMU's sockets can be made: {safe(answer.rstrip())}"
            self.folder = ""  # not ours, if it exists
            raise VmmFailed(what, "set TMPDIR to a folder you can write to")
        self._held = held(self.folder)

    def launch(self, argv: Sequence[str], output: int, *, tied: bool = False) -> subprocess.Popen[bytes]:
        """Start `argv` in a session of its own, known to the guardian. Its outputs go to the file `output`.

        `tied` is for processes that are never released: they end with this process even if the guardian was killed. For the kernel
        the thread that made a process counts, so only processes of the main thread are tied.
        """
        tie = TIE if tied and threading.current_thread() is threading.main_thread() and shutil.which(TIE[0]) else ()
        return subprocess.Popen(
            [SHELL, "-c", LAUNCH, "pvhdbg-launch", *tie, *argv],
            stdin=subprocess.DEVNULL,
            stdout=self._writer,
            stderr=output,
            start_new_session=True,
            pass_fds=(self._held,),
        )

    def gone(self) -> None:
        """The launched process has ended: its pid is invalid from now on."""
        self._tell(b"gone\n")

    def release(self) -> None:
        """Let the launched process live on; the folder stays until it ends. This object is then done."""
        self._tell(b"keep\n")
        self._close()
        if self._process is not None:
            self._process.returncode = 0  # it stays as long as QEMU: we do not wait for it
            self._process = None
        self.folder = ""

    def close(self) -> None:
        """Let the guardian do its work, and wait for it. Safe to call twice."""
        self._close()
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)  # behind a Ctrl-C it waits a little longer, so that the folder is gone
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)  # the folder exists only if the guardian failed
            self.folder = ""

    def _tell(self, line: bytes) -> None:
        if self._writer >= 0:
            with contextlib.suppress(OSError):  # the guardian was killed: then nothing reads the line
                os.write(self._writer, line)

    def _close(self) -> None:
        for descriptor in (self._writer, self._held):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._held = -1


def await_end(child: int, seconds: float) -> None:
    """Sleep until a child process has ended, for `seconds` at most. It is woken at once, where `Popen.wait` looks every so often.

    Returns at once where that cannot be done: there is no such process, or Linux is older than 5.3.
    """
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(child)
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll(seconds * 1000)
        finally:
            os.close(descriptor)


def _new_folder_name() -> str:
    """A path that does not exist yet and cannot be guessed, short enough for the sockets in it."""
    try:
        place = os.path.abspath(tempfile.gettempdir())
    except OSError as exc:
        raise VmmFailed(f"no folder for temporary files: {exc.strerror}", "set TMPDIR to a folder you can write to") from exc
    if len(os.fsencode(place)) > LONGEST_PLACE:
        place = "/tmp"  # noqa: S108 -- the folder made in it is new, and readable by its owner only
    return os.path.join(place, f"pvhdbg-{os.urandom(6).hex()}")
