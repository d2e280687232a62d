"""A GDB process and its machine interface (MI). pygdbmi starts it and parses its records; the rest is here.

pygdbmi's own read and write are not used: they wait by the clock, never look for the prompt, mistake a dead GDB for a slow
one, and leave stderr to fill its pipe until GDB hangs. Here each command carries a token of its own, its reply is the result
record with that token, end of file is the end, and stderr is drained.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Event
from typing import Any

from pvhdbg.decode.text import printable
from pvhdbg.errors import ProtocolError, TargetLost, TargetTimeout, VmmFailed
from pvhdbg.leaving import putting_back

OLDEST = 12
_MARK = re.compile(r"\d*[*^+=]")  # digits of any script, as pygdbmi reads them
_RECORD = re.compile(r"\d*[*^+=][\w-]+(?:,(?:,|[\w-]+=(?=[({\[])|\(\)|[{}\[\]])*)?\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOKEN = re.compile(r"[\w-]+=|\(\)|[{}\[\],]")  # of a record whose strings have become ()
_ENDS = {"{": "}", "[": "]", "()": ""}
_DEEPEST = 100  # brackets in each other: pygdbmi recurses, and formats each value once for each bracket around it
_LAST_WORDS = 2000
_START = 10.0
_OUTPUT_BOUND = 64 << 20
_LOOK = 0.1  # seconds between two checks for an interrupt


class MachineInterface:
    """One GDB, from its start to `close`."""

    def __init__(self, program: str = "gdb", settings: Sequence[str] = ()) -> None:
        """Start GDB with some settings ("confirm off"). Raises VmmFailed when it is missing or older than 12."""
        found = shutil.which(program)
        if found is None:
            raise VmmFailed(f"{program} is not installed", "install it (apt install gdb), or leave --via gdb out")
        self._pending = b""
        self._token = 0
        self.silent = False  # the last command got no answer in its time
        self._noise: deque[bytes] = deque(maxlen=8)  # the last lines of stderr
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)  # *stopped, *running and the like
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
            from pygdbmi import gdbmiparser  # while GDB starts

            self._parse = gdbmiparser.parse_response
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

    def command(
        self, text: str, timeout: float = 10.0, show: Callable[[str], None] | None = None, interrupted: Event | None = None
    ) -> dict[str, Any]:
        """Send one command and return its result record, with what was printed under "console" and "target".

        `show` is given what is printed as it comes, and `interrupted` stops the command. Raises TargetLost when GDB ends,
        TargetTimeout when it does not answer in time. An ^error is a reply like others.
        """
        self._token += 1
        self._write(f"{self._token}{text}\n".encode())
        printed: dict[str, list[str]] = {"console": [], "target": [], "log": []}
        size = 0
        deadline = time.monotonic() + timeout
        while True:
            try:
                record = self._record(deadline) if interrupted is None else self._interruptible(deadline, interrupted)
            except TargetTimeout:
                self.silent = True
                raise
            if record["type"] == "result" and record.get("token") == self._token:
                self.silent = False
                return {**record, **printed}
            if record["type"] in printed:
                payload = str(record.get("payload") or "")
                size += len(payload)
                if size > _OUTPUT_BOUND:
                    raise TargetLost("GDB prints without end", "start over")
                printed[record["type"]].append(payload)
                if show is not None and record["type"] != "log":
                    show(payload)
            elif record["type"] == "notify":
                self.events.append(record)
            # A result with another token belongs to a command that was given up: it is dropped.

    def _interruptible(self, deadline: float, interrupted: Event) -> dict[str, Any]:
        while True:
            try:
                return self._record(min(deadline, time.monotonic() + _LOOK))
            except TargetTimeout:
                if time.monotonic() >= deadline:
                    raise
            if interrupted.is_set():
                interrupted.clear()
                self.interrupt()

    @property
    def pid(self) -> int:
        """GDB's process, which leads a group of its own."""
        return self._process.pid

    def poll(self) -> bool:
        """Read pending asynchronous records; False once GDB has ended."""
        assert self._process.stdout is not None
        try:
            while b"\n" in self._pending or select.select([self._process.stdout.fileno()], [], [], 0)[0]:
                record = self._record(time.monotonic() + _LOOK)
                if record["type"] == "notify":
                    self.events.append(record)
        except TargetTimeout:
            pass
        except (TargetLost, ValueError):
            return False
        return self._process.poll() is None

    def event(self, deadline: float, show: Callable[[str], None] | None = None) -> dict[str, Any]:
        """The next asynchronous record. Raises as `command` does; `show` is given what is printed meanwhile."""
        while not self.events:
            record = self._record(deadline)
            if record["type"] == "notify":
                self.events.append(record)
            elif show is not None and record["type"] in ("console", "target"):
                show(str(record.get("payload") or ""))
        return self.events.popleft()

    def interrupt(self) -> None:
        """The same as Ctrl-C at GDB's terminal."""
        try:
            os.kill(self._process.pid, signal.SIGINT)
        except ProcessLookupError:
            raise self._lost() from None

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

    # --- lines ----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._lost() from None

    def _record(self, deadline: float) -> dict[str, Any]:
        while True:
            line = self._line(deadline)
            if line.startswith("(gdb)") or not line:
                continue
            if not _is_whole(line):  # pygdbmi would look for the end for ever
                raise ProtocolError(
                    f"GDB answers {line[:40]!r}, which is not its machine interface", "start over, or leave --via gdb out"
                )
            try:
                record: dict[str, Any] = self._parse(line)
            except (ValueError, AssertionError, RecursionError, LookupError, TypeError) as error:
                raise ProtocolError(f"GDB's answer cannot be read: {error}", "start over, or leave --via gdb out") from None
            if record["type"] in ("result", "notify") and not isinstance(record.get("payload"), dict):
                record["payload"] = {}  # there was none, or GDB put something else in its place
            return record

    def _drain_stderr(self) -> None:
        assert self._process.stderr is not None
        try:
            while data := os.read(self._process.stderr.fileno(), 1 << 16):
                self._noise.append(data[-_LAST_WORDS:])
        except (OSError, ValueError):  # closed by another thread: GDB is being ended
            pass

    def _line(self, deadline: float) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise TargetTimeout("GDB does not answer", "the stub may be held by another debugger; or give --timeout more")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise self._lost()
            self._pending += data
            if len(self._pending) > _OUTPUT_BOUND:
                raise TargetLost("GDB sent a line without end", "start over")
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode("utf-8", "replace").rstrip("\r")

    def _lost(self) -> TargetLost:
        try:
            status: int | str = self._process.wait(1)
        except subprocess.TimeoutExpired:
            status = "unknown"
        self._drain.join(1)
        said = printable(b"".join(self._noise)[-300:].strip())
        return TargetLost(f"GDB ended (status {status})" + (f": {said}" if said else ""), "start over, or leave --via gdb out")


def _is_whole(line: str) -> bool:
    """Whether a record's strings are closed, its brackets close each other, and each name has a value."""
    if _MARK.match(line) is None:
        return True  # text, in quotes or without
    rest = _STRING.sub("()", line)
    return '"' not in rest and _RECORD.fullmatch(rest) is not None and _closes(rest.partition(",")[2])


def _closes(text: str) -> bool:
    """Whether each value has a name, but in a list, and each bracket its own end. pygdbmi looks for what is missing for ever."""
    awaited: list[str] = []
    named = False
    for token in _TOKEN.findall(text):
        if token.endswith("=") or token == ",":
            if named:
                return False
            named = token != ","
        elif token in _ENDS:
            if not named and awaited[-1:] != ["]"]:
                return False
            named = False
            awaited += _ENDS[token]
            if len(awaited) > _DEEPEST:
                return False
        elif named or not awaited or awaited.pop() != token:
            return False
    return not awaited and not named


def quoted(text: str) -> str:
    """`text` as an MI string: a C string in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
