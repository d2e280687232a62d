"""The recorder's shared object: the one in the wheel, or one that the system's C compiler builds once and that is cached.

One object serves the plugin APIs of QEMU 7.2 to 11: it chooses its version when QEMU loads it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from pvhdbg.decode.text import safe, shorten
from pvhdbg.errors import PvhdbgError
from pvhdbg.kernel.symbol_cache import need_own
from pvhdbg.tracing.recorder.flags import FLAGS

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorder.c")
_PREBUILT = os.path.join(os.path.dirname(_SOURCE), "recorder-x86_64.so")
_COMPILE = 60.0  # seconds; usual is 0.3
_LINE = 200  # characters of the compiler's message that are shown


_ROOM = 80 << 20  # bytes: the most that a recording of one CPU occupies


class NoRecorder(PvhdbgError):
    """The recorder is not available. Other engines then observe instead."""

    exit_code = 3


def library(progress: Callable[[str], None] = lambda _: None) -> str:
    """The path of the shared object for this machine; built now if need be. Raises NoRecorder with what is missing."""
    need_room(tempfile.gettempdir())
    if (path := prebuilt()) is not None:
        return path
    try:
        with open(_SOURCE, "rb") as file:
            source = file.read()
    except OSError as error:
        raise NoRecorder(f"the recorder's source cannot be read: {error.strerror}", "install pvhdbg again") from error
    digest = hashlib.sha256(source + " ".join((platform.machine(), *FLAGS)).encode()).hexdigest()[:32]
    try:
        place = folder()
        path = os.path.join(place, f"recorder-{digest}.so")
        if not os.path.exists(path):
            progress("building the recorder, once")
            _build(path)
    except OSError as error:
        raise NoRecorder(
            f"the recorder cannot be cached: {error.strerror}", "set XDG_CACHE_HOME to a folder that only you can write to"
        ) from error
    return path


def prebuilt() -> str | None:
    """The path of the shared object that came with the package; None where it has none for this machine."""
    return _PREBUILT if platform.machine() == "x86_64" and os.path.isfile(_PREBUILT) else None


def need_room(place: str, wanted: int = _ROOM) -> None:
    """Raises NoRecorder if `place` has not as many free bytes: the recording is mapped, and a full disk would kill QEMU."""
    try:
        about = os.statvfs(place)
    except OSError as error:
        raise NoRecorder(f"{place} cannot be used: {error.strerror}", "set TMPDIR to a folder that can be written to") from error
    free = about.f_bavail * about.f_frsize
    if free < wanted:
        raise NoRecorder(
            f"a recording needs {wanted >> 20:,} MB, and {place} has {free >> 20:,} MB left",
            "make room, or set TMPDIR to another disk",
        )


def folder() -> str:
    """$XDG_CACHE_HOME/pvhdbg/recorder, made if need be. Raises OSError, also where other users may write to it."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # the specification says to ignore others
        base = os.path.join(os.path.expanduser("~"), ".cache")
    place = os.path.join(base, "pvhdbg", "recorder")
    os.makedirs(place, 0o700, exist_ok=True)
    need_own(place)
    return place


def _build(path: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoRecorder("building the recorder needs a C compiler", "install one (Debian: gcc and libc6-dev)")
    handle, partial = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".partial")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, "-o", partial, _SOURCE]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_COMPILE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoRecorder(f"{compiler} does not build the recorder: {error}", "see what is wrong with it") from error
        if done.returncode:
            first = next((line for line in done.stderr.split(b"\n") if b"error" in line), done.stderr.split(b"\n")[0])
            raise NoRecorder(
                f"{compiler} does not build the recorder: {shorten(safe(first), _LINE)}", f"see all of it: {' '.join(command)}"
            )
        os.chmod(partial, 0o500)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
