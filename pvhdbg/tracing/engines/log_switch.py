"""QEMU's log through a FIFO of ours, switched on and off over the stub's monitor while the machine is stopped.

The FIFO is opened for reading and writing first: then QEMU's open does not wait, nothing piles up on disk, and QEMU survives a
reader that dies. One instruction per block is `singlestep` up to QEMU 8.0 and `one-insn-per-tb` from 8.1: we ask QEMU.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from types import TracebackType

from pvhdbg.decode.qemu_monitor import accelerator
from pvhdbg.decode.text import SafeText, safe, shorten
from pvhdbg.errors import TargetError
from pvhdbg.leaving import putting_back
from pvhdbg.targets.target import Target
from pvhdbg.tracing.engines.log_names import forges, kernel_of

LEFT_ON = SafeText("QEMU was in its one-instruction mode already, as a killed tracer leaves it: it is switched off")
_PIPE = 1 << 20  # bytes: what the kernel grants without privileges
_DRAIN = 64 << 20  # bytes that are kept of the log that is written while the machine is stopped
_ENOUGH = _PIPE // 4  # bytes that are read at once
_GATHER = 0.001  # seconds between two reads of the FIFO
_SINGLE = ("singlestep", "one-insn-per-tb")
_DEFAULT_LOG = "/dev/stderr"
_ITEMS = re.compile(r"[a-z0-9_,:*?-]+")


class LogSwitch:
    """A context manager: inside it QEMU writes the log `items` to us. On every exit path the log and single-step mode are restored.

    `items` are QEMU's names, joined by commas. With `single`, each block is one instruction. The machine must be stopped when
    it is entered and left. Raises TargetError where there is no monitor, no TCG, or the log cannot be opened.
    """

    def __init__(self, target: Target, items: str, *, single: bool) -> None:
        self._target = target
        self._items = items
        self._folder = ""
        self._reader = -1
        self._aside: tuple[int, ...] = ()
        self._on = False
        self._theirs = _own_log(target)
        self._mode = single_step_mode(target) if single else None
        self.left_on = bool(self._mode and _is_on(target, self._mode))  # set by the user, or left on by a killed tracer
        self.warnings: list[SafeText] = []
        if self.left_on:
            self.warnings.append(LEFT_ON)
        if self._theirs is not None:
            self.warnings.append(
                safe(f"QEMU runs with a log of its own (-d {self._theirs[0]}): it has a gap, and continues after it")
            )
        kernel = kernel_of(target.peer_command())
        if kernel is not None and ("exec" in items or "in_asm" in items) and forges(kernel):
            raise TargetError(
                f"symbols of {kernel} have line ends in their names, which QEMU writes to its log: the kernel could forge log lines",
                "boot it without symbols (strip -s), or trace with --engine step",
            )
        if accelerator(target.monitor("info kvm")) == "kvm":
            raise TargetError(f"{target.name} runs with KVM, where QEMU does not see instructions", "start QEMU with -accel tcg")

    def __enter__(self) -> LogSwitch:
        try:
            self._folder = tempfile.mkdtemp(prefix="pvhdbg-")
            path = os.path.join(self._folder, "log")
            os.mkfifo(path, 0o600)
            self._aside = os.pipe()
            self._reader = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # smaller ones are sufficient
                fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _PIPE)
                fcntl.fcntl(self._aside[1], fcntl.F_SETPIPE_SZ, _PIPE)
            self._on = True  # before the commands: an interrupt meanwhile must switch it off
            if self._mode and not self.left_on:
                self._tell(f"{self._mode} on")
            self._tell(f"logfile {_quoted(path)}")
            self._tell(f"log {self._items}")
            self._unlink()  # QEMU has it open: nothing stays on disk even when we are killed
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _tell(self, command: str) -> None:
        said = self._target.monitor(command).strip()
        if said:
            raise TargetError(
                f"QEMU does not take `{command.split()[0]}`: {shorten(safe(said), 160)}",
                "the log engine needs QEMU on this machine, with write access to pvhdbg's FIFO; --engine step does not need it",
            )

    def items(self, items: str | None = None) -> None:
        """Log these items instead for now; None for the original ones. The machine must be stopped."""
        self._tell(f"log {self._items if items is None else items}")

    def read(self, patience: float) -> bytes:
        """The log that QEMU has written; empty after `patience` seconds without any."""
        # QEMU writes line by line. A reader that waits in the kernel is woken by each line, and the writer pays for that.
        until = time.monotonic() + patience
        while not (waiting := self._waiting()):
            if time.monotonic() >= until:
                return b""
            time.sleep(_GATHER)
        if waiting < _ENOUGH and patience:
            time.sleep(_GATHER)
        return self._taken()

    def _taken(self) -> bytes:
        """All that is in the FIFO. Its pages are moved aside first: while they are copied from the FIFO itself, QEMU has to wait."""
        inlet, outlet = self._aside
        try:
            left = os.splice(self._reader, outlet, _PIPE)
        except BlockingIOError:
            return b""
        pieces = []
        while left:
            pieces.append(os.read(inlet, left))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def _waiting(self) -> int:
        """Bytes in the FIFO."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4)))
        return int(count)

    def rest(self) -> bytes:
        """The log that is still in the FIFO of a stopped machine."""
        pieces = []
        while data := self.read(0):
            pieces.append(data)
        return b"".join(pieces)

    @contextlib.contextmanager
    def drained(self) -> Iterator[list[bytes]]:
        """Reads the log meanwhile, and yields the pieces. QEMU: a CPU that waits for room in the FIFO cannot be stopped."""
        pieces: list[bytes] = []
        done = threading.Event()

        def drain() -> None:
            size = 0
            while not done.is_set():
                data = self.read(_GATHER)
                size += len(data)
                if data and size <= _DRAIN:
                    pieces.append(data)

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        try:
            yield pieces
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        """Switch it off again and remove the FIFO. Safe to call twice, and when QEMU is gone."""
        with putting_back("QEMU's log and its one-instruction mode"):
            if self._on:
                self._on = False
                self._switch_off()
            for end in (self._reader, *self._aside):
                if end >= 0:
                    os.close(end)
            self._reader, self._aside = -1, ()
            self._unlink()

    def _switch_off(self) -> None:
        """Stop the machine first, if an interrupt has prevented that."""
        with self.drained():
            with contextlib.suppress(TargetError):
                self._target.interrupt()
            _give(self._target, self._mode, self._theirs)

    def _unlink(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""


def single_step_mode(target: Target) -> str:
    """The monitor's name of QEMU's one-instruction mode. Raises TargetError where it has none."""
    for command in _SINGLE:
        if "unknown command" not in target.monitor(f"help {command}"):
            return command
    raise TargetError(f"{target.name} has no one-instruction mode", "the log engine needs QEMU 6.2 or newer, with TCG")


def _give(target: Target, mode: str | None, theirs: tuple[str, str] | None) -> None:
    """The commands that switch all of it off, and the user's own log on again: each by itself."""
    commands = ["log none", f"logfile {_DEFAULT_LOG}"]
    if mode:
        commands.insert(0, f"{mode} off")
    if theirs is not None:  # QEMU appends to a file that it opens again
        commands += [f"logfile {theirs[1]}", f"log {theirs[0]}"]
    for command in commands:
        with contextlib.suppress(TargetError):
            target.monitor(command)


def switch_off(target: Target, *, single: bool) -> None:
    """Restore the log, and with `single` the one-instruction mode, of a machine that a killed tracer left. Raises TargetError."""
    _give(target, single_step_mode(target) if single else None, _own_log(target))


def single_step_mode_on(target: Target) -> str | None:
    """QEMU's name of its one-instruction mode if that is on. Raises TargetError."""
    return next((command for command in _SINGLE if _is_on(target, command)), None)


def left_behind(target: Target) -> SafeText | None:
    """A sentence about the mode that a killed tracer left on in QEMU, and how to restore it; None for none. Raises TargetError."""
    if not target.capabilities.monitor or single_step_mode_on(target) is None:
        return None
    return safe(f"QEMU is in its slow one-instruction mode, which a killed tracer leaves on. "
                f"Restore it with: pvhdbg release {shlex.quote(target.name)}")  # fmt: skip


def _is_on(target: Target, command: str) -> bool:
    if command == "singlestep":
        return "single step mode" in target.monitor("info status")
    return "one-insn-per-tb: on" in target.monitor("info jit")


def _own_log(target: Target) -> tuple[str, str] | None:
    """The log items of a QEMU that was started with -d, and its log file (quoted); None where there are none, or not known."""
    command = target.peer_command()
    options = {name: value for name, value in pairwise(command) if name.lstrip("-") in ("d", "D") and name.startswith("-")}
    items = next((value for name, value in options.items() if name.lstrip("-") == "d"), None)
    if items is None or not _ITEMS.fullmatch(items):
        return None
    path = next((value for name, value in options.items() if name.lstrip("-") == "D"), _DEFAULT_LOG)
    return items, _quoted(path)  # a relative path is relative to QEMU's folder


def _quoted(path: str) -> str:
    if any(not letter.isprintable() for letter in path):
        raise TargetError(f"the path {path!r} cannot be given to QEMU's monitor", "set TMPDIR to an ordinary folder")
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
