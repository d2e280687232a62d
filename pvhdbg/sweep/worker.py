"""A process for cells, seen from outside: it is started, given a task, waited for, and ended when it takes too long."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from pvhdbg.errors import VmmFailed
from pvhdbg.record import replace
from pvhdbg.sweep.cell import CellTask
from pvhdbg.sweep.result import CellOutcome, CellResult

CHILD = "pvhdbg.sweep.child"
# As `python -m`, but with the modules of this process: `-m` would also look in the current folder, which may be a stranger's.
_START = "import sys; sys.path[:] = {!r}; from runpy import run_module; run_module({!r}, run_name='__main__')"
_CELLS = 1000  # that one process boots: then a new one takes its place, so that no leak grows
_READ = 1 << 20  # bytes
_LARGEST = 128 << 20  # bytes of an answer
_PATIENCE = 10.0  # seconds for its end


class CellWorker:
    """One process and its socket. `begin` gives it a task, `step` reads what came; it survives the death of its process."""

    def __init__(self, module: str = CHILD) -> None:
        """`module` is what the process runs: `sweep.child`, or one that does the same with other work."""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._task: CellTask | None = None
        self._read = bytearray()
        self._began = 0.0
        self._served = 0

    @property
    def task(self) -> CellTask | None:
        """What it works on."""
        return self._task

    @property
    def deadline(self) -> float:
        """When the task must be done, by the monotonic clock."""
        return self._began + (0.0 if self._task is None else self._task.bounds.seconds)

    def fileno(self) -> int:
        """The socket, for a selector."""
        assert self._end is not None
        return self._end.fileno()

    def begin(self, task: CellTask) -> None:
        """Let the process boot a cell. Raises VmmFailed where no process can be started."""
        if self._process is not None and (self._process.poll() is not None or self._served >= _CELLS):
            self.close()
        if self._end is None:
            self._start()
        assert self._end is not None
        self._task, self._began = task, time.monotonic()
        self._served += 1
        self._read.clear()
        with suppress(OSError):  # it has died: `step` tells
            self._end.sendall(json.dumps(task.document()).encode() + b"\n")

    def step(self) -> CellResult | None:
        """The result if it is complete, also that of a process that ended; None where more has to come. Does not block."""
        assert self._end is not None
        try:
            data = self._end.recv(_READ)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self._lost()
        self._read += data
        if len(self._read) > _LARGEST:
            return self._stopped(CellOutcome.KILLED, "the cell's process answers without end")
        if data[-1:] != b"\n":
            return None
        try:
            result = CellResult.of(json.loads(self._read))
        except (ValueError, TypeError, KeyError):
            return self._stopped(CellOutcome.KILLED, "the cell's process gives an answer that cannot be read")
        self._task = None
        return result

    def late(self) -> CellResult:
        """End the process, because its time is up; returns a result with that outcome."""
        assert self._task is not None
        return self._stopped(CellOutcome.LATE, f"not done within {self._task.bounds.seconds:g} s")

    def run(self, task: CellTask) -> CellResult:
        """Boot a cell and wait for the result."""
        self.begin(task)
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                return self.late()
            if select.select([self], [], [], left)[0] and (result := self.step()) is not None:
                return result

    def close(self) -> None:
        """End the process, and what it has started."""
        if self._end is not None:
            self._end.close()
            self._end = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
            self._process = None
        self._task, self._served = None, 0

    def _start(self) -> None:
        ours, its = socket.socketpair()
        with its:
            words = [sys.executable, "-c", _START.format(sys.path, self._module), str(its.fileno())]
            try:
                self._process = subprocess.Popen(
                    words,
                    pass_fds=(its.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise VmmFailed(f"no process for cells can be started: {error.strerror}", "give a smaller -j") from error
        ours.settimeout(0)
        self._end = ours

    def _lost(self) -> CellResult:
        assert self._process is not None
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            status = 0
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return self._stopped(CellOutcome.KILLED, f"the cell's process ended by {how}")

    def _stopped(self, outcome: CellOutcome, why: str) -> CellResult:
        took = time.monotonic() - self._began
        self.close()
        found = CellResult(outcome, why, 3, next="boot this cell alone with pvhdbg check; see cell_seconds and cell_memory")
        return replace(found, seconds=round(took, 4))
