"""Commands in forked children of a process that has imported the program: without Python's start, for `pytest --fast` only.

What a command does is the same; how a process of it starts is not, so `make test` starts each one.
"""

import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_REQUEST = 1 << 18  # bytes
_REAL = ("PYTHON", "LC_", "LANG")  # settings of the environment that Python reads when it starts


class Done(NamedTuple):
    """A command that ended; `status` is as subprocess has it, None for one that did not end in time."""

    status: int | None
    out: str
    err: str


class Forker:
    """The process that forks. One command runs at a time."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        environment.pop("PYTHONUNBUFFERED", None)
        command = [sys.executable, "-m", "tests.support.forked", str(its.fileno())]
        self._process = subprocess.Popen(command, env=environment, cwd=ROOT, pass_fds=[its.fileno()])
        self._environment = environment
        self._socket = ours
        its.close()

    def can(self, environment: Mapping[str, str]) -> bool:
        """Whether a forked child is the same as a process that starts in that environment."""
        names = {name for one in (environment, self._environment) for name in one if name.startswith(_REAL)}
        return all(environment.get(name) == self._environment.get(name) for name in names)

    def run(self, words: Sequence[str], environment: Mapping[str, str], folder: str, stdout: int | None, longest: float) -> Done:
        """Run one command. `stdout` is a descriptor, None to return what it prints."""
        with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
            request = json.dumps({"words": list(words), "environment": dict(environment), "folder": folder}).encode()
            streams = [out.fileno() if stdout is None else stdout, err.fileno()]
            socket.send_fds(self._socket, [request], streams)
            pid = int(self._socket.recv(64))
            status = None
            if select.select([self._socket], [], [], longest)[0]:
                status = int(self._socket.recv(64))
            else:
                os.kill(pid, signal.SIGKILL)
                self._socket.recv(64)
            return Done(status, _text(out) if stdout is None else "", _text(err))

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait(10)


def _text(file: io.BufferedRandom) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()  # as subprocess decodes: the locale's encoding, universal newlines


# --- in the process that forks ------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    """Fork a child for each request. Returns in the child, which is then that command's process; exits at the end of the requests."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _REQUEST, 2)
        if not request:
            os._exit(0)
        pid = os.fork()
        if not pid:
            _become(json.loads(request), descriptors, connection)
            return
        for one in descriptors:
            os.close(one)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, object], descriptors: list[int], connection: socket.socket) -> None:
    connection.close()
    null = os.open(os.devnull, os.O_RDONLY)
    for number, one in enumerate((null, *descriptors)):
        os.dup2(one, number)
        os.close(one)
    os.environ.clear()
    environment, words = request["environment"], request["words"]
    assert isinstance(environment, dict)
    assert isinstance(words, list)
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    sys.argv = ["pvhdbg", *words]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    errors = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(errors, errors="backslashreplace", line_buffering=True)


def _run(program: Callable[[], int]) -> int:
    """The command's exit code; what it prints is written. The interpreter's clean-up would copy most pages that the fork shares."""
    try:
        code: object = program()
    except SystemExit as end:
        code = end.code or 0
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code if isinstance(code, int) else 1


def _import_most() -> None:
    """What most commands use, so that a child need not read it."""
    for name in (
        "argparse", "pvhdbg.cli.standard_input", "pvhdbg.commands.line", "pvhdbg.commands.failures", "pvhdbg.commands.formats",
        "pvhdbg.commands.handoff", "pvhdbg.commands.kernel", "pvhdbg.commands.machine", "pvhdbg.commands.output",
        "pvhdbg.commands.progress", "pvhdbg.commands.rules", "pvhdbg.commands.snapshot", "pvhdbg.commands.trace", "pvhdbg.disassembly",
        "pvhdbg.kernel.symbols", "pvhdbg.machine.subject", "pvhdbg.report.json_report", "pvhdbg.report.kernel_json",
        "pvhdbg.report.kernel_text", "pvhdbg.report.text", "pvhdbg.rules.catalogue", "pvhdbg.targets.recorded", "pvhdbg.targets.remote",
        "pvhdbg.vmm.qemu", "iced_x86",
    ):  # fmt: skip
        import_module(name)


if __name__ == "__main__":
    from pvhdbg.cli.program import program

    _import_most()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(_run(program))
