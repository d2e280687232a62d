"""A recording on disk, of a running or an ended QEMU: read on demand, and never mapped."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pvhdbg.errors import BadInput
from pvhdbg.kernel.file_bytes import FileBytes
from pvhdbg.tracing.boot_file import BEGINNING, BootInfo, decode
from pvhdbg.tracing.recorded_numbers import BadRecording
from pvhdbg.tracing.recording import Recording


@contextmanager
def open_recording(path: str | os.PathLike[str]) -> Iterator[Recording]:
    """The recorder's own file, open for the context. Raises BadInput for a file that is not one."""
    name = os.fspath(path)
    with open_bytes(name, todo := "give a file that the recorder wrote") as data:
        try:
            recording = Recording(data)
        except BadRecording as error:
            raise BadInput(f"{name} is not a recording: {error}", todo) from error
        yield recording


def is_boot(path: str) -> bool:
    """Whether a file begins as a saved boot does, of whatever version."""
    try:
        with open_bytes(path, "") as data:
            return bytes(data[: len(BEGINNING)]) == BEGINNING
    except BadInput:
        return False


def read_boot(path: str) -> tuple[BootInfo, Recording]:
    """A saved boot, whole in memory. Raises BadInput for a file that is not one."""
    with open_bytes(path, todo := "give a file that `pvhdbg boot -o` wrote") as data:
        try:
            return decode(data)
        except BadRecording as error:
            raise BadInput(f"{path} is not a saved boot: {error}", todo) from error


@contextmanager
def open_bytes(path: str, todo: str) -> Iterator[FileBytes]:
    """The bytes of a regular file; anything else, a FIFO say, has no bytes.

    Raises BadInput with `todo` where it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", todo) from error
    about = os.fstat(descriptor)
    data = FileBytes(descriptor, path, about.st_size if stat.S_ISREG(about.st_mode) else 0)
    try:
        yield data
    finally:
        data.close()
