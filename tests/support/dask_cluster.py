"""A Dask scheduler and workers as processes of their own, for the time of a test or a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

_LONGEST = 60.0  # seconds for its start


class DaskCluster:
    """A scheduler in `folder`; `start` adds a worker by name. All of them end with the block."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        temporary = folder / "temporary"  # what a killed worker leaves goes with the folder
        temporary.mkdir()
        self._environment = {**environment, "TMPDIR": str(temporary)}
        self._file = folder / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self._file)]
        self._run("scheduler", words, {})

    def __enter__(self) -> DaskCluster:
        deadline = time.monotonic() + _LONGEST
        while True:
            try:
                self.address = str(json.loads(self._file.read_text())["address"])
                return self
            except (OSError, ValueError):
                assert time.monotonic() < deadline, "the scheduler does not start"
                time.sleep(0.02)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()

    def start(self, name: str, environment: Mapping[str, str] | None = None, threads: int = 1) -> None:
        """Add a worker, which is not started again when it is lost."""
        local = self._folder / name
        local.mkdir()
        words = ["--scheduler-file", str(self._file), "--no-nanny", "--nthreads", str(threads), "--no-dashboard", "--name", name]
        self.workers[name] = self._run("worker", [*words, "--local-directory", str(local)], environment or {})

    def _run(self, what: str, words: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.dask_{what}", *words]
        log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            process = subprocess.Popen(command, env={**self._environment, **environment}, stdout=log, stderr=log, cwd=self._folder)
        finally:
            os.close(log)
        self._processes.append(process)
        return process


def another_qemu(folder: Path, version: str) -> str:
    """A folder for PATH in which `qemu-system-x86_64` says that it is of another version; what it boots is the real one's business."""
    folder.mkdir()
    program = folder / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
