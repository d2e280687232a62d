"""Helpers for tests of the real command line: run it, look for leftovers, start a QEMU to attach to, make tiny kernels."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

import pytest

from pvhdbg.guests import path as guest
from pvhdbg.targets.address import StubAddress
from pvhdbg.targets.remote import RemoteTarget
from pvhdbg.tracing.recorder.library import library
from tests.support.forked import Forker

ROOT = Path(__file__).parents[2]
HELLO = str(guest("hello"))
HELLO_ENTRY = 0x100000
LONGEST = 30.0  # seconds after which a command of a test hangs
_PROGRESS = re.compile(r"pvhdbg: (waiting|starting|connecting|reading|QEMU|unpacking|building|recording|booting)")


def reads_the_log(process: subprocess.Popen[Any]) -> bool:
    """Whether a tracer has its FIFO open, and QEMU too: then it has no name any more."""
    try:
        return any(os.readlink(link).endswith("/log (deleted)") for link in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:  # a descriptor was closed meanwhile
        return False


def eventually(true: Callable[[], object], otherwise: str | Callable[[], str], within: float = 5.0) -> None:
    """Wait until `true()`; fail with `otherwise` after `within` seconds."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.005)


def pvhdbg(*words: str | Path, expect: int = 0) -> str:
    """Run the command line in a process of its own, and return what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "pvhdbg", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == expect, f"exit {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr}"
    return ran.stdout


def report(*words: str | Path, expect: int = 0) -> dict[str, Any]:
    """What `check --format json` prints."""
    document: dict[str, Any] = json.loads(pvhdbg("check", "--format", "json", *words, expect=expect))
    return document


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    """The outcome of each rule in a report."""
    return {verdict["rule"]: verdict["outcome"] for verdict in document["verdicts"]}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short path: a unix socket's has 107 bytes at most."""
    folder = tempfile.mkdtemp(prefix="pt-", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    def ok(self, code: int = 0) -> Ran:
        """This, if the exit code is `code`; else the test fails and shows what was printed."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.out[-2000:]}\n{self.err}"
        assert "Traceback" not in self.err
        return self

    def json(self) -> Any:
        return json.loads(self.out)

    def complaint(self, code: int, *words: str) -> str:
        """The complaint, if it is one: nothing on stdout, one line of the error and one of `next:`, and all of `words` in them."""
        self.ok(code)
        assert self.out == ""
        lines = self.err.splitlines()[-2:]
        assert len(lines) == 2, self.err
        assert lines[0].startswith("pvhdbg: "), self.err
        assert re.match(r"  next: \S", lines[1]), self.err
        assert all(_PROGRESS.match(line) for line in self.err.splitlines()[:-2]), self.err
        assert "\x1b" not in self.err
        for word in words:
            assert word.lower() in self.err.lower(), f"{word!r} is not in: {self.err}"
        return self.err


@cache
def built_recorder() -> str:
    """The flight recorder, built once for all tests."""
    return library()


class Cli:
    """`python -m pvhdbg` with TMPDIR in a folder that belongs to one test, so that leftovers show."""

    def __init__(self, folder: Path, forker: Forker | None = None) -> None:
        """With a `forker`, commands that are run to their end are its children."""
        self.folder = folder
        self._forker = forker
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        cache = folder / "cache" / "pvhdbg" / "recorder"
        cache.mkdir(mode=0o700, parents=True)
        shutil.copy(built_recorder(), cache)

    @property
    def env(self) -> dict[str, str]:
        """The environment that it runs in."""
        # Streams are buffered, as a user's are: what goes wrong with them at the end is what is tested. Pages and texts have 80
        # columns, whatever the terminal of those who run the tests has.
        unwanted = ("NO_COLOR", "PVHDBG_TRACEBACK", "PYTHONUNBUFFERED")
        ours = {name: value for name, value in os.environ.items() if name not in unwanted}
        return {**ours, "TMPDIR": str(self.tmp), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error",
                "COLUMNS": "80", "XDG_CACHE_HOME": str(self.folder / "cache")}  # fmt: skip

    def files(self) -> list[str]:
        """The names in the test's folder, without those of temporary files and of the cache."""
        return sorted(one.name for one in self.folder.iterdir() if one.name not in ("tmp", "cache"))

    def file(self, name: str, data: bytes | str = b"") -> str:
        """A file in the test's folder."""
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    def start(self, *words: str | Path, env: dict[str, str] | None = None, stdout: IO[str] | int = PIPE) -> subprocess.Popen[str]:
        """The command as a running process."""
        return subprocess.Popen(
            [sys.executable, "-m", "pvhdbg", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=PIPE,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.folder,
        )

    def __call__(self, *words: str | Path, env: dict[str, str] | None = None, stdout: IO[str] | int = PIPE) -> Ran:
        """Run the command to its end."""
        since = time.monotonic()
        environment = {**self.env, **(env or {})}
        if self._forker is not None and self._forker.can(environment) and (stdout is PIPE or not isinstance(stdout, int)):
            file = None if isinstance(stdout, int) else stdout.fileno()
            done = self._forker.run([*map(str, words)], environment, str(self.folder), file, LONGEST)
            if done.status is None:
                pytest.fail(f"still running after {LONGEST:g} s\n{done.out}\n{done.err}")
            return Ran(done.status, done.out, done.err, time.monotonic() - since)
        with self.start(*words, env=env, stdout=stdout) as process:
            return self.ended(process, since)

    def ended(self, process: subprocess.Popen[str], since: float | None = None) -> Ran:
        """Wait for a command that was started."""
        since = time.monotonic() if since is None else since
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"still running after {LONGEST:g} s\n{out}\n{err}")
        return Ran(process.returncode, out or "", err, time.monotonic() - since)

    def processes(self) -> list[int]:
        """Everything that runs with our TMPDIR, whatever its parent is."""
        mark = f"TMPDIR={self.tmp}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                        found.append(int(entry))
                except OSError:
                    pass  # it ended meanwhile, or is not ours
        return found

    def nothing_left(self) -> None:
        """Fail unless no process and no file is left."""
        eventually(lambda: not self.processes(), lambda: f"processes are left: {self.processes()}")
        eventually(lambda: not os.listdir(self.tmp), lambda: f"files are left: {os.listdir(self.tmp)}")

    def clear(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _accepts(path: str) -> bool:
    """Whether a unix socket listens (SO_ACCEPTCON); between bind and listen its file is there already."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(row[-1] == path and int(row[3], 16) & 0x10000 for row in rows[1:])


def is_held(path: str) -> bool:
    """Whether a client is connected to a unix socket."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(row[-1] == path and row[5] == "03" for row in rows)  # SS_CONNECTED


class Machine:
    """A QEMU that somebody else started, with a gdbstub on a unix socket and COM1 in a file; it waits at its reset vector.

    "{folder}" in its options stands for a folder that lives as long as it.
    """

    def __init__(self, *words: str, kernel: str = HELLO, gdb: str = "") -> None:
        self._scratch = scratch()
        self.folder = self._scratch.__enter__()
        self.socket = str(self.folder / "gdb")
        self._serial = self.folder / "serial"
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-kernel", kernel, "-m", "64M", "-nic", "none", "-display", "none", "-monitor", "none", "-S",
             "-serial", f"file:{self._serial}", "-gdb", gdb or f"unix:{self.socket},server=on,wait=off",
             *(word.replace("{folder}", str(self.folder)) for word in words)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        eventually(lambda: self.process.poll() is not None or self._listens(), "QEMU does not come up", 10)
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()

    def _listens(self) -> bool:
        return _accepts(self.socket) or self.port() is not None

    def held(self) -> bool:
        """Whether a client is connected to its stub's unix socket."""
        return is_held(self.socket)

    def port(self) -> int | None:
        """The TCP port of its stub: QEMU does not tell which one it got for port 0, the kernel does."""
        try:
            ours = {os.readlink(link) for link in Path(f"/proc/{self.process.pid}/fd").iterdir()}
        except OSError:  # a descriptor was closed meanwhile
            return None
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours:  # 0A: listening
                return int(fields[1].split(":")[1], 16)
        return None

    def serial(self) -> str:
        """What the guest wrote to COM1."""
        return self._serial.read_text(errors="replace")

    @contextmanager
    def debugger(self) -> Iterator[RemoteTarget]:
        """A connection of our own, which stops the machine and leaves it stopped."""
        from pvhdbg.targets.target import Leave

        target = RemoteTarget.connect(StubAddress(path=self.socket), timeout=5)
        try:
            yield target
        finally:
            target.close(Leave.STOPPED)

    def running(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
        self._scratch.__exit__(None, None, None)


# --- tiny kernels -------------------------------------------------------------------------------------------------

LOOP = b"\xeb\xfe"  # jmp .
TRIPLE_FAULT = b"\x0f\x01\x1d" + struct.pack("<I", 0x100010) + b"\xcc" + bytes(24)  # lidt with limit 0; int3


Start = Callable[..., Machine]  # what the fixture `machine` gives


def pvh_note(entry: int = HELLO_ENTRY) -> bytes:
    """XEN_ELFNOTE_PHYS32_ENTRY."""
    return struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)


def kernel_elf(code: bytes = LOOP, note: bytes | None = None, machine: int = 62) -> bytes:
    """An ELF64 with `code` at 1 MiB and a PT_NOTE; the note is a sound one unless given, and `b""` makes none."""
    note = pvh_note() if note is None else note
    headers = 64 + 2 * 56
    note_at = headers + len(code)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, HELLO_ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, headers, HELLO_ENTRY, HELLO_ENTRY, len(code), len(code), 1)
    notes = struct.pack("<IIQQQQQQ", 4 if note else 0, 4, note_at, 0, 0, len(note), len(note), 4)
    return head + load + notes + code + note
