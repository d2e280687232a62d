"""A GDB process with its machine interface. stderr is drained, or its pipe would fill until GDB hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

from pvhdbg.decode.text import printable
from pvhdbg.errors import TargetLost, VmmFailed
from pvhdbg.leaving import putting_back
from pvhdbg.targets.mi_channel import MiChannel

OLDEST = 12
_LAST_WORDS = 2000
_START = 10.0


class MachineInterface(MiChannel):
    """One GDB, from its start to `close`."""

    def __init__(self, program: str = "gdb", settings: Sequence[str] = ()) -> None:
        """Start GDB with some settings ("confirm off"). Raises VmmFailed when it is missing or older than 12."""
        found = shutil.which(program)
        if found is None:
            raise VmmFailed(f"{program} is not installed", "install it (apt install gdb), or leave --via gdb out")
        self._noise: deque[bytes] = deque(maxlen=8)  # the last lines of stderr
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        with ExitStack() as stack:
            with putting_back("GDB, which starts"):  # a signal may come between its start and the assignment
                self._process = subprocess.Popen(
                    [found, "-nx", "-q", "--interpreter=mi3", *(word for one in settings for word in ("-iex", f"set {one}"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C reaches only pvhdbg, which interrupts GDB if needed
                    env={**os.environ, "LC_ALL": "C"},
                )
                stack.callback(self.close)
                self._drain.start()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            super().__init__(self._process.stdin, self._process.stdout)
            self._check_version()
            stack.pop_all()

    def _check_version(self) -> None:
        reply = self.command("-gdb-version", _START)
        text = "".join(reply["console"])
        words = text.split("\n", 1)[0].split()
        number = words[-1].split(".")[0] if words else ""
        if number.isdigit() and int(number) < OLDEST:
            raise VmmFailed(
                f"this is GDB {words[-1]}; GDB {OLDEST} is the oldest that works", "install a newer one, or leave --via gdb out"
            )

    @property
    def pid(self) -> int:
        """GDB's process, which leads a group of its own."""
        return self._process.pid

    def poll(self) -> bool:
        """Read pending asynchronous records; False once GDB has ended."""
        return super().poll() and self._process.poll() is None

    def interrupt(self) -> None:
        """See `MiChannel`. Raises TargetLost."""
        try:
            os.kill(self._process.pid, signal.SIGINT)
        except ProcessLookupError:
            raise self.lost() from None

    def close(self) -> None:
        """End GDB, whatever it is doing. Safe to call twice."""
        process = self._process
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        process.wait()
        self._drain.join(1)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # unwritten input of a dead process
                    pass

    def _drain_stderr(self) -> None:
        assert self._process.stderr is not None
        try:
            while data := os.read(self._process.stderr.fileno(), 1 << 16):
                self._noise.append(data[-_LAST_WORDS:])
        except (OSError, ValueError):  # closed by another thread: GDB is being ended
            pass

    def lost(self) -> TargetLost:
        """The error of a GDB that has ended, with its last words."""
        try:
            status: int | str = self._process.wait(1)
        except subprocess.TimeoutExpired:
            status = "unknown"
        self._drain.join(1)
        said = printable(b"".join(self._noise)[-300:].strip())
        return TargetLost(f"GDB ended (status {status})" + (f": {said}" if said else ""), "start over, or leave --via gdb out")
