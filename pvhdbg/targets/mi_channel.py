"""GDB's machine interface (MI) over two streams: commands, their replies, and what GDB says unasked. pygdbmi parses the records.

pygdbmi's own read and write are not used: they wait by the clock, never look for the prompt, and mistake a dead GDB for a slow one.
Here each command carries a token of its own, its reply is the result record with that token, and end of file is the end.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections import deque
from collections.abc import Callable
from threading import Event
from typing import IO, Any

from pvhdbg.errors import ProtocolError, TargetLost, TargetTimeout

_MARK = re.compile(r"\d*[*^+=]")  # digits of any script, as pygdbmi reads them
_RECORD = re.compile(r"\d*[*^+=][\w-]+(?:,(?:,|[\w-]+=(?=[({\[])|\(\)|[{}\[\]])*)?\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TOKEN = re.compile(r"[\w-]+=|\(\)|[{}\[\],]")  # of a record whose strings have become ()
_MEMORY = re.compile(  # the answer about a page: pygdbmi, and a look at the answer's shape, would take 0.4 ms
    r'([0-9]{1,9})\^done,memory=\[\{begin="(0x[0-9a-f]{1,16})",offset="0x0+",end="0x[0-9a-f]{1,16}",contents="([0-9a-f]*)"\}\]'
)
_ENDS = {"{": "}", "[": "]", "()": ""}
_DEEPEST = 100  # brackets in each other: pygdbmi recurses, and formats each value once for each bracket around it
_OUTPUT_BOUND = 64 << 20
_LOOK = 0.1  # seconds between two checks for an interrupt


class MiChannel:
    """The two streams. A subclass that has GDB as a process tells how it is interrupted, and why it was lost."""

    def __init__(self, sink: IO[bytes], source: IO[bytes]) -> None:
        from pygdbmi import gdbmiparser  # while GDB starts

        self._sink = sink
        self._source = source
        self._parse = gdbmiparser.parse_response
        self._pending = b""
        self._token = 0
        self.silent = False  # the last command got no answer in its time
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)  # *stopped, *running and the like

    def lost(self) -> TargetLost:
        """The error of a stream that has ended."""
        return TargetLost("GDB ended", "start over, or leave --via gdb out")

    def interrupt(self) -> None:
        """The same as Ctrl-C at GDB's terminal."""

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

    def poll(self) -> bool:
        """Read pending asynchronous records; False where that cannot be done any more."""
        try:
            while b"\n" in self._pending or select.select([self._source.fileno()], [], [], 0)[0]:
                record = self._record(time.monotonic() + _LOOK)
                if record["type"] == "notify":
                    self.events.append(record)
        except TargetTimeout:
            pass
        except (TargetLost, ValueError):
            return False
        return True

    def event(self, deadline: float, show: Callable[[str], None] | None = None) -> dict[str, Any]:
        """The next asynchronous record. Raises as `command` does; `show` is given what is printed meanwhile."""
        while not self.events:
            record = self._record(deadline)
            if record["type"] == "notify":
                self.events.append(record)
            elif show is not None and record["type"] in ("console", "target"):
                show(str(record.get("payload") or ""))
        return self.events.popleft()

    # --- lines ----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        try:
            self._sink.write(data)
            self._sink.flush()
        except (OSError, ValueError):
            raise self.lost() from None

    def _record(self, deadline: float) -> dict[str, Any]:
        while True:
            line = self._line(deadline)
            if line.startswith("(gdb)") or not line:
                continue
            if memory := _MEMORY.fullmatch(line):
                token, begin, contents = memory.groups()
                payload = {"memory": [{"begin": begin, "contents": contents}]}
                return {"type": "result", "message": "done", "token": int(token), "payload": payload}
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

    def _line(self, deadline: float) -> str:
        descriptor = self._source.fileno()
        while b"\n" not in self._pending:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                raise TargetTimeout("GDB does not answer", "the stub may be held by another debugger; or give --timeout more")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise self.lost()
            self._pending += data
            if len(self._pending) > _OUTPUT_BOUND:
                raise TargetLost("GDB sent a line without end", "start over")
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode("utf-8", "replace").rstrip("\r")


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
